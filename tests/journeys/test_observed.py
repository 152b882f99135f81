"""What those who run the platform see of it: traces that follow one request through everything, and nothing that names anybody."""

import asyncio
import importlib
import json
import pkgutil
import re
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import nats
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from nats.aio.client import Client
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from opentelemetry.semconv import attributes as stable
from opentelemetry.semconv._incubating import attributes as incubating

from console import catalog
from console.seed import people as seeded
from linli.notification.v1.events_pb2 import Notified
from servicekit.events import envelope
from servicekit.identifiers import new_id
from tests.collector import Collector, Trace, attributes, collecting
from tests.journeys.people import Town, Up
from tests.journeys.test_parking import new_phone, new_plate
from tests.support import eventually

# A hurried day in the community, until each of these has happened.
RUSH = ("--cars-per-minute", "300", "--deposits-per-minute", "300", "--passages-per-minute", "300", "--orders-per-hour", "3600")
HAPPENS = {"car_in", "gate_opened", "deposit", "door", "order_reported", "readings"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def up(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`linli up`, which tells all that it can."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LINLI_OTLP_ENDPOINT", collector.url)
        environment.setenv("LINLI_TRACE_RATIO", "1")
        environment.setenv("LINLI_LOG_LEVEL", "debug")
        started = Up(Path(tmp_path_factory.mktemp("linli")))
    try:
        started.wait_until_ready()
        yield started
    finally:
        assert started.stop() == 0


# One trace.


async def trace_of(collector: Collector, since_ns: int, root: str, *names: str) -> Trace:
    """The trace that a request began, once spans with these names are in it, and all between: what ends last is told last."""

    async def find() -> Trace | None:
        roots = [span for span in collector.spans if span.name == root and span.start_time_unix_nano > since_ns]
        for trace in (collector.trace(span.trace_id) for span in roots):
            if all(trace.has(name) and trace.way(name)[0].name == root for name in names):
                return trace
        return None

    found = await eventually(find, f"{root} is traced to {names}; {[span.name for span in collector.spans[-50:]]}")
    assert found is not None
    return found


async def test_one_trace_leads_from_a_cameras_post_to_its_gates_acknowledgement(town: Town, collector: Collector) -> None:
    """The acknowledgement comes over MQTT, which carries no trace: it goes on with that of its command."""
    camera, lane, since = town.viid_camera(entry=True), town.lane(entry=True, protocol="viid"), time.time_ns()
    assert await camera.register() == 0
    assert await camera.report(new_plate(), datetime.now(UTC), time.time_ns() % 100_000) == 0
    assert await town.gate(lane).opens_beyond(0, within_s=5)
    acknowledged = "process devices/{device_id}/acknowledgements"
    trace = await trace_of(collector, since, "POST /VIID/MotorVehicles", acknowledged, "UPDATE gate_openings")
    command = ["process linli.parking.v1.GateOpenRequested", "publish devices/{device_id}/commands", acknowledged]
    decision = ["POST /VIID/MotorVehicles", "publish linli.device.v1.PlateRead", "process linli.device.v1.PlateRead"]
    opening = [*decision, "publish linli.parking.v1.GateOpenRequested", *command, "publish linli.device.v1.GateAcknowledged"]
    assert set(trace.paths()) >= {
        (*decision, "BEGIN"),
        (*decision, "SELECT lanes lots gates"),
        (*decision, "INSERT outbox SELECT outbox"),
        (*decision, "COMMIT"),
        (*opening, "process linli.device.v1.GateAcknowledged", "UPDATE gate_openings"),
    }
    kinds = [Span.SPAN_KIND_SERVER, *[Span.SPAN_KIND_PRODUCER, Span.SPAN_KIND_CONSUMER] * 4, Span.SPAN_KIND_CLIENT]
    assert [span.kind for span in trace.way("UPDATE gate_openings")] == kinds


async def test_the_answer_that_opens_a_cameras_own_barrier_is_part_of_the_trace_too(town: Town, collector: Collector) -> None:
    since = time.time_ns()
    assert (await town.push_camera(entry=True).push(new_plate(), datetime.now(UTC))).opened
    trace = await trace_of(collector, since, "POST /devices/plate", "UPDATE gate_openings")
    acknowledged = [span.name for span in trace.way("UPDATE gate_openings")]
    assert acknowledged == [
        "POST /devices/plate",
        "publish linli.device.v1.GateAcknowledged",
        "process linli.device.v1.GateAcknowledged",
        "UPDATE gate_openings",
    ]


async def test_one_trace_leads_from_a_phone_through_the_gateway_and_grpc_to_who_hears_of_it(town: Town, collector: Collector) -> None:
    plate, phone, since = new_plate(), await town.visitor(new_phone()), time.time_ns()
    await town.push_camera(entry=True).push(plate, datetime.now(UTC))
    await town.session(await town.manager(), plate, "OPEN")
    # Whoever calls names the trace. Whether it is sampled they do not decide, but here everything is.
    header = f"00-{'ab' * 16}-{'cd' * 8}-00"
    await phone.call("POST", "/v1/parking/quotes", {"lot_id": town.demonstration.lot_id, "plate": plate}, traceparent=header)
    trace = await trace_of(collector, since, "POST /v1/parking/quotes", "INSERT charges SELECT charges")
    way = trace.way("INSERT charges SELECT charges")
    quote, raised = "linli.parking.v1.ParkingService/QuoteStay", "linli.billing.v1.ChargeRaised"
    names = ["POST /v1/parking/quotes", quote, quote, f"publish {raised}", f"process {raised}", "INSERT charges SELECT charges"]
    assert [span.name for span in way] == names
    client, server, producer, consumer = Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER, Span.SPAN_KIND_PRODUCER, Span.SPAN_KIND_CONSUMER
    assert [span.kind for span in way] == [server, client, server, producer, consumer, client]
    assert {span.trace_id.hex() for span in way} == {"ab" * 16}
    assert way[0].parent_span_id.hex() == "cd" * 8
    http, call, _, sent, heard, sql = map(attributes, way)
    assert http == {
        "http.request.method": "POST",
        "http.route": "/v1/parking/quotes",
        "http.response.status_code": 200,
        "url.scheme": "http",
    }
    assert call == {
        "rpc.system": "grpc",
        "rpc.service": "linli.parking.v1.ParkingService",
        "rpc.method": "QuoteStay",
        "rpc.grpc.status_code": 0,
    }
    assert (sent["messaging.system"], sent["messaging.operation.type"], sent["messaging.destination.name"]) == ("nats", "send", raised)
    assert heard["messaging.consumer.group.name"] == "billing-raise_charge_on_charge_raised"
    assert heard["messaging.message.id"] == sent["messaging.message.id"]
    assert (sql["db.system.name"], sql["db.namespace"]) == ("postgresql", "linli_billing")
    assert "$1" in str(sql["db.query.text"])


def test_spans_say_only_what_opentelemetry_has_a_name_for(collector: Collector) -> None:
    names: set[str] = set()
    for package in (stable, incubating):
        for found in pkgutil.iter_modules(package.__path__):
            constants = vars(importlib.import_module(f"{package.__name__}.{found.name}"))
            names |= {value for name, value in constants.items() if name.isupper() and isinstance(value, str)}
    assert {key for span in collector.spans for key in attributes(span)} <= names
    assert {span.name for span in collector.spans if not span.parent_span_id} > {"POST /devices/plate"}


# Nothing that names anybody.


@dataclass(frozen=True, slots=True)
class Told:
    """Something that was told, and where: a log, a field of an event, a span, the metrics."""

    where: str
    text: str


# What the contracts let through, because whoever hears it needs it: plates where cars are let in, a card where a bin knows no more.
MAY_HOLD = {
    *(("plate", f"linli.device.v1.{name}.plate") for name in ("PlateRead", "OpenedOffline")),
    *(("plate", f"linli.identity.v1.{name}.plate") for name in ("VehicleRegistered", "VehicleRemoved")),
    *(("plate", f"linli.parking.v1.{name}.plate") for name in ("VehicleEntered", "VehicleExited")),
    ("plate", "linli.access.v1.PassChanged.plate"),
    ("card", "linli.device.v1.BinDeposited.card_number"),
}


def secrets_of(town: Town, *tokens: str) -> dict[str, set[str]]:
    """What names somebody or opens something, by what it is."""
    plan = town.demonstration
    members = [member for _, _, _, members, _ in seeded.HOUSEHOLDS for member in members]
    people = [(phone, name) for phone, name, _ in (*seeded.ROLES, *members)]
    kept = json.loads((town.folder / "secrets.json").read_text())
    codes = [json.loads(line) for line in (town.folder / "codes.jsonl").read_text().splitlines()]
    return {
        "phone": {plan.manager_phone, kept.pop("operator-phone"), *(phone for phone, _ in people), *(sent["phone"] for sent in codes)},
        "name": {*(name for _, name in people), *(each.name for each in plan.residents), *(each.name for each in plan.technicians)},
        "plate": set(plan.plates),
        "PIN": set(plan.pins.values()),
        "card": {each.card_number for each in plan.residents},
        "code": {sent["code"] for sent in codes},
        "secret": {*kept.values(), *plan.secrets.values(), plan.manager_password, *tokens},
    }


def leaks(told: Iterable[Told], secrets: Mapping[str, set[str]]) -> set[tuple[str, str]]:
    """What was told of it, and where. Digits inside of longer numbers and identifiers are others'."""
    assert all(secrets.values())
    patterns = {kind: re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, words))})(?![\w-])") for kind, words in secrets.items()}
    for kind in ("name", "plate", "secret"):
        patterns[kind] = re.compile("|".join(map(re.escape, secrets[kind])))
    return {(kind, each.where) for each in told for kind, pattern in patterns.items() if pattern.search(each.text)}


