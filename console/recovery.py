"""After the databases were restored to an earlier instant: what the rest of the world knows, and they do not.

Streams hold facts that were published after that instant, of which their publishers know nothing any more. They are written down for
people and taken out of the streams, so that nobody hears of them; all else that the streams hold is heard again, and decided again where
the effects are gone. What to do before and after is in docs/recovery.md; the other way round, a broker that lost its disk, the services
mend by themselves (`servicekit/streams.py`).
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import typer
from google.protobuf import descriptor_pool, json_format
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

import ledger
from console.databases import DatabaseError
from infra.local.accounts import OPERATOR
from servicekit import messaging, streams
from servicekit.clock import system_clock
from servicekit.config import DatabaseSettings, NatsSettings, ProcessSettings, load
from servicekit.database import PLATFORM, Database, open_database
from servicekit.events import EventType, event_type
from servicekit.identifiers import parse_id
from servicekit.service import Service
from servicekit.streams import Mark

# Clocks of the broker and of the databases differ by no more.
_CLOCKS_APART: Final = timedelta(minutes=10)
_READ_AT_ONCE: Final = 500
_DELETED_AT_ONCE: Final = 64
_FETCH_S: Final = 5.0
# What the streams of devices are called.
_DEVICES: Final = "DEVICE_"

_SELECT_KNOWN = "SELECT event_id FROM outbox WHERE event_id = ANY($1::uuid[])"
_SELECT_NEWEST = "SELECT max(created_at) FROM outbox"

# What a person does about a fact that is lost, by a part of its kind; the first that fits. The order is that of the report.
_ADVICE: Final = (
    (
        "TAKEN AWAY, AND THERE AGAIN: take it away again, now",
        {
            "Notified/access.consent_withdrawn": "A consent was withdrawn, and holds again. Ask the person, or end their credentials.",
            "_revoked": "A card, PIN or face was taken out of use, and opens doors again.",
            "identity.v1.StaffChanged": "Somebody's roles changed. They have those of before.",
            "identity.v1.HouseholdChanged": "A household's people changed. Whoever moved out is at home again, whoever moved in is not.",
            "identity.v1.VehicleRemoved": "A vehicle was removed. Barriers open for it again.",
            "access.v1.PassChanged": "A visitor's pass was made, changed or ended. Ended ones are good again, new ones void.",
            "device.v1.DeviceChanged": "A device was registered, got a new secret or was disabled. Do so again.",
        },
    ),
    (
        "MONEY: compare with the payment provider",
        {
            "billing.v1.PaymentSucceeded": "Money was taken. Reconciliation of that day finds it as missing here.",
            "billing.v1.PaymentRefunded": "Money went back. Reconciliation of that day finds it as missing here.",
            "billing.v1.ChargeRaised": "A charge was raised. Money that comes for it all the same is found by reconciliation.",
            "billing.v1.ChargeWithdrawn": "A charge was withdrawn, and is owed again.",
            "Notified/billing.": "Somebody was told of a payment or refund.",
            "Notified/points.": "Somebody was told of points given, spent or taken back. The shop's own books know what was handed out.",
        },
    ),
    (
        "PEOPLE: tell them, or enter it again",
        {
            "workorders.v1.WorkOrderChanged": "An order was reported or went on. One that is gone has to be reported again.",
            "workorders.v1.TargetMissed": "A missed promise was passed on. It is passed on again.",
            "identity.v1.VehicleRegistered": "A vehicle was registered, or its people changed. It is registered as before.",
            "identity.v1.CommunityChanged": "A community was made or changed.",
            "parking.v1.LaneConfigured": "A lane was made or changed.",
            "Notified/": "Somebody was told of something that is no more. The link says of what.",
        },
    ),
    (
        "DOORS AND BARRIERS: they opened",
        {
            "parking.v1.GateOpenRequested": "Reads of plates are heard again. What a person opened by hand is in no other book.",
            "access.v1.DoorOpenRequested": "The terminal's journal tells of it again.",
        },
    ),
    ("DECIDED AGAIN from what devices told: nothing to do", {"": "Comes about again by itself."}),
)


_UNTOLD: Final = (
    "NOT IN THIS LIST, because no event tells of it: PINs and passwords that were changed are the old ones again; whoever wrote down a",
    "consent or a face since then does so again. Everybody has to sign in again. A request that a phone repeats is done again.",
)


class RecoveryError(DatabaseError):
    """The databases and the broker cannot be brought together; the text says why."""


@dataclass(frozen=True, slots=True)
class LostFact:
    """A fact that was published, and that its publisher knows no more."""

    stream: str
    sequence: int
    event_id: str
    service: str
    type: str
    community_id: str
    aggregate: str
    occurred_at: str
    fact: dict[str, Any]

    @property
    def kind(self) -> str:
        """The type; of what somebody was told also what it was."""
        return f"{self.type}/{self.fact.get('kind', '')}" if self.type.endswith("Notified") else self.type

    def line(self) -> str:
        """As it stands in the report for programs."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__}, ensure_ascii=False)


