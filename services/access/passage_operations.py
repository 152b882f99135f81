"""Books what terminals' journals tell: passages, entries on passes, codes used up, who is inside; and what is wrong with any of that."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

import msgspec
from prometheus_client import Counter

from servicekit.database import Transaction
from servicekit.identifiers import derived_id, new_id
from services.access import alarm_operations, journal_store, pass_operations, passage_store
from services.access.alarms import Observation
from services.access.codes import NONCE_BYTES
from services.access.deciding import PRESENCE_HOLDS
from services.access.detection import NEXT_BUILDING, REFUSALS_WITHIN, Move, Spot, bursts, clones, corrected, follow
from services.access.doors import CredentialKind, Direction
from services.access.journal_store import TerminalAt
from services.access.passage_store import CodeUse, Outcome, Passage

# As much of a card's digest as tells cards of one person apart.
CARD_BYTES: Final = 8
# As long as a property company needs to answer what happened at a door; movements of people are kept no longer.
KEPT: Final = timedelta(days=180)
_CODES_KEPT: Final = timedelta(days=30)
# What sensors of a terminal find by themselves, and what it is as an alarm.
_FOUND: Final = {
    "forced": "door_forced",
    "held": "door_held",
    "tailgating": "tailgating",
    "tamper": "tamper",
    "fire_release": "fire_release",
}
_OUTCOMES: Final = {
    "granted": Outcome.OPENED,
    "opened": Outcome.OPENED,
    "refused": Outcome.REFUSED,
    "fire_release": Outcome.RELEASED,
}
_KINDS: Final = {kind.value: kind for kind in CredentialKind}

UNREADABLE = Counter("linli_access_records_unreadable_total", "Records of terminals' journals that say nothing that is known")


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record of a journal, as `docs/devices/doors.md` describes it. Others than these fields may be there."""

    kind: Annotated[str, msgspec.Meta(max_length=32)]
    at: Annotated[datetime, msgspec.Meta(tz=True)]
    presentation: Annotated[str, msgspec.Meta(max_length=200)] = ""
    command: UUID | None = None
    by: str = ""
    subject: UUID | None = None
    is_pass: bool = msgspec.field(name="pass", default=False)
    card: Annotated[str, msgspec.Meta(pattern="^([0-9A-Fa-f]{16})?$")] = ""
    nonce: Annotated[str, msgspec.Meta(pattern="^([0-9A-Fa-f]{24})?$")] = ""
    reason: Annotated[str, msgspec.Meta(pattern="^[a-z_]{0,50}$")] = ""
    # Whether the terminal decided alone.
    offline: bool = False


_DECODER: Final = msgspec.json.Decoder(Record, strict=False)


@dataclass(frozen=True, slots=True)
class Told:
    """Records of a journal that are new, one after the other. `clock_error` has to be added to the terminal's clock."""

    terminal: TerminalAt
    epoch: int
    first_sequence: int
    records: Sequence[bytes]
    clock_error: timedelta
    received_at: datetime


@dataclass(frozen=True, slots=True)
class _Happened:
    """A record that could be read, with when it happened and what tells it from others."""

    told: Told
    record: Record
    at: datetime
    key: str

    @property
    def terminal(self) -> TerminalAt:
        return self.told.terminal

    @property
    def spot(self) -> Spot:
        terminal = self.told.terminal
        return Spot(
            community_id=terminal.community_id,
            device_id=terminal.device_id,
            door_id=terminal.door_id,
            door_name=terminal.door_name,
            zone_id=terminal.zone_id,
            at=self.at,
            key=self.key,
        )