def logged(folder: Path) -> Iterator[Told]:
    """Every line of every log, of PostgreSQL and NATS too, without its time."""
    for file in (*folder.glob("logs/*.log"), *folder.glob("*/server.log")):
        for line in file.read_text(encoding="utf-8").splitlines():
            yield Told("log", re.sub(r'"timestamp": "[^"]*"', "", line))


def traced(collector: Collector) -> Iterator[Told]:
    """All that spans say."""
    for span in collector.spans:
        yield Told("span", f"{span.name} {attributes(span)} {span.status} {span.events}")


async def measured(town: Town) -> Iterator[Told]:
    """The labels of every metric."""
    port = json.loads((town.folder / "ports.json").read_text())["all-ops"]["used"]
    lines = (await town.client.get(f"http://127.0.0.1:{port}/metrics")).text.splitlines()
    return (Told("metric", line.rpartition(" ")[0]) for line in lines if not line.startswith("#"))


@asynccontextmanager
async def broker(town: Town) -> AsyncIterator[Client]:
    """The broker, as operators reach it."""
    catalog.find(["all"])
    values = json.loads((town.folder / "environment.json").read_text())
    user, password = values["LINLI_OPERATOR_NATS_USER"], values["LINLI_OPERATOR_NATS_PASSWORD"]
    client = await nats.connect(values["LINLI_NATS_URL"], user=user, password=password)
    try:
        yield client
    finally:
        await client.close()


