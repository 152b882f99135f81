"""What processes measure: each number is there, means what it says, names nobody, and is not told when it cannot be read any more."""

import asyncio
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import asyncpg
import httpx

from servicekit import sampling
from servicekit.clock import system_clock
from servicekit.database import PLATFORM, Transaction, open_database
from servicekit.events import Received
from servicekit.identifiers import new_id
from servicekit.messaging import on
from servicekit.metrics import VERSION
from services.gateway.service import SERVICE as GATEWAY
from services.ingest import operations
from services.ingest.device_messages import DeviceMessages
from services.ingest.metrics import DOOR_PATIENCE_S, DoorQuestions
from tests.ingest.broker import guarded_servers, town_on_mqtt
from tests.ingest.fleet import CAMERA, PARKING, fleet, info, push_body
from tests.measured import is_measured, measured
from tests.servicekit.toy import QUIET, TOY, Echoed, Spoken, toy
from tests.support import Platform, Servers, eventually, platform
from tools import metrics_catalogue
from tools.metrics_catalogue import labels_of

# Labels of which each has few values, all known from the code or the contracts.
LABELS = {
    *("service", "consumer", "job", "timer", "method", "route", "status", "outcome", "version"),
    *("kind", "state", "reason", "topic", "event"),
}
UNITS = ("_seconds", "_total", "_size", "_info", "_unsent", "_waiting", "_pending", "_unacknowledged", "_in_use", "_max", "_connected")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-")


def test_every_metric_says_what_it_is_with_its_unit_in_the_name_and_labels_of_few_values() -> None:
    for metric in metrics_catalogue.declared():
        (family,) = metric.collect()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert name == "linli_devices" or name.endswith(UNITS), name
        assert set(labels_of(metric)) <= LABELS, (name, labels_of(metric))
        assert len(family.documentation) > 10, name


def test_the_catalogue_of_metrics_is_fresh() -> None:
    assert metrics_catalogue.DOCUMENT.read_text(encoding="utf-8") == metrics_catalogue.render(), "run `make metrics`"


async def scrape(running: Platform) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"{running.ops_url}/metrics")).text


async def test_a_process_tells_its_version_its_connections_and_how_late_its_loop_is(servers: Servers) -> None:
    async with platform(servers, QUIET) as running:

        async def all_measured() -> bool:
            return measured("linli_event_loop_lag_seconds_count") > 0 and is_measured("linli_outbox_unsent", service="toy")

        await eventually(all_measured)
        assert f'linli_build_info{{version="{VERSION}"}} 1.0' in await scrape(running)
        assert measured("linli_nats_connected", service="toy") == 1
        assert measured("linli_database_connections_max", service="toy") == 8
        assert measured("linli_database_wait_seconds_count", service="toy") > 0
    assert not is_measured("linli_nats_connected", service="toy")


async def test_what_waits_is_sampled_and_a_number_that_cannot_be_read_any_more_is_taken_back(servers: Servers, tmp_path: Path) -> None:
    names = ("linli_outbox_unsent", "linli_outbox_age_seconds", "linli_dead_letters_waiting")
    async with servers.database(QUIET) as url:
        database = await open_database("toy", url, pool_size=2, clock=system_clock)
        async with database.transaction(PLATFORM) as tx:
            await tx.execute(WAITING, new_id(), timedelta(minutes=2))
        await sampling.sample_database(database)
        unsent, age_s, letters = (measured(name, service="toy") for name in names)
        assert (unsent, letters) == (3, 2)
        assert 120 <= age_s < 180
        await database.close()
    await sampling.sample_database(database)
    assert not any(is_measured(name, service="toy") for name in names)


WAITING = """
WITH letters AS (
    INSERT INTO dead_letters (dead_letter_id, community_id, consumer, event_id, subject, headers, body, error, replayed_at)
    SELECT gen_random_uuid(), $1, 'toy-hear', number::text, 's', '{}', '', 'e', CASE WHEN number > 2 THEN now() END
    FROM generate_series(1, 5) AS number
)
INSERT INTO outbox (event_id, community_id, subject, type, aggregate, version, occurred_at, traceparent, body, created_at, sent_at)
SELECT gen_random_uuid(), $1, 's', 't', 'a', number, now(), '', '', now() - $2::interval, CASE WHEN number > 3 THEN now() END
FROM generate_series(1, 5) AS number
"""


async def test_consumers_tell_what_is_pending_and_what_is_in_work(servers: Servers) -> None:
    goes_on = asyncio.Event()

    async def hear(_tx: Transaction, _event: Received[Any]) -> None:
        await goes_on.wait()

    async with platform(servers, toy(on(Spoken, hear))) as running:
        for word in ("one", "two", "three"):
            await running.publish(Spoken(word_id=word), new_id())
        client = running.host.running[0].nats

        async def waiting() -> bool:
            await sampling.sample_consumer(client, "LINLI_TOY", "toy-hear")
            pending, unacknowledged = (measured(f"linli_consumer_{name}", consumer="toy-hear") for name in ("pending", "unacknowledged"))
            return (pending, unacknowledged) == (0, 3)

        assert await eventually(waiting)
        goes_on.set()
    await sampling.sample_consumer(client, "LINLI_TOY", "toy-hear")
    assert not is_measured("linli_consumer_pending", consumer="toy-hear")