async def book(tx: Transaction, told: Sequence[Told]) -> None:
    """Books records of any communities, in the platform scope. What they tell, they tell for the first time."""
    happened = [each for part in told for each in _read(part, tx.now)]
    passing = _each_once([each for each in happened if each.record.kind in _OUTCOMES])
    if happened:
        let_in = [each for each in passing if each.record.kind == "granted" and each.record.subject is not None]
        opened_before = await _opened_before(tx, let_in)
        passages = await _passages(tx, passing)
        await passage_store.merge_told(tx, passages)
        await _count_entries(tx, [each for each in let_in if _key(each) not in opened_before])
        found = [observation(_FOUND[each.record.kind], each.spot) for each in happened if each.record.kind in _FOUND]
        found += await _misused_codes(tx, let_in)
        found += await _returns(tx, [each for each in let_in if each.terminal.minds_presence])
        found += await _cloned_cards(tx, passages)
        found += await _refusals(tx, [passage for passage in passages if passage.outcome is Outcome.REFUSED])
        await alarm_operations.observe(tx, found)


def _read(told: Told, now: datetime) -> Iterable[_Happened]:
    decode, error, received_at = _DECODER.decode, told.clock_error, min(told.received_at, now)
    for nth, text in enumerate(told.records):
        try:
            record = decode(text)
        except msgspec.DecodeError:
            UNREADABLE.inc()
            continue
        key = record.presentation or (str(record.command) if record.command else f"record {told.epoch} {told.first_sequence + nth}")
        if "\0" in key:
            UNREADABLE.inc()
            continue
        at = corrected(record.at, error, received_at)
        # A clock that was never set, and was before it could be compared with ours: what would be forgotten at once counts as of now.
        yield _Happened(told, record, received_at if at < received_at - KEPT else at, key)


def _key(each: _Happened) -> tuple[UUID, str, str]:
    return each.terminal.community_id, each.terminal.device_id, each.key


def _each_once(passing: Sequence[_Happened]) -> list[_Happened]:
    """The last word on each presentation; that the door opened is the last word."""
    last: dict[tuple[UUID, str, str], _Happened] = {}
    for each in passing:
        known = last.get(_key(each))
        if known is None or _OUTCOMES[known.record.kind] is not Outcome.OPENED or _OUTCOMES[each.record.kind] is Outcome.OPENED:
            last[_key(each)] = each
    return list(last.values())


async def _opened_before(tx: Transaction, let_in: Sequence[_Happened]) -> set[tuple[UUID, str, str]]:
    """Of visitors' passages those that were decided here before the terminal decided alone: they are counted."""
    return await passage_store.find_opened(tx, [_key(each) for each in let_in if each.record.is_pass])


async def _passages(tx: Transaction, passing: Sequence[_Happened]) -> list[Passage]:
    pass_ids = {each.record.subject for each in passing if each.record.is_pass and each.record.subject is not None}
    inviters = await journal_store.find_inviters(tx, pass_ids)
    passages = []
    for each in passing:
        record, terminal = each.record, each.terminal
        # Whom our own command let through we know ourselves.
        subject_id = None if record.kind == "opened" else record.subject
        account_id = None if record.is_pass else subject_id
        pass_id = subject_id if record.is_pass else None
        passages.append(
            Passage(
                passage_id=new_id(),
                community_id=terminal.community_id,
                door_id=terminal.door_id,
                device_id=terminal.device_id,
                direction=terminal.direction,
                presentation_id=each.key,
                outcome=_OUTCOMES[record.kind],
                reason=record.reason,
                kind=_KINDS.get(record.by),
                account_id=account_id,
                pass_id=pass_id,
                owner_id=account_id if pass_id is None else inviters.get(pass_id),
                occurred_at=each.at,
                offline=record.offline or record.kind == "granted",
                card=bytes.fromhex(record.card) if record.card and account_id is not None else None,
            )
        )
    return passages


async def _count_entries(tx: Transaction, let_in: Sequence[_Happened]) -> None:
    """Counts visitors' entries that terminals granted alone."""
    entered = [each for each in let_in if each.record.is_pass and each.terminal.direction is Direction.IN]
    if not entered:
        return
    scope = tx.scope
    # In one order, so that two transactions which count on the same passes do not wait for each other.
    for each in sorted(entered, key=lambda one: (one.terminal.community_id, str(one.record.subject))):
        await tx.enter(each.terminal.community_id)
        if each.record.subject is not None:
            await pass_operations.count_entry(tx, each.record.subject, each.terminal.door_id)
    await tx.enter(scope)


