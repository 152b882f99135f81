"""Teams, technicians, and where things are. Who gets which order is in `dispatch_operations.py`."""

from uuid import UUID

from servicekit.database import Transaction
from servicekit.errors import Conflict, Denied, FieldViolation, Invalid, NotFound
from servicekit.identifiers import new_id
from servicekit.staff import list_staff
from services.workorders import technician_store
from services.workorders.dispatch import Position, Technician
from services.workorders.technician_store import Team


async def create_team(tx: Transaction, name: str, foreman_account_id: UUID | None) -> Team:
    """Adds a team. Raises Conflict when one has its name."""
    team = Team(new_id(), name, foreman_account_id)
    if not await technician_store.insert_team(tx, team):
        raise Conflict("workorders.team_exists", "已有同名班组", "There is a team of this name")
    return team


async def set_technician(tx: Transaction, technician: Technician) -> Technician:
    """Enters a technician, or changes everything about one. Raises NotFound for the team, and Invalid for a shift that is none."""
    for index, shift in enumerate(technician.shifts):
        if shift.from_minute >= shift.until_minute:
            field = FieldViolation(f"shifts[{index}].until_minute", "workorders.shift_empty", "must be after from_minute")
            raise Invalid("workorders.shift_empty", "班次结束须晚于开始", "A shift must end after it begins", fields=[field])
    if await technician_store.find_team(tx, technician.team_id) is None:
        raise NotFound("workorders.team_unknown", "没有找到该班组", "There is no such team")
    await technician_store.save_technician(tx, technician)
    return await get_technician(tx, technician.account_id)


async def get_technician(tx: Transaction, account_id: UUID) -> Technician:
    """Raises NotFound."""
    technician = await technician_store.find_technician(tx, account_id)
    if technician is None:
        raise NotFound("workorders.technician_unknown", "没有找到该维修人员", "There is no such technician")
    return technician


async def list_foremen(tx: Transaction, team_id: UUID | None) -> list[UUID]:
    """Who leads a team; without a team, or one that nobody leads, all foremen of the community."""
    team = None if team_id is None else await technician_store.find_team(tx, team_id)
    if team is not None and team.foreman_account_id is not None:
        return [team.foreman_account_id]
    return await list_staff(tx, "foreman")


async def report_position(tx: Transaction, position: Position) -> None:
    """Notes where the caller is. Raises Denied when the caller is no technician: nobody else's whereabouts are kept."""
    technician = await technician_store.find_technician(tx, tx.caller.account_id)
    if technician is None or not technician.in_use:
        raise Denied("workorders.not_a_technician", "您不是在册维修人员", "You are not entered as a technician")
    await technician_store.save_position(tx, technician.account_id, position)