async def recover(services: Sequence[Service], to: datetime, report: Path, heard_until: datetime | None) -> None:
    """Brings the broker together with databases that were restored to the instant `to`. No service runs meanwhile.

    `report` is the folder for what is lost. Consumers hear everything again that the streams hold; with `heard_until` only what came after
    it, by which all of them had handled all that there was. Safe to run again. Raises RecoveryError, SettingsError.
    """
    async with AsyncExitStack() as stack:
        databases = {service.name: await stack.enter_async_context(_database(service)) for service in services if service.migrations}
        client = await stack.enter_async_context(broker())
        js = client.jetstream(timeout=messaging.ACK_S)
        await _check_stopped(js, services)
        await _check_restored(databases.values(), to)
        lost = await find_lost_facts(js, services, databases, to - _CLOCKS_APART)
        files = _write_report(report, to, lost)
        await _delete(client, lost)
        again = await _hear_again(js, services, heard_until)
        for service in services:
            if service.after_restore is not None:
                async with databases[service.name].transaction(PLATFORM) as transaction:
                    await service.after_restore(transaction)
    typer.echo(files[0].read_text(encoding="utf-8"))
    typer.echo(f"{again} consumers begin again. Every fact that is lost: {files[1]}")
    audits = [f"linli ledger audit {service.name}" for service in services if ledger.MIGRATIONS in service.migrations]
    typer.echo(f"Start the services. Then: {', '.join([*audits, 'reconcile each day since with the payment provider'])}.")


async def list_losses(services: Sequence[Service]) -> None:
    """Prints, as JSON lines, the streams that the broker has lost and how much of each a consumer had not handled by then, at most.

    Facts that came from outboxes were given back to it and are no loss: what is counted are the observations of devices. The counts are
    those of the last look before the loss, which is no older than fifteen seconds while a service runs.
    """
    marks: set[Mark] = set()
    for service in services:
        if service.migrations:
            async with _database(service) as database, database.transaction(PLATFORM) as transaction:
                marks |= set(await streams.list_marks(transaction))
    for loss in count_losses(marks):
        typer.echo(json.dumps(loss, default=str))


def count_losses(marks: Collection[Mark]) -> list[dict[str, Any]]:
    """What was lost with each stream of devices that there is a newer one of."""
    losses = []
    for stream in sorted({mark.stream for mark in marks if mark.stream.startswith(_DEVICES)}):
        made = sorted({mark.made_at for mark in marks if mark.stream == stream})
        for made_at, lost_before in pairwise(made):
            here = [mark for mark in marks if mark.stream == stream and mark.made_at == made_at]
            last = max(mark.position for mark in here)
            for mark in sorted((mark for mark in here if mark.consumer), key=lambda mark: mark.consumer):
                unheard = last - mark.position
                losses.append({"stream": stream, "lost_before": lost_before, "consumer": mark.consumer, "unheard_at_most": unheard})
    return losses


