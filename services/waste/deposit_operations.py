"""What happens with deposits: those that wait are judged and kept together; a person settles or takes back single ones."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

from linli.waste.v1.events_pb2 import Category as CategoryMessage
from linli.waste.v1.events_pb2 import DepositCounted, DepositWithdrawn
from servicekit.communities import DEFAULT_ZONE
from servicekit.database import Transaction
from servicekit.errors import Conflict, FieldViolation, Invalid, NotFound, Unavailable
from servicekit.households import find_residents
from servicekit.identifiers import derived_id
from servicekit.times import to_timestamp
from services.waste import bin_operations, clocks, deposit_store, resident_store, store
from services.waste.bin_operations import Announcement, Told, announce
from services.waste.bins import Bin, Category, fill_of
from services.waste.clocks import Dating
from services.waste.codes import CodeSigner
from services.waste.deposit_store import DayOfResident, Deposit, MonthOfBuilding, Record, month_of
from services.waste.deposits import APPROACH, CONTAMINATION, NOBODY, SLACK, Concern, Depositor, State, Verdict, approached, holder, judge
from services.waste.figures import Weights, weigh

CATEGORY_MESSAGE: Final = {
    Category.RECYCLABLE: CategoryMessage.CATEGORY_RECYCLABLE,
    Category.KITCHEN: CategoryMessage.CATEGORY_KITCHEN,
    Category.HAZARDOUS: CategoryMessage.CATEGORY_HAZARDOUS,
    Category.OTHER: CategoryMessage.CATEGORY_OTHER,
}
_DAY: Final = timedelta(days=1)
# Of which digest repetitions and reused ids are told apart.
_DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Weighed:
    """What a bin sent, as it said it; long texts are shortened and none holds a NUL. `said_us` is its clock's time, None without one."""

    community_id: UUID
    device_id: str
    record_id: str
    card_number: str
    code: str
    compartment: str
    grams: int
    fill_permille: int
    said_us: int | None
    received_at: datetime

    @property
    def record(self) -> tuple[str, str, str]:
        """What is the same each time that it is sent."""
        return str(self.community_id), self.device_id, self.record_id

    @property
    def content(self) -> bytes:
        """A digest of all that the bin said."""
        said = (self.card_number, self.code, self.compartment, self.grams, self.fill_permille, self.said_us)
        return hashlib.blake2b(repr(said).encode(), digest_size=_DIGEST_BYTES).digest()


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A deposit that is not known yet, with its bin, its date and its depositor as far as they are found."""

    deposit_id: UUID
    weighed: Weighed
    content: bytes
    is_id_reused: bool
    dating: Dating
    bin: Bin | None = None
    depositor: Depositor = NOBODY

    @property
    def at(self) -> datetime:
        return self.dating.at

    @property
    def zone(self) -> ZoneInfo:
        return self.bin.time_zone if self.bin is not None else DEFAULT_ZONE

    @property
    def day(self) -> date:
        """In the community's time."""
        return self.at.astimezone(self.zone).date()

    @property
    def month(self) -> date:
        """The first day of it."""
        return self.day.replace(day=1)


async def take_deposits(tx: Transaction, arrived: Sequence[Weighed]) -> None:
    """Judges and keeps what bins sent, of all communities together. A repetition of what is known changes nothing.

    Deposits of one bin are judged one after the other, because its row is locked. Nothing that a bin can say raises an error.
    """
    bins = await store.lock_bins_of_devices(tx, {(weighed.community_id, weighed.device_id) for weighed in arrived})
    fresh = await _unknown(tx, arrived)
    fresh = [replace(each, bin=bins.get((each.weighed.community_id, each.weighed.device_id))) for each in fresh]
    fresh = await _dated(tx, fresh)
    fresh = await _named(tx, fresh)
    deposits = await _judged(tx, fresh)
    if await deposit_store.insert_deposits(tx, [(deposit, _record(each)) for deposit, each in deposits]) < len(deposits):
        # Another process was faster with one of no bin, which nobody can lock. All of it again, now that it is known.
        raise Unavailable("waste.busy", "系统繁忙，请稍后再试", "Busy; please try again", retry_after_s=1)
    await _add_weights(tx, deposits)
    announcements = await _hear_bins(tx, deposits)
    announcements += [
        _counted(deposit, each.weighed.community_id)
        for deposit, each in deposits
        if deposit.state is State.COUNTED and deposit.account_id is not None
    ]
    announce(tx, announcements)


