"""Doors that are opened from afar: by the phone of somebody who stands there, and by staff."""

from uuid import UUID

from servicekit.database import Transaction
from services.access import deciding_operations, door_store
from services.access.deciding_operations import Opening
from services.access.door_operations import door_unknown, find_way, get_door, terminal_unknown
from services.access.doors import Direction


async def open_my_door(tx: Transaction, door_id: UUID) -> Opening:
    """Opens a door that the caller stands at, with their phone.

    Raises NotFound for a door that never lets them in, and Conflict for one that does not now.
    """
    if door_id not in await find_way(tx, tx.caller.account_id):
        raise door_unknown()
    return await deciding_operations.open_by_phone(tx, await _entrance(tx, door_id, ""), tx.caller.account_id)


async def open_door(tx: Transaction, door_id: UUID, device_id: str, reason: str) -> Opening:
    """Opens a door from afar, at the terminal that is named or the one that lets in; the reason is kept. Raises NotFound."""
    await get_door(tx, door_id)
    return await deciding_operations.open_from_afar(tx, await _entrance(tx, door_id, device_id), tx.caller.account_id, reason)


async def _entrance(tx: Transaction, door_id: UUID, device_id: str) -> str:
    """The terminal of a door that is named, or the first that lets in."""
    terminals = [
        terminal.device_id
        for terminal in await door_store.list_terminals_at(tx, [door_id])
        if terminal.device_id == device_id or (not device_id and terminal.direction is Direction.IN)
    ]
    if not terminals:
        raise terminal_unknown()
    return terminals[0]