# What is wrong.


def observation(kind: str, spot: Spot) -> Observation:
    """What was found somewhere, for alarms."""
    return Observation(
        observation_id=derived_id(f"access.{kind}", str(spot.community_id), spot.device_id, spot.key),
        community_id=spot.community_id,
        kind=kind,
        source_id=spot.device_id,
        occurred_at=spot.at,
        place=spot.door_name,
        zone_id=spot.zone_id,
        door_id=spot.door_id,
    )


async def _misused_codes(tx: Transaction, let_in: Sequence[_Happened]) -> list[Observation]:
    """Codes that opened two doors, as they can while one of them is offline."""
    uses = {
        CodeUse(
            each.terminal.community_id,
            bytes.fromhex(each.record.nonce),
            each.terminal.door_id,
            each.terminal.device_id,
            each.key,
            each.at,
        ): each.spot
        for each in let_in
        if len(each.record.nonce) == 2 * NONCE_BYTES
    }
    return [observation("code_reused", uses[use]) for use in await passage_store.use_codes(tx, list(uses))]


async def _returns(tx: Transaction, let_in: Sequence[_Happened]) -> list[Observation]:
    """People who came in twice without having left, where a door minds."""
    moves = [
        Move(each.spot, each.record.subject, each.terminal.direction, each.terminal.anti_passback)
        for each in let_in
        if each.record.subject is not None
    ]
    before = await passage_store.find_presences(tx, {(move.spot.zone_id, move.subject_id) for move in moves})
    after, found = follow(before, moves)
    await passage_store.write_presences(tx, {move.spot.zone_id: move.spot.community_id for move in moves}, after)
    return [observation("passback", move.spot) for move in found]


async def _cloned_cards(tx: Transaction, passages: Sequence[Passage]) -> list[Observation]:
    shown = [each for each in passages if each.card is not None and each.outcome is Outcome.OPENED and each.direction is Direction.IN]
    return [observation("card_cloned", later.spot) for _, later in clones(await passage_store.find_uses(tx, shown, NEXT_BUILDING))]


async def _refusals(tx: Transaction, refused: Sequence[Passage]) -> list[Observation]:
    """Terminals that refused many in a minute, the last of them only now heard of."""
    newly: dict[tuple[UUID, str], list[Passage]] = {}
    for passage in refused:
        newly.setdefault((passage.community_id, passage.device_id), []).append(passage)
    asked = [(*key, min(_times(its)) - REFUSALS_WITHIN, max(_times(its)) + REFUSALS_WITHIN) for key, its in newly.items()]
    found = []
    for key, times in (await passage_store.find_refusals(tx, asked)).items():
        heard = {passage.occurred_at: passage for passage in newly[key]}
        found += [heard[at] for at in bursts(times) if at in heard]
    terminals = await journal_store.find_terminals(tx, {(passage.community_id, passage.device_id) for passage in found})
    return [observation("too_many_refusals", _spot(passage, terminals[passage.community_id, passage.device_id])) for passage in found]


def _times(passages: Iterable[Passage]) -> list[datetime]:
    return [passage.occurred_at for passage in passages]


def _spot(passage: Passage, terminal: TerminalAt) -> Spot:
    return Spot(
        community_id=passage.community_id,
        device_id=passage.device_id,
        door_id=passage.door_id,
        door_name=terminal.door_name,
        zone_id=terminal.zone_id,
        at=passage.occurred_at,
        key=passage.presentation_id,
    )


async def forget_old(tx: Transaction) -> None:
    """Deletes what is kept no longer: passages and journals, codes that no terminal can still tell of, who was inside."""
    await passage_store.forget(tx, tx.now - KEPT, tx.now - _CODES_KEPT, tx.now - PRESENCE_HOLDS)
    await journal_store.forget(tx, tx.now - KEPT)