async def test_what_devices_said_and_nobody_has_passed_on_is_sampled_with_the_rights_that_ingest_has(
    servers: Servers, tmp_path: Path
) -> None:
    with guarded_servers(servers, tmp_path / "broker") as guarded:
        async with town_on_mqtt(guarded, tmp_path / "town") as town:
            messages = town.running.host.running[0].resources.get(DeviceMessages)

            async def sampled() -> bool:
                await messages.sample()
                return all(is_measured("linli_consumer_pending", consumer=f"ingest-{name}") for name in ("journal", "deposit"))

            await eventually(sampled)


async def test_an_event_was_on_its_way_since_it_was_published_however_old_its_fact_is(servers: Servers) -> None:
    labels = {"consumer": "toy-echo_on_spoken"}
    name = "linli_event_lag_seconds"
    before = measured(f"{name}_count", **labels), measured(f"{name}_bucket", le="5.0", **labels)
    async with platform(servers, TOY) as running:
        community = new_id()
        async with running.transaction("toy", community) as tx:
            tx.publish(Spoken(word_id="old"), occurred_at=datetime.now(UTC) - timedelta(days=1))
        await running.event(Echoed)

        async def handled() -> bool:
            return measured(f"{name}_count", **labels) == before[0] + 1

        await eventually(handled)
        assert measured(f"{name}_bucket", le="5.0", **labels) == before[1] + 1


async def test_sampling_what_waits_reads_only_indexes(servers: Servers) -> None:
    async with servers.database(QUIET) as url:
        connection = await asyncpg.connect(servers.postgres.url(url.rpartition("/")[2]))
        try:
            await connection.execute(
                WAITING.replace("generate_series(1, 5)", "generate_series(1, 20000)")
                .replace("$1", "gen_random_uuid()")
                .replace("$2::interval", "interval '0'")
            )
            await connection.execute("ANALYZE outbox; ANALYZE dead_letters")
        finally:
            await connection.close()
        database = await open_database("toy", url, pool_size=1, clock=system_clock)
        async with database.transaction(PLATFORM) as tx:
            plan = "\n".join(row[0] for row in await tx.fetch(f"EXPLAIN {sampling.SELECT_WAITING}", 10_000))
        await database.close()
    assert "Seq Scan" not in plan
    # Either of the outbox's two indexes of what is unsent will do.
    assert {name.removesuffix("_of_aggregate") for name in re.findall(r"using (\w+)", plan)} >= {"outbox_unsent", "dead_letters_waiting"}


# What devices wait for


def decided(outcome: str) -> float:
    return measured("linli_gate_decision_seconds_count", outcome=outcome)


async def test_how_long_a_camera_waits_is_told_by_what_came_of_it(servers: Servers, tmp_path: Path) -> None:
    before = {outcome: decided(outcome) for outcome in ("opened", "held", "offline_rule")}
    async with fleet(servers, tmp_path, PARKING) as town:
        await town.configure_lane(CAMERA, CAMERA)
        for plate, outcome in (("京A12345", "ok"), ("京H12345", "payment_due"), ("京G12345", "gate")):
            body = push_body(plate)
            assert [info(await town.push(body)) for _ in range(2)] == [outcome] * 2
        await town.configure_lane(CAMERA, CAMERA, limit_ms=100, version=2)
        town.forget(CAMERA)
        assert info(await town.push(push_body("京B12345"))) == "late"
    assert {outcome: decided(outcome) - before[outcome] for outcome in before} == {"opened": 2, "held": 1, "offline_rule": 1}


def test_a_door_that_was_decided_on_after_its_terminals_patience_was_decided_late() -> None:
    def told() -> list[float]:
        return [measured("linli_door_decision_seconds_count", outcome=outcome) for outcome in ("opened", "refused", "late")]

    before, questions, now = told(), DoorQuestions(), monotonic()
    questions.ask("never answered", now - 3600)
    for name, asked_at, outcome in (("a", now, "opened"), ("b", now, "refused"), ("c", now - DOOR_PATIENCE_S - 0.1, "opened")):
        questions.ask(name, asked_at)
        for _ in range(2):
            questions.decided(name, outcome)
        questions.ask(name, asked_at)
    questions.ask("d", now)
    questions.decided("asked elsewhere", "opened")
    assert [after - earlier for after, earlier in zip(told(), before, strict=True)] == [1, 1, 2]


async def test_devices_are_counted_by_kind_and_by_whether_they_were_heard(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await town.push(push_body("京A12345"))
        await town.turn()
        call = town.running.host.running[0].call()
        await operations.count_devices(call)
        told = [measured("linli_devices", kind=kind, state=state) for kind in ("plate_camera", "gate") for state in ("online", "offline")]
        assert told == [1, 0, 0, 1]
    with suppress(Exception):
        await operations.count_devices(call)
    assert not is_measured("linli_devices", kind="plate_camera", state="online")


# HTTP


async def test_requests_are_told_by_the_template_of_their_path_and_strangers_make_no_series_of_their_own(servers: Servers) -> None:
    async with platform(servers, GATEWAY) as running, httpx.AsyncClient(base_url=running.http_urls["gateway"], trust_env=False) as client:
        for verb, path in (("GET", f"/v1/parking/lots/{new_id()}"), ("GET", "/nowhere/13800000000"), ("PROPFIND", "/v1/community")):
            await client.request(verb, path)
        await client.get("/v1/me/notifications")
        text = await scrape(running)
    told = set(re.findall(r'linli_http_seconds_count\{method="(\w+)",route="([^"]*)",service="gateway",status="\d+"\}', text))
    assert told >= {
        ("GET", "/v1/parking/lots/{lot_id}"),
        ("GET", ""),
        ("_OTHER", "/v1/community"),
        ("GET", "/v1/me/notifications"),
    }
    assert "13800000000" not in text
    assert "PROPFIND" not in text