@asynccontextmanager
async def _database(service: Service) -> AsyncIterator[Database]:
    try:
        database = await open_database(service.name, load(DatabaseSettings, service.name).database_url, pool_size=1, clock=system_clock)
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        raise RecoveryError(f"{service.name}'s database cannot be reached: {error}") from error
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def broker() -> AsyncIterator[Client]:
    """A connection as the operator."""
    client = await messaging.connect(load(ProcessSettings), load(NatsSettings, OPERATOR), OPERATOR)
    try:
        yield client
    finally:
        await client.close()


async def _check_stopped(js: JetStreamContext, services: Sequence[Service]) -> None:
    running = set()
    for service in services:
        for stream, consumer in durable_consumers(service):
            try:
                if (await js.consumer_info(stream, consumer)).push_bound:
                    running.add(service.name)
            except NotFoundError:
                continue
    if running:
        raise RecoveryError(f"stop the services first: {', '.join(sorted(running))} still run and would hear facts that are no more")


async def _check_restored(databases: Iterable[Database], to: datetime) -> None:
    for database in databases:
        async with database.transaction(PLATFORM) as transaction:
            newest: datetime | None = await transaction.fetchval(_SELECT_NEWEST)
        if newest is not None and newest > to:
            raise RecoveryError(f"{database.service}'s database has facts of {newest}, after {to}: it was not restored, or it runs already")


def durable_consumers(service: Service) -> list[tuple[str, str]]:
    """The stream and name of each consumer for which the broker keeps what it has not heard."""
    return [(each.event.stream, f"{service.name}-{each.name}") for each in service.consumes if each.mode != "live"]


def _outbox_streams(services: Sequence[Service]) -> dict[str, set[str]]:
    """The types of events that come from outboxes, by stream. What devices observe has no database on its way; the state of devices has."""
    found: dict[str, set[str]] = {}
    for service in services:
        for event in map(event_type, service.publishes):
            if _is_from_outbox(event):
                found.setdefault(event.stream, set()).add(event.name)
    return found


def _is_from_outbox(event: EventType) -> bool:
    return event.device_kind in ("", "status")


async def find_lost_facts(
    js: JetStreamContext, services: Sequence[Service], databases: dict[str, Database], since: datetime
) -> list[LostFact]:
    """What was published since an instant and is in no publisher's outbox, in the order of the streams."""
    lost = []
    for stream, types in sorted(_outbox_streams(services).items()):
        async for messages in _read(js, stream, since):
            published = [message for message in messages if (message.headers or {}).get("ce-type") in types]
            known = await _known(published, databases)
            lost += [_lost_fact(stream, message) for message in published if (message.headers or {})["ce-id"] not in known]
    return lost


async def _read(js: JetStreamContext, stream: str, since: datetime) -> AsyncIterator[list[Msg]]:
    config = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=since, ack_policy=AckPolicy.NONE, mem_storage=True)
    try:
        subscription = await js.pull_subscribe("", stream=stream, config=config)
    except NotFoundError:
        return
    try:
        left = (await subscription.consumer_info()).num_pending or 0
        while left:
            messages = await subscription.fetch(min(left, _READ_AT_ONCE), timeout=_FETCH_S)
            left -= len(messages)
            yield messages
    except NatsTimeout as error:
        raise RecoveryError(f"stream {stream} cannot be read to its end") from error
    finally:
        await subscription.unsubscribe()


async def _known(messages: Sequence[Msg], databases: dict[str, Database]) -> set[str]:
    by_service: dict[str, list[UUID]] = {}
    for message in messages:
        headers = message.headers or {}
        if (event_id := parse_id(headers["ce-id"])) is not None:
            by_service.setdefault(_publisher(headers), []).append(event_id)
    known: set[str] = set()
    for service, event_ids in by_service.items():
        if service not in databases:
            known |= set(map(str, event_ids))  # Published by a service that this installation has no more.
            continue
        async with databases[service].transaction(PLATFORM) as transaction:
            known |= {str(row["event_id"]) for row in await transaction.fetch(_SELECT_KNOWN, event_ids)}
    return known


def _publisher(headers: dict[str, str]) -> str:
    return headers.get("ce-source", "").removeprefix("/linli/")