async def _unknown(tx: Transaction, arrived: Sequence[Weighed]) -> list[_Fresh]:
    """Those of which nothing is known yet. What says something else under a known id goes by an id of its own."""
    keyed = [(derived_id("deposit", *weighed.record), weighed.content, weighed) for weighed in arrived]
    known = await deposit_store.find_contents(tx, [deposit_id for deposit_id, _, _ in keyed])
    fresh: list[_Fresh] = []
    reused: dict[UUID, _Fresh] = {}
    for deposit_id, content, weighed in keyed:
        if deposit_id not in known:
            known[deposit_id] = content
            fresh.append(_Fresh(deposit_id, weighed, content, False, Dating(weighed.received_at)))
        elif known[deposit_id] != content:
            other_id = derived_id("id_reused", content.hex(), *weighed.record)
            reused.setdefault(other_id, _Fresh(other_id, weighed, content, True, Dating(weighed.received_at)))
    known_reused = await deposit_store.find_contents(tx, reused) if reused else {}
    return fresh + [each for other_id, each in reused.items() if other_id not in known_reused]


async def _dated(tx: Transaction, fresh: Sequence[_Fresh]) -> list[_Fresh]:
    said: dict[UUID, list[int]] = defaultdict(list)
    for each in fresh:
        if each.bin is not None and each.weighed.said_us is not None:
            said[each.bin.bin_id].append(each.weighed.said_us)
    stretches = await store.find_stretches(tx, said) if said else {}
    return [
        replace(
            each,
            dating=clocks.date(each.weighed.said_us, each.weighed.received_at, stretches.get(each.bin.bin_id, ()) if each.bin else ()),
        )
        for each in fresh
    ]


async def _named(tx: Transaction, fresh: Sequence[_Fresh]) -> list[_Fresh]:
    """Whose each is: by card, by code, or because somebody said that they stand there; only residents are named.

    Why a card names nobody is not told: one of another community cannot be told from one that does not exist.
    """
    signer = tx.resource(CodeSigner)
    cards = {(each.weighed.community_id, each.weighed.card_number) for each in fresh if each.weighed.card_number}
    holdings = await resident_store.find_holdings(tx, cards) if cards else {}
    asked = {
        (each.bin.bin_id, each.at - APPROACH, each.at + SLACK)
        for each in fresh
        if each.bin is not None and not each.weighed.card_number and not each.weighed.code
    }
    approaches = await resident_store.find_approaches(tx, asked) if asked else {}
    found: list[tuple[UUID | None, Concern]] = []
    for each in fresh:
        community_id, card, code = each.weighed.community_id, each.weighed.card_number, each.weighed.code
        if each.bin is None or each.is_id_reused:
            found.append((None, Concern.NONE))
        elif card:
            found.append((holder(holdings.get((community_id, card), ()), each.at), Concern.CARD_UNKNOWN))
        elif code:
            found.append((signer.read(code, community_id, each.at), Concern.CODE_INVALID))
        else:
            found.append((approached(approaches.get(each.bin.bin_id, ()), each.at), Concern.NONE))
    named = {account_id for account_id, _ in found if account_id is not None}
    residents = await find_residents(tx, named) if named else {}
    return [
        replace(each, depositor=Depositor(account_id) if (each.weighed.community_id, account_id) in residents else Depositor(None, concern))
        for each, (account_id, concern) in zip(fresh, found, strict=True)
    ]


