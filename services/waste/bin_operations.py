"""What bins tell of themselves: how full they are, that they burn, what their clock says; and the alarms that follow.

Everything here locks the bins first. Bins of several communities are heard in one transaction of the platform scope.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from google.protobuf.message import Message

from linli.waste.v1.events_pb2 import AlarmKind as AlarmKindMessage
from linli.waste.v1.events_pb2 import BinAlarmCleared, BinAlarmRaised
from servicekit.database import Transaction
from servicekit.errors import FieldViolation, Invalid, NotFound
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from services.waste import clocks, store
from services.waste.bins import WHOLE, Alarm, AlarmKind, Bin, Fill, fill, fill_of, is_clock_wrong, is_fire, is_full
from services.waste.clocks import Stretch
from services.waste.store import Heard

ALARM_KIND_MESSAGE: Final = {
    AlarmKind.FULL: AlarmKindMessage.ALARM_KIND_FULL,
    AlarmKind.FIRE: AlarmKindMessage.ALARM_KIND_FIRE,
    AlarmKind.SILENT: AlarmKindMessage.ALARM_KIND_SILENT,
    AlarmKind.CLOCK: AlarmKindMessage.ALARM_KIND_CLOCK,
}
# A collector who records what the bin has seen itself, or records it twice, means the same emptying.
_SAME_EMPTYING: Final = timedelta(hours=1)
_KEPT: Final = timedelta(days=60)
_FORGOTTEN_AT_ONCE: Final = 20_000


@dataclass(frozen=True, slots=True)
class Report:
    """What a bin told of itself: how full its compartments are in thousandths, smoke, heat, and its clock when it sent this."""

    community_id: UUID
    device_id: str
    fills: Mapping[str, int]
    smoke: bool
    temperature_c: int | None
    said_us: int | None
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether something is wrong with a bin, or with one of its compartments, and when that was found."""

    kind: AlarmKind
    compartment: str
    is_wrong: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class Told:
    """What is new of one bin: when it was last heard, how full it was when, and what else was found."""

    heard_at: datetime | None
    fills: Sequence[Fill] = ()
    findings: Sequence[Finding] = ()
    reported_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Announcement:
    """An event of one of several communities."""

    community_id: UUID
    event: Message
    version: int
    occurred_at: datetime


def announce(tx: Transaction, announcements: Iterable[Announcement]) -> None:
    """Publishes events in their order."""
    for each in announcements:
        tx.publish(each.event, version=each.version, occurred_at=each.occurred_at, community_id=each.community_id)


async def hear_reports(tx: Transaction, reports: Sequence[Report]) -> None:
    """Takes in what bins report. Devices that are no bins of their community's register, and reports that come late, tell nothing."""
    bins = await store.lock_bins_of_devices(tx, {(report.community_id, report.device_id) for report in reports})
    by_bin: dict[UUID, list[Report]] = defaultdict(list)
    known: dict[UUID, Bin] = {}
    for report in sorted(reports, key=lambda each: each.received_at):
        found = bins.get((report.community_id, report.device_id))
        if found is not None and (found.reported_at is None or found.reported_at < report.received_at):
            by_bin[found.bin_id].append(report)
            known[found.bin_id] = found
    newest = await store.newest_stretches(tx, by_bin)
    told, stretches = list[tuple[Bin, Told]](), list[tuple[Bin, Stretch]]()
    for bin_id, its in by_bin.items():
        found = known[bin_id]
        heard = _stretches(newest.get(bin_id), its)
        told.append((found, _told(found, its, heard[-1] if heard else None)))
        stretches += ((found, stretch) for stretch in heard)
    await store.write_stretches(tx, stretches)
    announce(tx, await hear(tx, told))


def _stretches(newest: Stretch | None, reports: Iterable[Report]) -> list[Stretch]:
    """The stretches of a bin's clock that its reports begin or make longer, each as it is at the end."""
    changed: dict[datetime, Stretch] = {}
    for report in reports:
        if report.said_us is not None and (newest is None or newest.heard_until < report.received_at):
            newest = clocks.listen(newest, report.said_us, report.received_at)
            changed[newest.heard_from] = newest
    return list(changed.values())


