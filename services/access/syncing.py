"""Brings terminals up to date: sends those that are connected what they are to know, and asks for what is missing of their journals.

Messages to a terminal are kept nowhere. What one does not hear it gets after its next report, a minute later at most.
"""

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Final
from uuid import UUID

import msgspec
from prometheus_client import Counter

from linli.device.v1.events_pb2 import TerminalReported
from servicekit import telemetry
from servicekit.database import PLATFORM, Transaction
from servicekit.events import Received
from servicekit.messaging import Publisher
from servicekit.rpc import Call
from servicekit.sealing import SealBrokenError
from servicekit.signing import Signer
from servicekit.times import to_datetime_or
from services.access import consent_operations, credential_operations, journal_operations, snapshot_store
from services.access.digests import MatchingKeys
from services.access.snapshots import PURPOSE, VERSION_MAX, Change, parts_of, template_ids, with_template

# What leaves for terminals: ingest lets each hear its own.
NATS_PUBLISHES: Final = ("devices.*.snapshot", "devices.*.journal_wanted")
# Terminals that one run of the job brings up to date.
_AT_ONCE: Final = 200

PARTS = Counter("linli_access_snapshot_parts_total", "Parts of snapshots that were sent to terminals")
STRANGE = Counter("linli_access_strange_devices_total", "Events of devices that are no terminal of their community's", ["event"])


async def update_terminal_on_terminal_reported(call: Call, event: Received[TerminalReported]) -> None:
    """Notes how far a terminal is, and sends it what it has not."""
    said, community_id = event.message, event.community_id
    received_at = to_datetime_or(said.received_at, event.occurred_at)
    version = said.snapshot_version if said.snapshot_version < VERSION_MAX else 0
    async with call.transaction(community_id) as tx:
        # The journal's row is locked before the terminal's, here as where parts are taken in.
        wanted = await journal_operations.hear_report(tx, said.device_id, said.journal_sequence, _said_at(said, received_at), received_at)
        progress = await snapshot_store.confirm(tx, said.device_id, version, received_at)
        if progress is None or wanted is None:
            STRANGE.labels("TerminalReported").inc()
            return
        if progress.has_advanced:
            await snapshot_store.forget_gone(tx, said.device_id, progress.confirmed_version)
            await consent_operations.confirm_removals(tx, said.device_id, progress.confirmed_version)
    if not progress.is_current:
        await _send_snapshot(call, community_id, said.device_id)
    if wanted:
        body = msgspec.json.encode({"wanted": wanted})
        await call.resource(Publisher).send_now(f"devices.{said.device_id}.journal_wanted", body)


def _said_at(said: TerminalReported, received_at: datetime) -> datetime:
    """What the terminal's clock said; a clock that says what no calendar holds says nothing."""
    try:
        return said.occurred_at.ToDatetime(UTC)
    except (ValueError, OverflowError):
        return received_at


async def send_news(call: Call) -> None:
    """Sends terminals that are there what is new for them."""
    async with call.transaction(PLATFORM) as tx:
        behind = await snapshot_store.list_unsent(tx, _AT_ONCE)
    for community_id, device_id in behind:
        await _send_snapshot(call, community_id, device_id, again=False)


async def _send_snapshot(call: Call, community_id: UUID, device_id: str, *, again: bool = True) -> None:
    """Sends a terminal what it has not. Unless `again`, not what another process has just sent."""
    async with call.transaction(community_id) as tx:
        change = await _change(tx, device_id)
        if change is None or not (await snapshot_store.mark_sent(tx, device_id, change.to_version) or again):
            return
    signer = call.resource(Signer)
    for part in parts_of(change, partial(signer.sign, PURPOSE), signer.key_id):
        await call.resource(Publisher).send_now(f"devices.{device_id}.snapshot", part)
        PARTS.inc()


async def _change(tx: Transaction, device_id: str) -> Change | None:
    """What a terminal is to hear; None when it is none of the community's."""
    goal = await snapshot_store.find_goal(tx, device_id)
    if goal is None:
        return None
    settings = goal.settings
    if settings.place is None:
        return Change(device_id, tx.community_id, 0, goal.to_version, settings)
    if goal.from_version == 0:
        settings = replace(settings, matching_key=tx.resource(MatchingKeys).of(tx.community_id))
    gone, entries = await snapshot_store.list_changes(tx, device_id, goal.from_version)
    return Change(device_id, tx.community_id, goal.from_version, goal.to_version, settings, gone, await _with_faces(tx, entries))


async def _with_faces(tx: Transaction, entries: list[str]) -> list[str]:
    """The entries with the templates that are kept here, which leave the database only for this."""
    named = template_ids(entries)
    if not named:
        return entries
    try:
        templates = await credential_operations.open_templates(tx, set(named.values()))
    except SealBrokenError as error:
        telemetry.log.error("templates_not_opened", error=str(error))
        return entries
    return [with_template(text, templates[named[text]]) if named.get(text) in templates else text for text in entries]
