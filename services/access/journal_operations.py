"""Takes in what terminals upload of their journals: nothing is lost, nothing is taken in twice, and a gap or a broken chain is noticed.

What the records say is in `passage_operations.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from servicekit.database import Transaction
from servicekit.identifiers import derived_id
from servicekit.timers import Due, cancel_timers, set_timers
from services.access import alarm_operations, journal, journal_store, passage_operations
from services.access.alarms import Observation
from services.access.journal import Part, Segment
from services.access.journal_store import Journal, KeptPart, Key, TerminalAt
from services.access.passage_operations import Told

GAP: Final = "access_journal_gap"
# A terminal uploads by itself what it has; what has not come by then is missing.
GAP_LASTS: Final = timedelta(minutes=10)
# It is asked for what is missing when nothing has come for so long.
_QUIET: Final = timedelta(seconds=30)
# Ranges that one message asks for.
_RANGES_MAX: Final = 20
# A terminal whose newest record is older than one that we hold begins anew; one that reported just before it uploaded does not.
_UPLOADING: Final = timedelta(seconds=10)
# What is further off is no clock that was set, and its dates are those of receipt.
_ERROR_MAX: Final = timedelta(days=365 * 60)


@dataclass(frozen=True, slots=True)
class Upload:
    """A part of a terminal's journal."""

    community_id: UUID
    device_id: str
    first_sequence: int
    previous_hash: bytes
    records: Sequence[str]
    received_at: datetime

    @property
    def key(self) -> Key:
        """Whose journal it is of."""
        return self.community_id, self.device_id


async def take_in(tx: Transaction, uploads: Sequence[Upload]) -> int:
    """Takes in parts, of any communities, in the platform scope. Returns how many are of no terminal of their community's."""
    terminals = await journal_store.find_terminals(tx, {upload.key for upload in uploads})
    known = [upload for upload in uploads if upload.key in terminals]
    if not known:
        return len(uploads)
    journals = await journal_store.lock_journals(tx, {upload.key for upload in known})
    before = await journal_store.find_segments(tx, journals)
    batch = _absorb(known, terminals, journals, before)
    epochs = {key: journals[key].epoch for key in journals}
    await journal_store.replace_segments(tx, epochs, before, batch.segments)
    await journal_store.insert_parts(tx, batch.kept)
    contradicting = await _contradicting(tx, batch.unsure, epochs)
    await journal_store.insert_parts(tx, [_kept(upload, part, epochs[upload.key], contradicts=True) for upload, part in contradicting])
    broken = {*batch.broken, *(upload.key for upload, _ in contradicting)}
    await _settle(tx, terminals, journals, batch, broken)
    await passage_operations.book(tx, batch.told)
    return len(uploads) - len(known)


@dataclass(slots=True)
class _Batch:
    """What parts change, all of them together."""

    segments: dict[Key, list[Segment]]
    kept: list[KeptPart]
    told: list[Told]
    unsure: list[tuple[Upload, Part]]
    broken: set[Key]
    held_at: dict[Key, datetime]


def _absorb(
    uploads: Sequence[Upload], terminals: dict[Key, TerminalAt], journals: dict[Key, Journal], before: dict[Key, list[Segment]]
) -> _Batch:
    batch = _Batch({key: list(segments) for key, segments in before.items()}, [], [], [], set(), {})
    for upload in uploads:
        key, entry = upload.key, journals[upload.key]
        records = [record.encode() for record in upload.records]
        part = Part(upload.first_sequence, upload.previous_hash, journal.chain(upload.previous_hash, records))
        absorbed = journal.absorb(batch.segments[key], part)
        batch.segments[key] = absorbed.segments
        batch.held_at[key] = max(upload.received_at, batch.held_at.get(key, upload.received_at))
        if absorbed.is_broken:
            batch.broken.add(key)
        if absorbed.is_unsure:
            batch.unsure.append((upload, part))
        if absorbed.fresh or absorbed.is_broken:
            batch.kept.append(_kept(upload, part, entry.epoch, contradicts=absorbed.is_broken))
        batch.told += [
            Told(
                terminal=terminals[key],
                epoch=entry.epoch,
                first_sequence=first,
                records=records[first - part.first : last - part.first + 1],
                clock_error=entry.clock_error,
                received_at=upload.received_at,
            )
            for first, last in absorbed.fresh
        ]
    return batch


def _kept(upload: Upload, part: Part, epoch: int, *, contradicts: bool) -> KeptPart:
    records = msgspec.json.encode(upload.records).decode()
    return KeptPart(
        *upload.key, epoch, part.first, part.last, part.previous_hash, part.hashes[-1], contradicts, upload.received_at, records
    )


