"""The registers that people keep: bins and cards; how residents identify themselves to a bin; and the figures.

What bins tell is in `bin_operations.py`, deposits in `deposit_operations.py`, collections in `collection_operations.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from uuid import UUID

from servicekit.database import Transaction
from servicekit.errors import Conflict, FieldViolation, Invalid, NotFound
from servicekit.households import is_resident
from servicekit.identifiers import new_id
from servicekit.times import to_day
from services.waste import deposit_store, resident_store, store
from services.waste.bin_operations import bin_unknown, end_alarms, find_silence
from services.waste.bins import Bin, Compartment, Place
from services.waste.codes import LIFE, CodeSigner
from services.waste.deposits import APPROACH, Approach
from services.waste.figures import MONTHS_MAX, MonthWeights, months
from services.waste.resident_store import Card


async def create_bin(
    tx: Transaction, name: str, device_id: str, building_id: UUID | None, place: Place, compartments: Sequence[Compartment]
) -> Bin:
    """Enters a bin. Raises Invalid when two compartments have one name, and Conflict when another bin has its name or its device."""
    if len({each.name for each in compartments}) < len(compartments):
        field = FieldViolation("compartments", "waste.compartments_alike", "must have different names")
        raise Invalid("waste.compartments_alike", "投口名称不能重复", "Two compartments have the same name", fields=[field])
    bin_id = new_id()
    if not await store.insert_bin(tx, bin_id, name, device_id, building_id, place, compartments):
        raise Conflict("waste.bin_exists", "已有同名或同设备的垃圾箱", "There is a bin of this name, or with this device")
    return await get_bin(tx, bin_id)


async def update_bin(tx: Transaction, bin_id: UUID, *, name: str | None, place: Place | None, in_use: bool | None) -> Bin:
    """Changes what is given; a bin that is taken out of use needs nobody any more.

    Raises NotFound, and Conflict for a name that is taken.
    """
    found = await store.find_bin(tx, bin_id, lock=True)
    if found is None:
        raise bin_unknown()
    changed = replace(found, name=name or found.name, place=place or found.place, in_use=found.in_use if in_use is None else in_use)
    if not await store.update_bin(tx, changed):
        raise Conflict("waste.bin_exists", "已有同名的垃圾箱", "There is a bin of this name")
    if changed.in_use:
        await find_silence(tx, changed)
    else:
        await end_alarms(tx, found)
    return await get_bin(tx, bin_id)


async def get_bin(tx: Transaction, bin_id: UUID) -> Bin:
    """A bin. Raises NotFound."""
    found = await store.find_bin(tx, bin_id)
    if found is None:
        raise bin_unknown()
    return found


# Who residents are to a bin.


async def register_card(tx: Transaction, card_number: str, account_id: UUID) -> Card:
    """Gives a resident a card. Raises NotFound for an account that lives nowhere here, and Conflict for a card that is in use."""
    if not await is_resident(tx, account_id):
        raise NotFound("waste.resident_unknown", "没有找到该住户", "There is no such resident")
    card = Card(new_id(), normal_card_number(card_number), account_id, tx.now)
    if not await resident_store.insert_card(tx, card, tx.caller.account_id):
        raise Conflict("waste.card_in_use", "该卡号已在使用", "This card is in use")
    return card


def normal_card_number(card_number: str) -> str:
    """A card's number as it is stored: readers differ in how they write hexadecimal digits."""
    return card_number.strip().upper()


async def revoke_card(tx: Transaction, card_id: UUID) -> None:
    """Takes a card out of use from now on; what was deposited with it before still counts. Raises NotFound."""
    if not await resident_store.revoke_card(tx, card_id, tx.now):
        raise NotFound("waste.card_unknown", "没有找到该卡", "There is no such card")


@dataclass(frozen=True, slots=True)
class IdentificationCode:
    """What a resident's phone shows to a bin, and until when."""

    code: str
    expires_at: datetime


async def create_identification_code(tx: Transaction) -> IdentificationCode:
    """A code of the caller's. Raises Conflict for who lives nowhere here."""
    await _check_resident(tx)
    expires_at = (tx.now + LIFE).replace(microsecond=0)
    return IdentificationCode(tx.resource(CodeSigner).sign(tx.community_id, tx.caller.account_id, expires_at), expires_at)


async def approach_bin(tx: Transaction, bin_id: UUID) -> datetime:
    """Notes that the caller stands at a bin. Returns until when what it weighs is theirs.

    Raises NotFound, and Conflict for a bin that is out of use and for who lives nowhere here.
    """
    found = await get_bin(tx, bin_id)
    if not found.in_use:
        raise Conflict("waste.bin_out_of_use", "该垃圾箱已停用", "This bin is out of use")
    await _check_resident(tx)
    await resident_store.insert_approach(tx, bin_id, Approach(tx.caller.account_id, tx.now))
    return tx.now + APPROACH


async def _check_resident(tx: Transaction) -> None:
    if not await is_resident(tx, tx.caller.account_id):
        raise Conflict("waste.not_a_resident", "仅限本小区住户使用", "Only residents of this community can do this")


# What deposits weighed.


async def list_weights(tx: Transaction, from_month: str, until_month: str) -> tuple[list[date], list[MonthWeights]]:
    """The months asked for, and what was deposited in them, by building.

    Raises Invalid for months that are none, are in no order, or too many.
    """
    first, last = to_day(f"{from_month}-01", "from_month"), to_day(f"{until_month}-01", "until_month")
    if last < first:
        field = FieldViolation("until_month", "waste.months_inverted", "must not be before from_month")
        raise Invalid("waste.months_inverted", "结束月份不能早于开始月份", "The last month is before the first", fields=[field])
    asked = months(first, last)
    if len(asked) > MONTHS_MAX:
        field = FieldViolation("until_month", "waste.too_many_months", f"must be less than {MONTHS_MAX} months after from_month")
        zh, en = f"一次最多查询 {MONTHS_MAX} 个月", f"Ask for at most {MONTHS_MAX} months"
        raise Invalid("waste.too_many_months", zh, en, fields=[field])
    return asked, await deposit_store.list_weights(tx, first, last)