def _told(found: Bin, reports: Sequence[Report], stretch: Stretch | None) -> Told:
    last = reports[-1]
    at = last.received_at
    burns = is_fire(smoke=last.smoke, temperature_c=last.temperature_c, lasts=_lasts(found, AlarmKind.FIRE))
    findings = [Finding(AlarmKind.FIRE, WHOLE, burns, at)]
    if stretch is not None:
        error = timedelta(microseconds=stretch.error_us)
        findings.append(Finding(AlarmKind.CLOCK, WHOLE, is_clock_wrong(error, lasts=_lasts(found, AlarmKind.CLOCK)), at))
    fills = [fill_of(name, report.received_at, permille) for report in reports for name, permille in report.fills.items()]
    return Told(at, [each for each in fills if each is not None], findings, at)


def _lasts(found: Bin, kind: AlarmKind, compartment: str = WHOLE) -> bool:
    return any(alarm.kind is kind and alarm.compartment == compartment for alarm in found.alarms)


async def hear(tx: Transaction, told: Sequence[tuple[Bin, Told]]) -> list[Announcement]:
    """Writes what locked bins told, each once. Returns what has to be announced."""
    fillings = [(found, fill(found.compartments, each.fills)) for found, each in told]
    await store.update_compartments(tx, [(found, changed) for found, filling in fillings for changed in filling.compartments])
    await store.insert_fill_levels(tx, [(found, level) for found, filling in fillings for level in filling.levels])
    emptyings = [(found, each.compartment, each.at) for found, filling in fillings for each in filling.emptyings]
    await store.insert_emptyings(tx, emptyings, "seen")
    heard: list[tuple[Bin, Told]] = []
    for (found, each), (_, filling) in zip(told, fillings, strict=True):
        fulls = [
            Finding(AlarmKind.FULL, changed.name, is_full(changed.fill_permille, lasts=_lasts(found, AlarmKind.FULL, changed.name)), at)
            for changed in filling.compartments
            if changed.fill_permille is not None and (at := changed.fill_at) is not None
        ]
        heard.append((found, replace(each, findings=[*each.findings, *fulls])))
    return await _write_findings(tx, heard)


async def _write_findings(tx: Transaction, told: Sequence[tuple[Bin, Told]]) -> list[Announcement]:
    """Raises and clears alarms of locked bins, and notes that they were heard."""
    raised, cleared = list[tuple[Bin, Alarm]](), list[Alarm]()
    heard, announcements = list[Heard](), list[Announcement]()
    for found, each in told:
        version = found.version
        for alarm in _changes(found, each.findings):
            version += 1
            announcements.append(_announcement(found, alarm, version))
            if alarm.cleared_at is None:
                raised.append((found, alarm))
            else:
                cleared.append(alarm)
        heard.append(Heard(found.bin_id, each.heard_at, each.reported_at, version))
    await store.write_alarms(tx, raised, cleared)
    await store.update_heard(tx, heard)
    return announcements


def _changes(found: Bin, findings: Iterable[Finding]) -> list[Alarm]:
    """The alarms that begin, and those that end, with their ends. Nobody has to come to a bin that is out of use, unless it burns."""
    lasting = {(alarm.kind, alarm.compartment): alarm for alarm in found.alarms}
    changes: list[Alarm] = []
    for each in findings:
        alarm = lasting.get((each.kind, each.compartment))
        if alarm is not None and not each.is_wrong:
            changes.append(replace(alarm, cleared_at=max(each.at, alarm.raised_at)))
        elif alarm is None and each.is_wrong and (found.in_use or each.kind is AlarmKind.FIRE):
            changes.append(Alarm(new_id(), found.bin_id, each.kind, each.compartment, each.at))
    return changes