async def _contradicting(tx: Transaction, unsure: Sequence[tuple[Upload, Part]], epochs: dict[Key, int]) -> list[tuple[Upload, Part]]:
    """Those parts, all of whose records we have held, that say something else. A record whose part is forgotten is believed."""
    covering = await journal_store.find_covering(tx, [(*upload.key, epochs[upload.key], part.last) for upload, part in unsure])
    found = []
    for (upload, part), kept in zip(unsure, covering, strict=True):
        if kept is None:
            continue
        last_hash = kept.last_hash
        if kept.records is not None:
            records = msgspec.json.decode(kept.records, type=list[str])[: part.last - kept.first_sequence + 1]
            last_hash = journal.chain(kept.previous_hash, [record.encode() for record in records])[-1]
        if last_hash != part.hashes[-1]:
            found.append((upload, part))
    return found


async def _settle(tx: Transaction, terminals: dict[Key, TerminalAt], journals: dict[Key, Journal], batch: _Batch, broken: set[Key]) -> None:
    """Writes how far we have come with each journal, and tells of chains that were found broken for the first time."""
    after: dict[Key, Journal] = {}
    for key, before in journals.items():
        segments = batch.segments[key]
        newest = max(before.told_sequence, segments[-1].last if segments else 0)
        after[key] = replace(
            before,
            told_sequence=newest,
            held=journal.count(segments),
            held_at=max(batch.held_at[key], before.held_at or batch.held_at[key]),
            broken_at=before.broken_at or (tx.now if key in broken else None),
        )
    found = [terminals[key] for key in sorted(broken) if journals[key].broken_at is None]
    await _write(tx, journals, after)
    await alarm_operations.observe(tx, [_observation("journal_broken", terminal, tx.now) for terminal in found])


async def _write(tx: Transaction, before: dict[Key, Journal], after: dict[Key, Journal]) -> None:
    """Writes journals, and has the clock watch over gaps that are new."""
    scope = tx.scope
    for key, each in after.items():
        found = after[key] = replace(each, lost=min(each.lost, each.missing))
        has_gap = found.missing > found.lost
        if has_gap == (before[key].gap_since is not None):
            continue
        after[key] = replace(found, gap_since=tx.now if has_gap else None)
        await tx.enter(key[0])
        if has_gap:
            await set_timers(tx, [Due(GAP, _timer_id(*key), key[1], tx.now + GAP_LASTS)])
        else:
            await cancel_timers(tx, _timer_id(*key), GAP)
    if tx.scope != scope:
        await tx.enter(scope)
    await journal_store.update_journals(tx, after)


def _timer_id(community_id: UUID, device_id: str) -> UUID:
    return derived_id("access.journal", str(community_id), device_id)


def _observation(kind: str, terminal: TerminalAt, at: datetime) -> Observation:
    return Observation(
        observation_id=derived_id(f"access.{kind}", str(terminal.community_id), terminal.device_id, at.isoformat()),
        community_id=terminal.community_id,
        kind=kind,
        source_id=terminal.device_id,
        occurred_at=at,
        place=terminal.door_name,
        zone_id=terminal.zone_id,
        door_id=terminal.door_id,
    )


async def raise_gap(tx: Transaction, due: Due) -> None:
    """Tells that a part of a journal is missing, when it still is."""
    key = (tx.community_id, due.name)
    found = (await journal_store.lock_journals(tx, [key]))[key]
    terminal = (await journal_store.find_terminals(tx, [key])).get(key)
    if terminal is not None and found.gap_since is not None:
        # What never comes, as of a disk that was full, must not hide the next gap.
        await journal_store.update_journals(tx, {key: replace(found, gap_since=None, lost=found.missing)})
        await alarm_operations.observe(tx, [_observation("journal_gap", terminal, tx.now)])


async def hear_report(
    tx: Transaction, device_id: str, newest: int, said_at: datetime, received_at: datetime
) -> list[tuple[int, int]] | None:
    """Notes what a terminal tells of its journal and its clock.

    Returns what it is to send again: ranges from a first to a last number, none while it still uploads. Returns None for a device that is
    no terminal of the community's.
    """
    key = (tx.community_id, device_id)
    terminals = await journal_store.find_terminals(tx, [key])
    if not terminals:
        return None
    before = (await journal_store.lock_journals(tx, [key]))[key]
    error = received_at - said_at
    found = replace(before, clock_error=error if abs(error) < _ERROR_MAX else before.clock_error)
    segments = (await journal_store.find_segments(tx, {key: found}))[key]
    is_anew = bool(segments) and newest < segments[-1].last and (before.held_at is None or received_at > before.held_at + _UPLOADING)
    if is_anew:
        # Its memory was erased or replaced. What it told until then stays; what it tells now is another journal.
        found = replace(found, epoch=before.epoch + 1, held=0, told_sequence=newest, lost=0, broken_at=None)
        segments = []
    else:
        found = replace(found, told_sequence=max(found.told_sequence, newest))
    after = {key: found}
    await _write(tx, {key: before}, after)
    if is_anew:
        await alarm_operations.observe(tx, [_observation("journal_broken", terminals[key], tx.now)])
    is_quiet = all(tx.now - since >= _QUIET for since in (after[key].gap_since, after[key].held_at) if since is not None)
    # The newest first: of the oldest the terminal may have kept nothing.
    return journal.missing(segments, found.told_sequence)[-_RANGES_MAX:] if is_quiet else []