async def _judged(tx: Transaction, fresh: Sequence[_Fresh]) -> list[tuple[Deposit, _Fresh]]:
    days = list({_day(each, account_id) for each in fresh if (account_id := each.depositor.account_id) is not None})
    sums = dict(zip(days, await deposit_store.sum_counted(tx, days), strict=True)) if days else {}
    judged: list[tuple[Deposit, _Fresh]] = []
    for each in fresh:
        weighed, account_id = each.weighed, each.depositor.account_id
        verdict = judge(
            weighed.grams,
            each.bin,
            weighed.compartment,
            each.depositor,
            of_the_day_grams=sums[_day(each, account_id)] if account_id is not None else 0,
            is_id_reused=each.is_id_reused,
            is_date_wrong=each.dating.is_wrong,
        )
        if verdict.state is State.COUNTED and account_id is not None:
            sums[_day(each, account_id)] += weighed.grams
        judged.append((_deposit(each, verdict), each))
    return judged


def _day(each: _Fresh, account_id: UUID) -> DayOfResident:
    since, until = (datetime.combine(day, time_of_day(), each.zone) for day in (each.day, each.day + _DAY))
    return DayOfResident(each.weighed.community_id, account_id, since, until)


def _deposit(each: _Fresh, verdict: Verdict) -> Deposit:
    return Deposit(
        deposit_id=each.deposit_id,
        bin_id=each.bin.bin_id if each.bin is not None else None,
        compartment=each.weighed.compartment,
        category=verdict.category,
        grams=each.weighed.grams,
        account_id=each.depositor.account_id,
        state=verdict.state,
        concern=verdict.concern,
        revision=1 if verdict.state is State.COUNTED else 0,
        occurred_at=each.at,
        received_at=each.weighed.received_at,
    )


def _record(each: _Fresh) -> Record:
    weighed = each.weighed
    fill_permille = weighed.fill_permille if weighed.fill_permille >= 0 else None
    return Record(
        weighed.community_id,
        weighed.device_id,
        weighed.record_id,
        each.content,
        fill_permille,
        weighed.card_number,
        weighed.said_us,
        each.month,
    )


async def _add_weights(tx: Transaction, deposits: Sequence[tuple[Deposit, _Fresh]]) -> None:
    added: dict[MonthOfBuilding, Weights] = defaultdict(Weights)
    for deposit, each in deposits:
        if deposit.state is State.COUNTED and deposit.category is not None and each.bin is not None:
            added[MonthOfBuilding(each.weighed.community_id, each.month, each.bin.building_id)] += weigh(deposit.category, deposit.grams)
    await deposit_store.add_weights(tx, added)


async def _hear_bins(tx: Transaction, deposits: Sequence[tuple[Deposit, _Fresh]]) -> list[Announcement]:
    """What deposits tell of their bins: that they live, and how full they are.

    That is not believed of a record that reuses an id, nor of one that may be of any time.
    """
    by_bin: dict[UUID, list[_Fresh]] = defaultdict(list)
    for _, each in deposits:
        if each.bin is not None and not each.is_id_reused:
            by_bin[each.bin.bin_id].append(each)
    told: list[tuple[Bin, Told]] = []
    for its in by_bin.values():
        fills = [fill_of(each.weighed.compartment, each.at, each.weighed.fill_permille) for each in its if not each.dating.is_wrong]
        heard_at = max(each.weighed.received_at for each in its)
        assert its[0].bin is not None
        told.append((its[0].bin, Told(heard_at, [each for each in fills if each is not None])))
    return await bin_operations.hear(tx, told)


def _counted(deposit: Deposit, community_id: UUID) -> Announcement:
    assert deposit.category is not None
    event = DepositCounted(
        deposit_id=str(deposit.deposit_id),
        revision=deposit.revision,
        account_id=str(deposit.account_id),
        category=CATEGORY_MESSAGE[deposit.category],
        grams=deposit.grams,
        occurred_at=to_timestamp(deposit.occurred_at),
    )
    # Counted, withdrawn, counted again: each is one version further.
    return Announcement(community_id, event, 2 * deposit.revision - 1, deposit.occurred_at)


# What a person makes of a deposit.


