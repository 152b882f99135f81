"""Reconciling: fetches a provider's books, compares them with ours, settles what we had missed, and notes the rest for a person.

The comparison itself is in `reconciliation.py`.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta

from prometheus_client import Counter

from servicekit import telemetry
from servicekit.communities import Community, find_time_zone, list_communities
from servicekit.database import PLATFORM
from servicekit.errors import Conflict, Invalid, ServiceError
from servicekit.identifiers import new_id, parse_id
from servicekit.rpc import Call
from services.billing import collection, operations, store
from services.billing.incidents import Incident
from services.billing.payments import Outcome
from services.billing.providers import Provider, Providers, RefundStatus, Taking
from services.billing.reconciliation import DifferenceKind, Entry, EntryKind, Finding, Reconciliation, bounds, compare, days_between

# Night is over, and what the day's last payments still had to do is done.
_FROM = time(3)
# Days that the timer makes up for after a standstill.
_DAYS_BACK = 7
DIFFERENCES = Counter("linli_reconciliation_differences_total", "Differences to providers' books that a person must look at", ["kind"])
for _kind in DifferenceKind:
    DIFFERENCES.labels(_kind)


# The lines of a provider's file by the community that they concern; what is nobody's stands under None and concerns everybody.
_File = Mapping[uuid.UUID | None, Sequence[Entry]]
# Files that were fetched already, by the provider's name and its day.
_Files = dict[tuple[str, date], _File]


async def reconcile(call: Call, community_id: uuid.UUID, provider: Provider, day: date, files: _Files | None = None) -> Reconciliation:
    """Compares one day of a community, by its own calendar, and keeps the result; what does so at the same time is one comparison.

    Raises Conflict before the day has ended, and Unavailable while the provider has no file of it. `files` keeps what is fetched for
    further communities.
    """
    began = new_id()
    async with call.transaction(community_id) as tx:
        time_zone = await find_time_zone(tx)
    start, end = bounds(day, time_zone)
    if call.now < end:
        raise Conflict("billing.day_not_ended", "该日尚未结束，不能对账", "The day has not ended, so it cannot be reconciled yet")
    books = await _books(call, community_id, provider, start, end, {} if files is None else files)
    identifiers = [identifier for entry in books if (identifier := parse_id(entry.reference))]
    async with call.transaction(community_id) as tx:
        ours = await store.our_entries(tx, provider.name, start, end, identifiers)
    matched, findings = compare(ours, books)
    known_orders = {entry.reference for entry in ours if entry.kind is EntryKind.PAYMENT}
    unexplained = [finding for finding in findings if not await _heal(call, provider, finding, known_orders)]
    differences = [finding.difference for finding in findings]
    async with call.transaction(community_id) as tx:
        meanwhile = await store.lock_reconciliation(tx, provider.name, day, began)
        if meanwhile is not None:
            return meanwhile
        result = Reconciliation(new_id(), provider.name, day, matched, differences, call.now)
        await store.insert_reconciliation(tx, result)
        for finding in unexplained:
            if await operations.note_incident(tx, community_id, _incident(provider.name, finding)):
                tx.count(DIFFERENCES.labels(finding.difference.kind))
    return result


async def reconcile_yesterdays(call: Call) -> None:
    """Reconciles every community's last days, by their own calendars, that are not reconciled yet."""
    async with call.transaction(PLATFORM) as tx:
        communities = await list_communities(tx)
    files: _Files = {}
    for community in communities:
        for provider in call.resource(Providers).by_name.values():
            try:
                await _reconcile_last_days(call, community, provider, files)
            except ServiceError as error:
                telemetry.log.warning("not_reconciled", community_id=str(community.community_id), error=telemetry.describe(error))


async def _reconcile_last_days(call: Call, community: Community, provider: Provider, files: _Files) -> None:
    local = call.now.astimezone(community.time_zone)
    if local.time() < _FROM:
        return
    first = community.known_since.astimezone(local.tzinfo).date()
    for days in range(_DAYS_BACK, 0, -1):
        day = local.date() - timedelta(days=days)
        if day < first:
            continue
        async with call.transaction(community.community_id) as tx:
            done = await store.is_reconciled(tx, provider.name, day)
        if not done:
            await reconcile(call, community.community_id, provider, day, files)


async def _books(call: Call, community_id: uuid.UUID, provider: Provider, start: datetime, end: datetime, files: _Files) -> list[Entry]:
    """The provider's lines that concern a community, of a time which need not be a day of the provider's."""
    lines: list[Entry] = []
    for day in days_between(start, end, provider.zone):
        if (provider.name, day) not in files:
            files[provider.name, day] = await _fetch(call, provider, day)
        file = files[provider.name, day]
        lines += [entry for entry in (*file.get(community_id, ()), *file.get(None, ())) if start <= entry.at < end]
    return lines


async def _fetch(call: Call, provider: Provider, day: date) -> _File:
    """A provider's file, its lines sorted by whose order it is, else by what the order carried."""
    entries = await provider.reconciliation_file(day)
    identifiers = {identifier for entry in entries if (identifier := parse_id(entry.reference))}
    async with call.transaction(PLATFORM) as tx:
        owners = await store.owners(tx, provider.name, list(identifiers))
    file: dict[uuid.UUID | None, list[Entry]] = {}
    for entry in entries:
        identifier = parse_id(entry.reference)
        owner = owners.get(identifier) if identifier else None
        file.setdefault(owner or parse_id(entry.attachment), []).append(entry)
    return file


async def _heal(call: Call, provider: Provider, finding: Finding, known_orders: set[str]) -> bool:
    """Books what the provider knows and we had missed, in the one way that everything is booked. False when a person must look."""
    line, kind = finding.theirs, finding.difference.kind
    try:
        if line is None:
            return False
        if line.kind is EntryKind.PAYMENT and kind is DifferenceKind.MISSING_HERE and line.reference in known_orders:
            await collection.settle(call, provider.name, Taking(line.reference, line.transaction_id, line.amount_fen, line.at))
            return True
        if kind is DifferenceKind.STATE and finding.ours is not None and finding.ours.outcome is Outcome.PENDING:
            await collection.finish_refund(call, provider.name, RefundStatus(line.reference, line.outcome, line.amount_fen, line.at))
            return True
    except Invalid:
        pass  # Noted already, and noted below as the difference that it is.
    return False


def _incident(provider: str, finding: Finding) -> Incident:
    difference, line = finding.difference, finding.theirs or finding.ours
    return Incident(
        provider,
        f"billing.reconciliation_{difference.kind}",
        difference.reference,
        line.transaction_id if line is not None else "",
        difference.our_amount_fen,
        difference.provider_amount_fen,
    )