def _lost_fact(stream: str, message: Msg) -> LostFact:
    headers = message.headers or {}
    return LostFact(
        stream=stream,
        sequence=message.metadata.sequence.stream,
        event_id=headers["ce-id"],
        service=_publisher(headers),
        type=headers["ce-type"],
        community_id=headers.get("ce-community", ""),
        aggregate=headers.get("ce-subject", ""),
        occurred_at=headers.get("ce-time", ""),
        fact=_content(headers["ce-type"], message.data),
    )


def _content(name: str, body: bytes) -> dict[str, Any]:
    try:
        event = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name)).FromString(body)
        content: dict[str, Any] = json_format.MessageToDict(event, preserving_proto_field_name=True)
    except (KeyError, DecodeError):
        return {"unreadable": base64.b64encode(body).decode()}
    content.pop("command", None)  # Signed, used and expired.
    return content


async def _delete(client: Client, lost: Sequence[LostFact]) -> None:
    """Takes lost facts out of their streams. Raises RecoveryError when one stays."""
    places = asyncio.Semaphore(_DELETED_AT_ONCE)

    async def delete(fact: LostFact) -> None:
        # Without overwriting it on the disk, as nats-py's own method asks for, which takes forty times as long.
        request = json.dumps({"seq": fact.sequence, "no_erase": True}).encode()
        async with places:
            answer = await client.request(f"$JS.API.STREAM.MSG.DELETE.{fact.stream}", request, timeout=messaging.ACK_S)
        if not json.loads(answer.data).get("success"):
            raise RecoveryError(f"message {fact.sequence} of stream {fact.stream} cannot be deleted: {answer.data.decode()}")

    await asyncio.gather(*map(delete, lost))


async def _hear_again(js: JetStreamContext, services: Sequence[Service], heard_until: datetime | None) -> int:
    """Sets every consumer back to the begin of its stream, or to an instant. Returns how many."""
    first: dict[str, int] = {}
    again = 0
    for service in services:
        for stream, consumer in durable_consumers(service):
            try:
                if stream not in first:
                    first[stream] = await _first_since(js, stream, heard_until)
                await js.reset_consumer(stream, consumer, seq=first[stream])
                again += 1
            except NotFoundError:
                continue  # It begins at the beginning.
    return again


async def _first_since(js: JetStreamContext, stream: str, instant: datetime | None) -> int:
    if instant is None:
        return max(1, (await js.stream_info(stream)).state.first_seq)
    config = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=instant, ack_policy=AckPolicy.NONE, mem_storage=True)
    subscription = await js.pull_subscribe("", stream=stream, config=config)
    try:
        found = await subscription.consumer_info()
        return (found.delivered.stream_seq if found.delivered else 0) + 1
    finally:
        await subscription.unsubscribe()


def _write_report(folder: Path, to: datetime, lost: Sequence[LostFact]) -> tuple[Path, Path]:
    """Writes what is lost, for people and for programs; on the disk before anything is deleted."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"lost-since-{to:%Y%m%dT%H%M%SZ}-found-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    summary, facts = folder / f"{name}.txt", folder / f"{name}.jsonl"
    facts.write_text("".join(f"{fact.line()}\n" for fact in lost), encoding="utf-8")
    summary.write_text("\n".join(summarise(to, lost)) + "\n", encoding="utf-8")
    for file in (facts, summary):
        file.chmod(0o600)
    return summary, facts


def summarise(to: datetime, lost: Sequence[LostFact]) -> list[str]:
    """What is lost, by what has to be done about it, the most urgent first, and that one by one."""
    lines = [f"The databases are as they were at {to:%Y-%m-%d %H:%M:%S} UTC. {len(lost)} facts were published after that and are gone.", ""]
    left = list(lost)
    for section, (title, advice) in enumerate(_ADVICE):
        told: list[str] = []
        for name, text in advice.items():
            found = [fact for fact in left if name in fact.kind]
            left = [fact for fact in left if name not in fact.kind]
            if found:
                told.append(f"  {len(found):6} {name or 'others'}: {text}")
            if section == 0:
                told += [f"         {fact.occurred_at} in {fact.community_id}, {fact.aggregate}" for fact in found]
        if told:
            lines += [title, *told, ""]
    return [*lines, *_UNTOLD]