def _announcement(found: Bin, alarm: Alarm, version: int) -> Announcement:
    alarm_id, bin_id, kind = str(alarm.alarm_id), str(alarm.bin_id), ALARM_KIND_MESSAGE[alarm.kind]
    event: Message
    if alarm.cleared_at is None:
        at = alarm.raised_at
        event = BinAlarmRaised(alarm_id=alarm_id, bin_id=bin_id, kind=kind, compartment=alarm.compartment, raised_at=to_timestamp(at))
    else:
        at = alarm.cleared_at
        event = BinAlarmCleared(alarm_id=alarm_id, bin_id=bin_id, kind=kind, cleared_at=to_timestamp(at))
    return Announcement(found.community_id, event, version, at)


async def note_status(tx: Transaction, device_id: str, version: int, *, is_heard: bool, at: datetime) -> None:
    """Takes in that a device has fallen silent or is heard again; an older word than the newest says nothing."""
    bin_id = await store.update_status(tx, device_id, version, silent_since=None if is_heard else at)
    if bin_id is not None:
        await _find(tx, await store.find_bin(tx, bin_id, lock=True), [Finding(AlarmKind.SILENT, WHOLE, not is_heard, at)])


async def end_alarms(tx: Transaction, found: Bin) -> None:
    """Clears what is wrong with a locked bin, because it is out of use."""
    await _find(tx, found, [Finding(alarm.kind, alarm.compartment, False, tx.now) for alarm in found.alarms])


async def find_silence(tx: Transaction, found: Bin) -> None:
    """Raises the alarm of a locked bin that has fallen silent while nobody minded. What else is wrong its next report tells."""
    if found.silent_since is not None:
        await _find(tx, found, [Finding(AlarmKind.SILENT, WHOLE, True, tx.now)])


async def _find(tx: Transaction, found: Bin | None, findings: Sequence[Finding]) -> None:
    if found is not None:
        announce(tx, await _write_findings(tx, [(found, Told(found.last_heard_at, findings=findings))]))


async def empty_compartments(tx: Transaction, bin_id: UUID, names: Sequence[str], at: datetime) -> Bin:
    """Notes that somebody emptied compartments, all when none is named. Returns the bin as it is then.

    Raises NotFound for a bin that is not there, and Invalid for a compartment that it does not have.
    """
    found = await store.find_bin(tx, bin_id, lock=True)
    if found is None:
        raise bin_unknown()
    if unknown := [name for name in names if name not in found.compartments]:
        raise Invalid(
            "waste.compartment_unknown",
            f"该垃圾箱没有投口 {unknown[0]}",
            f"The bin has no compartment {unknown[0]}",
            details={"compartment": unknown[0]},
            fields=[FieldViolation("compartments", "waste.compartment_unknown", "must be names of the bin's compartments")],
        )
    emptied = [found.compartments[name] for name in names or found.compartments]
    fresh = [each for each in emptied if each.emptied_at is None or abs(at - each.emptied_at) >= _SAME_EMPTYING]
    await store.insert_emptyings(tx, [(found, each.name, at) for each in fresh], "recorded")
    await store.update_compartments(tx, [(found, replace(each, emptied_at=max(at, each.emptied_at or at))) for each in fresh])
    found = await store.find_bin(tx, bin_id)
    assert found is not None
    # As far as anybody knows nothing is in it, until the bin says something that is newer.
    nothing = [Fill(each.name, at, 0) for each in emptied if each.fill_at is None or each.fill_at < at]
    announce(tx, await hear(tx, [(found, Told(found.last_heard_at, nothing))]))
    found = await store.find_bin(tx, bin_id)
    assert found is not None
    return found


def bin_unknown() -> NotFound:
    """The error for a bin that is not there."""
    return NotFound("waste.bin_unknown", "没有找到该垃圾箱", "There is no such bin")


async def forget_old(tx: Transaction) -> None:
    """Forgets how full bins were, how wrong their clocks were, and who stood at them, 60 days later."""
    await store.forget_before(tx, tx.now - _KEPT, _FORGOTTEN_AT_ONCE)