async def published(client: Client) -> list[Told]:
    """Every text in every event of every stream of ours. What devices say over MQTT lies in NATS's own until it is heard."""
    told: list[Told] = []
    for information in await client.jsm().streams_info():
        left = 0 if (information.config.name or "$").startswith("$") else information.state.messages
        subscription = await client.jetstream().pull_subscribe("", stream=information.config.name) if left else None
        while subscription is not None and left > 0:
            for message in await subscription.fetch(min(left, 500)):
                name = (message.headers or {})["ce-type"]
                told.append(Told(f"{name} headers", f"{message.subject} {(message.headers or {})['ce-subject']}"))
                told += _texts(GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name)).FromString(message.data), name)
                left -= 1
    return told


def _texts(message: Message, path: str) -> Iterator[Told]:
    for field, value in message.ListFields():
        for each in value if field.is_repeated else [value]:
            if isinstance(each, Message):
                yield from _texts(each, f"{path}.{field.name}")
            elif isinstance(each, str | bytes):
                yield Told(f"{path}.{field.name}", each if isinstance(each, str) else each.decode("utf-8", "replace"))


async def live_hurriedly(folder: Path) -> None:
    """Lets people come and go for a while."""
    command = [sys.executable, "-m", "console.main", "simulate", "--data", str(folder), *RUSH]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    happened: set[str] = set()
    try:
        async with asyncio.timeout(60):
            while not happened >= HAPPENS:
                happened.add(json.loads(await process.stdout.readline())["kind"])
    finally:
        process.kill()
        await process.wait()


async def test_nothing_that_is_told_names_anybody_or_opens_anything(town: Town, collector: Collector) -> None:
    await live_hurriedly(town.folder)
    visitor, manager = await town.visitor(new_phone()), await town.manager()
    secrets = secrets_of(town, visitor.token, manager.token)
    async with broker(town) as client:
        assert leaks([*logged(town.folder), *traced(collector), *await measured(town)], secrets) == set()
        events = await published(client)
        assert leaks(events, secrets) - MAY_HOLD == set()
        heard = {each.where.split(" ")[0] for each in events if each.where.endswith(" headers")}
        assert heard >= {"linli.device.v1.PlateRead", "linli.device.v1.BinDeposited"}

        # The search finds what is there.
        phone = next(iter(secrets["phone"]))
        notified = envelope(
            Notified(account_id=str(new_id()), kind="planted", text_zh=phone),
            new_id(),
            event_id=str(new_id()),
            occurred_at=datetime.now(UTC),
        )
        await client.jetstream().publish(notified.subject, notified.body, headers=notified.headers("test"))
        assert ("phone", "linli.notification.v1.Notified.text_zh") in leaks(await published(client), secrets)
    with (town.folder / "logs" / "planted.log").open("w") as log:
        log.write(json.dumps({"event": "planted", "who": phone}))
    span = Span(name="planted", attributes=[KeyValue(key="who", value=AnyValue(string_value=phone))])
    await town.client.post(
        collector.url,
        content=ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=[span])])]).SerializeToString(),
    )
    planted = Told("metric", f'linli_http_seconds_count{{route="/v1/{phone}"}}')
    assert leaks([*logged(town.folder), *traced(collector), planted], secrets) == {("phone", where) for where in ("log", "span", "metric")}
