"""Logs that machines read and that name nobody; traces that follow a request through everything."""

import asyncio
import json
import logging
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from servicekit import telemetry
from servicekit.config import ProcessSettings
from servicekit.database import PLATFORM, Transaction
from servicekit.errors import Conflict, Internal
from servicekit.events import Received
from servicekit.messaging import on, on_batch
from tests.servicekit.toy import MISBEHAVE, SAY, TOY, Echoed, Spoken, message, toy
from tests.support import Servers, eventually, platform, principal

PHONE = "13800000000"
COMMUNITY = uuid.UUID("018f0000-0000-7000-8000-000000000001")


@pytest.fixture
def configured(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Telemetry as a process has it, with spans kept in memory; afterwards as the tests have it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    telemetry.configure(ProcessSettings(trace_ratio=0.0), "toy", InMemorySpanExporter())
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()
    telemetry._tracer = telemetry._provider = None


@pytest.fixture
def exporter(configured: None) -> InMemorySpanExporter:
    assert telemetry._provider is not None
    processor = telemetry._provider._active_span_processor._span_processors[0]
    exporter = processor.span_exporter  # type: ignore[attr-defined]
    assert isinstance(exporter, InMemorySpanExporter)
    return exporter


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What was logged, each line a JSON object."""
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_a_log_line_is_json_with_its_trace_and_request(configured: None, capfd: pytest.CaptureFixture[str]) -> None:
    token = telemetry.request_id.set("r1")
    with telemetry.entry("toy", f"00-{'a' * 32}-{'b' * 16}-00"):
        telemetry.log.warning("something", text='quotes " and\nlines', chinese="门")
    telemetry.request_id.reset(token)
    (line,) = lines(capfd)
    assert (line["event"], line["level"]) == ("something", "warning")
    assert (line["trace_id"], line["span_id"], line["request_id"]) == ("a" * 32, "b" * 16, "r1")
    assert (line["text"], line["chinese"]) == ('quotes " and\nlines', "门")


def test_a_library_that_logs_in_its_own_way_logs_json_too(configured: None, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError(PHONE)
    except ValueError:
        logging.getLogger("some.library").exception('it said "no"\nand left')
    (line,) = lines(capfd)
    assert (line["event"], line["logger"], line["level"]) == ('it said "no"\nand left', "some.library", "error")
    assert "ValueError at test_telemetry.py" in line["exception"]
    assert PHONE not in json.dumps(line)


def test_an_exception_in_the_log_is_its_type_and_place_and_what_caused_it_and_no_text(
    configured: None, capfd: pytest.CaptureFixture[str]
) -> None:
    def look_up() -> None:
        try:
            raise KeyError(PHONE)
        except KeyError as error:
            raise Conflict("toy.stopped", "停", f"stopped by {PHONE}") from error

    try:
        look_up()
    except Conflict:
        telemetry.log.exception("failed")
    (line,) = lines(capfd)
    assert "Conflict toy.stopped at test_telemetry.py" in line["exception"]
    assert "because of KeyError at" in line["exception"]
    assert PHONE not in json.dumps(line)


async def test_nothing_personal_is_logged_of_an_error_of_the_database(
    servers: Servers, configured: None, capfd: pytest.CaptureFixture[str]
) -> None:
    async def collide(tx: Transaction, event: Received[Any]) -> None:
        await tx.execute("CREATE TEMPORARY TABLE phones (phone text CONSTRAINT one_phone UNIQUE) ON COMMIT DROP")
        for _ in range(2):
            await tx.execute("INSERT INTO phones VALUES ($1)", event.message.word)

    async with platform(servers, toy(on(Spoken, collide))) as running:
        await running.publish(Spoken(word_id="a", word=PHONE), COMMUNITY)
        with pytest.raises(Internal):
            await running.caller().call(MISBEHAVE, message("MisbehaveRequest", how="secret"))

        async def logged() -> bool:
            logs.extend(lines(capfd))
            return {"event_failed", "method_failed"} <= {line["event"] for line in logs}

        logs: list[dict[str, Any]] = []
        await eventually(logged)
    assert any("UniqueViolationError 23505 phones one_phone" in line.get("error", "") for line in logs)
    assert PHONE not in json.dumps(logs)


@pytest.fixture
async def relatives(servers: Servers, exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    """The spans of one sampled call, whose event another handler hears and answers with one more."""
    async with platform(servers, TOY) as running:
        who = principal("toy.say", community_id=COMMUNITY, modules=["toy"])
        await running.caller(who).call(SAY, message("SayRequest", word="hi"), traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
        await running.event(Echoed)
        async with running.transaction("toy", PLATFORM) as tx:
            assert {row["traceparent"][3:35] for row in await tx.fetch("SELECT traceparent FROM outbox")} == {"a" * 32}
    telemetry.flush()
    return list(exporter.get_finished_spans())


async def test_one_trace_follows_a_call_through_the_outbox_and_the_broker_to_the_handlers_sql(relatives: list[ReadableSpan]) -> None:
    assert {f"{span.context.trace_id:032x}" for span in relatives if span.context} == {"a" * 32}
    names = {span.context.span_id: span.name for span in relatives if span.context}
    tree = {(names.get(span.parent.span_id, ""), span.name, span.kind) for span in relatives if span.parent}
    call, said, heard = "linli.toy.v1.ToyService/Say", "publish linli.toy.v1.Spoken", "process linli.toy.v1.Spoken"
    transaction = {"BEGIN", "INSERT heard", "INSERT outbox SELECT outbox", "COMMIT"}
    assert tree == {
        ("", call, SpanKind.SERVER),
        *((call, each, SpanKind.CLIENT) for each in {*transaction, "SELECT heard"}),
        (call, said, SpanKind.PRODUCER),
        (said, heard, SpanKind.CONSUMER),
        *((heard, each, SpanKind.CLIENT) for each in transaction),
        (heard, "publish linli.toy.v1.Echoed", SpanKind.PRODUCER),
    }


async def test_a_call_that_nobody_samples_makes_no_span_and_its_id_travels_all_the_same(
    servers: Servers, exporter: InMemorySpanExporter
) -> None:
    async with platform(servers, TOY) as running:
        who = principal("toy.say", community_id=COMMUNITY, modules=["toy"])
        await running.caller(who).call(SAY, message("SayRequest", word="hi"))
        await running.event(Echoed)
        async with running.transaction("toy", PLATFORM) as tx:
            traces = {row["traceparent"] for row in await tx.fetch("SELECT traceparent FROM outbox")}
    telemetry.flush()
    assert exporter.get_finished_spans() == ()
    assert len({trace[3:35] for trace in traces}) == 1
    assert all(trace.endswith("-00") and telemetry.parse_traceparent(trace) for trace in traces)


def test_a_trace_begins_here_at_the_sampling_ratio(configured: None, exporter: InMemorySpanExporter) -> None:
    telemetry.configure(ProcessSettings(trace_ratio=1.0), "toy", exporter)
    with telemetry.entry("first", None) as span:
        assert span is not None
        with telemetry.span("second"):
            pass
    telemetry.flush()
    second, first = exporter.get_finished_spans()
    assert first.parent is None
    assert second.parent is not None
    assert first.context is not None
    assert second.parent.span_id == first.context.span_id


def test_a_span_of_what_failed_says_so_without_the_text(configured: None, exporter: InMemorySpanExporter) -> None:
    def fail() -> None:
        with telemetry.entry("failing", f"00-{'a' * 32}-{'b' * 16}-01"):
            raise ValueError(PHONE)

    with pytest.raises(ValueError, match=PHONE):
        fail()
    telemetry.flush()
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok
    assert PHONE not in span.to_json()


@pytest.mark.parametrize(("ratio", "flag"), [(0.0, "01"), (1.0, "00")])
def test_whom_we_do_not_trust_names_the_trace_and_does_not_decide_whether_it_is_sampled(
    configured: None, exporter: InMemorySpanExporter, ratio: float, flag: str
) -> None:
    telemetry.configure(ProcessSettings(trace_ratio=ratio), "toy", exporter)
    with telemetry.entry("asked", f"00-{'a' * 32}-{'b' * 16}-{flag}", is_trusted=False) as span:
        assert (span is not None) == (ratio == 1.0)
        passed_on = telemetry.traceparent()
    assert passed_on.startswith(f"00-{'a' * 32}-")
    assert passed_on.endswith("01" if ratio == 1.0 else "00")


async def test_events_that_are_handled_together_are_part_of_one_trace_and_linked_to_the_others(
    servers: Servers, exporter: InMemorySpanExporter
) -> None:
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def hear(_tx: Transaction, _events: Sequence[Received[Any]]) -> None:
        begun.set()
        await goes_on.wait()

    async with platform(servers, toy(on_batch(Spoken, hear))) as running:
        await running.publish(Spoken(word_id="first", word="first"), COMMUNITY)
        await begun.wait()
        for trace in "cde":
            header = f"00-{trace * 32}-{'b' * 16}-{'00' if trace == 'c' else '01'}"
            await running.publish(Spoken(word_id=trace, word=trace), COMMUNITY, traceparent=header)
        goes_on.set()

        async def handled() -> list[ReadableSpan]:
            telemetry.flush()
            return [span for span in exporter.get_finished_spans() if span.kind is SpanKind.CONSUMER]

        (together,) = await eventually(handled)
    assert together.context is not None
    assert f"{together.context.trace_id:032x}" == "d" * 32
    assert [f"{link.context.trace_id:032x}" for link in together.links] == ["e" * 32]
    assert together.attributes is not None
    assert together.attributes["messaging.batch.message_count"] == 3


def test_a_statement_is_named_after_what_it_does_to_which_tables() -> None:
    sql = """
    WITH seen AS (SELECT read_id FROM reads JOIN lots USING (lot_id)), kept AS MATERIALIZED (INSERT INTO stays SELECT * FROM seen)
    UPDATE lanes SET at = now() FROM unnest($1::uuid[]) WHERE EXISTS (SELECT FROM kept FOR UPDATE)
    """
    assert telemetry._summary(sql) == "SELECT reads lots INSERT stays UPDATE lanes"


@pytest.mark.parametrize(
    "header",
    [None, "", "x", "00-" + "0" * 32 + "-" + "b" * 16 + "-01", f"00-{'g' * 32}-{'b' * 16}-01", "--" * 40, f"00-{'a' * 32}-{'b' * 16}"],
)
def test_a_trace_header_that_is_none_is_taken_for_none(header: str | None) -> None:
    assert telemetry.parse_traceparent(header) is None


def test_a_collector_that_does_not_answer_does_not_keep_a_process_from_ending(configured: None) -> None:
    telemetry.configure(ProcessSettings(trace_ratio=1.0, otlp_endpoint="http://10.255.255.1:4318"), "toy")
    with telemetry.entry("unheard", None):
        pass
    telemetry.flush(0.1)