async def review_deposit(tx: Transaction, deposit_id: UUID, *, accept: bool, category: Category | None, note: str) -> Deposit:
    """Settles a deposit that waits for it.

    Raises NotFound, Conflict when it does not wait, and Invalid when the category is not told, or is not the compartment's.
    """
    deposit = await _find(tx, deposit_id)
    if deposit.state is not State.IN_REVIEW:
        raise Conflict("waste.deposit_settled", "该投放已处理", "This deposit does not wait for a review")
    if not accept:
        return await _settle(tx, replace(deposit, state=State.REFUSED, note=note), Weights())
    if deposit.category is None and category is None:
        field = FieldViolation("category", "waste.category_needed", "must be told, because the compartment is not known")
        raise Invalid("waste.category_needed", "请选择垃圾类别", "Say which category it is", fields=[field])
    if deposit.category is not None and category not in (None, deposit.category):
        field = FieldViolation("category", "waste.category_known", "must be the compartment's, or not told")
        raise Invalid("waste.category_known", "该投口的类别已确定", "The compartment's category is known", fields=[field])
    accepted = replace(deposit, state=State.COUNTED, concern=Concern.NONE, category=deposit.category or category, revision=1, note=note)
    return await _settle(tx, accepted, _plain(accepted))


async def report_contamination(tx: Transaction, deposit_id: UUID, note: str) -> Deposit:
    """Takes back a deposit that counts, for seven days. Raises NotFound, and Conflict when it does not count or is older."""
    deposit = await _find(tx, deposit_id)
    if deposit.state is not State.COUNTED:
        raise Conflict("waste.deposit_not_counted", "该投放未计入，无需上报", "This deposit does not count")
    if tx.now - deposit.occurred_at > CONTAMINATION:
        raise Conflict("waste.deposit_too_old", "投放已超过7天，不能再上报混投", "Contamination can be reported for seven days")
    return await _settle(tx, replace(deposit, state=State.CONTAMINATED, note=note), _mixed(deposit) + -_plain(deposit))


async def withdraw_contamination(tx: Transaction, deposit_id: UUID, note: str) -> Deposit:
    """Lets a contaminated deposit count again. Raises NotFound, and Conflict when it is not contaminated."""
    deposit = await _find(tx, deposit_id)
    if deposit.state is not State.CONTAMINATED:
        raise Conflict("waste.deposit_not_contaminated", "该投放没有混投记录", "This deposit was not reported as contaminated")
    counted = replace(deposit, state=State.COUNTED, revision=deposit.revision + 1, note=note)
    return await _settle(tx, counted, _plain(deposit) + -_mixed(deposit))


async def _find(tx: Transaction, deposit_id: UUID) -> Deposit:
    deposit = await deposit_store.lock_deposit(tx, deposit_id)
    if deposit is None:
        raise NotFound("waste.deposit_unknown", "没有找到该投放记录", "There is no such deposit")
    return deposit


def _plain(deposit: Deposit) -> Weights:
    assert deposit.category is not None
    return weigh(deposit.category, deposit.grams)


def _mixed(deposit: Deposit) -> Weights:
    assert deposit.category is not None
    return weigh(deposit.category, deposit.grams, is_contaminated=True)


async def _settle(tx: Transaction, changed: Deposit, added: Weights) -> Deposit:
    """Writes a deposit, adds to what its month and building weighed, and tells whoever awards for it."""
    await deposit_store.update_deposit(tx, changed, tx.caller.account_id)
    if added != Weights():
        await deposit_store.add_weights(tx, {await month_of(tx, changed.deposit_id): added})
    if changed.account_id is not None and changed.state is State.COUNTED:
        announce(tx, [_counted(changed, tx.community_id)])
    if changed.account_id is not None and changed.state is State.CONTAMINATED:
        tx.publish(
            DepositWithdrawn(
                deposit_id=str(changed.deposit_id),
                revision=changed.revision,
                account_id=str(changed.account_id),
                reason=DepositWithdrawn.REASON_CONTAMINATED,
            ),
            version=2 * changed.revision,
        )
    return changed
