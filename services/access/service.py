"""Access: who may pass which door, alarms, and care for those who asked for it. Read this first."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import msgspec

from linli.access.v1 import access_pb2
from linli.access.v1.events_pb2 import AlarmClosed, AlarmRaised, DoorOpenRequested, EntryRefused, PassChanged
from linli.device.v1.events_pb2 import (
    CredentialPresented,
    DeviceOffline,
    DeviceOnline,
    JournalUploaded,
    ObjectObserved,
    ObservationMade,
    TerminalReported,
)
from linli.identity.v1.events_pb2 import HouseholdChanged, StaffChanged
from linli.notification.v1.events_pb2 import Notified
from linli.workorders.v1.events_pb2 import WorkOrderChanged
from servicekit import communities
from servicekit.blobs import BlobSettings, open_blobs
from servicekit.commands import CommandSigner
from servicekit.config import SettingsError
from servicekit.messaging import on, on_batch, on_outside
from servicekit.sealing import DATA_KEYS_PATTERN, KEY_PATTERN, data_keys
from servicekit.service import Running, Service, contract, every, every_outside
from servicekit.signing import Signer
from servicekit.timers import timer
from services.access import (
    alarm_operations,
    alarm_reactions,
    care_operations,
    door_operations,
    journal_operations,
    pass_operations,
    passage_operations,
    reactions,
    rpc,
    snapshot_operations,
    syncing,
    terminal_reactions,
    tie_operations,
    watch_operations,
)
from services.access.digests import MatchingKeys
from services.access.pass_operations import VisitorRules


class Settings(BlobSettings, frozen=True, kw_only=True):
    """The keys, and what a household may do."""

    # Signs commands to doors, dynamic codes and what terminals know: Ed25519, 32 bytes in base64.
    door_key: Annotated[str, msgspec.Meta(pattern=KEY_PATTERN)]
    # Digests of cards and PINs are made with keys that follow from it: 32 bytes in base64. It never changes, or no card opens anything.
    matching_key: Annotated[str, msgspec.Meta(pattern=KEY_PATTERN)]
    # Seal templates of faces: `id:key` with keys of 32 bytes in base64, separated by commas; the first seals.
    data_keys: Annotated[str, msgspec.Meta(pattern=DATA_KEYS_PATTERN)]
    # Passes that a household may have out at a time.
    visitor_passes_max: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20


@asynccontextmanager
async def open_resources(running: Running) -> AsyncIterator[Sequence[object]]:
    """What the operations find in their transactions. Raises SettingsError."""
    settings: Settings = running.settings
    signer = Signer(settings.door_key)
    try:
        keys = data_keys(settings.data_keys)
    except ValueError as error:
        raise SettingsError(f"LINLI_ACCESS_DATA_KEYS is wrong: {error}") from None
    yield [
        signer,
        CommandSigner(signer),
        MatchingKeys(settings.matching_key),
        keys,
        VisitorRules(settings.visitor_passes_max),
        open_blobs(settings),
        running.publisher,
    ]


SERVICE = Service(
    name="access",
    settings=Settings,
    migrations=[Path(__file__).parent / "migrations"],
    api=contract(access_pb2.DESCRIPTOR, "AccessService", rpc),
    resources=open_resources,
    publishes=[DoorOpenRequested, EntryRefused, PassChanged, AlarmRaised, AlarmClosed, Notified],
    consumes=[
        communities.FOLLOWED,
        on(HouseholdChanged, reactions.refresh_doors_on_household_changed),
        on(StaffChanged, reactions.refresh_doors_on_staff_changed),
        on(WorkOrderChanged, reactions.follow_visit_on_work_order_changed),
        on(WorkOrderChanged, alarm_reactions.follow_order_on_work_order_changed),
        on(CredentialPresented, terminal_reactions.decide_on_credential_presented),
        on_batch(JournalUploaded, terminal_reactions.take_in_on_journal_uploaded),
        on_outside(TerminalReported, syncing.update_terminal_on_terminal_reported),
        on_batch(ObservationMade, alarm_reactions.judge_on_observation_made),
        on_batch(ObjectObserved, alarm_reactions.judge_persons_on_object_observed),
        on(DeviceOffline, alarm_reactions.note_silence_on_device_offline),
        on(DeviceOnline, alarm_reactions.note_return_on_device_online),
    ],
    jobs=[
        every(minutes=1, run=alarm_operations.forget_observations),
        every(minutes=10, run=pass_operations.forget_visitors),
        every(minutes=5, run=passage_operations.forget_old),
        every_outside(seconds=1, run=syncing.send_news),
    ],
    timers=[
        timer(alarm_operations.ESCALATION, alarm_operations.escalate),
        timer(care_operations.QUIET, care_operations.judge_quiet),
        timer(door_operations.RULE_ENDS, tie_operations.forget_rule),
        timer(journal_operations.GAP, journal_operations.raise_gap),
        timer(pass_operations.TIMER, pass_operations.hear_time),
        timer(snapshot_operations.REFRESH, snapshot_operations.refresh_more),
        timer(tie_operations.TIES, tie_operations.judge),
        timer(watch_operations.ENDS, alarm_operations.end_explanation),
    ],
    nats_publishes=syncing.NATS_PUBLISHES,
    after_restore=snapshot_operations.distrust_terminals,
)
