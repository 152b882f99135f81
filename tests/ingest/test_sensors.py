"""Sensors on MQTT, through a real broker: what they notice is kept and passed on once, in its order, by nobody but themselves."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import aiomqtt
import pytest
import pytest_asyncio

from linli.device.v1.events_pb2 import ObservationMade
from services.ingest.devices import Kind
from tests.ingest.broker import guarded_servers, mqtt, town_on_mqtt
from tests.ingest.fleet import EDGE_BOX, Fleet, second_instance, stored
from tests.support import Servers, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
SENSOR = "sensor-1"


@pytest.fixture(scope="module")
def guarded(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The servers, with a guarded broker for all tests of this file."""
    with guarded_servers(servers, tmp_path_factory.mktemp("broker")) as own:
        yield own


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(guarded: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with town_on_mqtt(guarded, tmp_path_factory.mktemp("town")) as running:
        await running.register(SENSOR, Kind.SENSOR)
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def sensor(guarded: Servers, town: Fleet) -> AsyncIterator[aiomqtt.Client]:
    async with mqtt(guarded, SENSOR, town.secrets[SENSOR]) as client:
        yield client


async def notices(client: aiomqtt.Client, record_id: str, device_id: str = SENSOR, **more: Any) -> None:
    """Publishes an observation; returns when the broker has it."""
    said = {"id": record_id, "kind": "motion", "at": "2026-01-05T07:31:09+08:00", **more}
    await client.publish(f"devices/{device_id}/observation", json.dumps(said), qos=1)


def heard(town: Fleet, device_id: str = SENSOR) -> list[str]:
    return [event.message.record_id for event in town.running.events(ObservationMade) if event.aggregate == device_id]


async def passed_on(town: Fleet, record_id: str) -> ObservationMade:
    event = await town.running.event(ObservationMade, lambda event: event.message.record_id == record_id)
    assert event.community_id == town.community_id
    return event.message


async def test_what_a_sensor_notices_is_passed_on_in_its_order(sensor: aiomqtt.Client, town: Fleet) -> None:
    records = [f"record-{number}" for number in range(100)]
    await asyncio.gather(*(notices(sensor, record) for record in records))
    await notices(sensor, "sos", kind="sos", lat=31.2304, lon="121.4737", confidence=1)
    found = await passed_on(town, "sos")
    assert (found.kind, found.source_id, found.latitude, found.longitude, found.confidence_permille) == (
        "sos",
        SENSOR,
        31.2304,
        121.4737,
        1000,
    )
    assert found.occurred_at.ToDatetime(UTC) == datetime(2026, 1, 4, 23, 31, 9, tzinfo=UTC)
    assert heard(town)[-101:] == [*records, "sos"]
    await town.turn()
    assert (await town.device(SENSOR)).online


async def test_a_record_that_is_sent_again_is_one_event(sensor: aiomqtt.Client, town: Fleet, guarded: Servers) -> None:
    before = await stored(guarded, "DEVICE_OBSERVATION")
    for _ in range(3):
        await notices(sensor, "same")
    await notices(sensor, "same", kind="contact")
    await notices(sensor, "last-of-these")
    await passed_on(town, "last-of-these")
    assert await stored(guarded, "DEVICE_OBSERVATION") == before + 3


async def test_what_is_no_observation_is_counted_and_holds_nothing_up(sensor: aiomqtt.Client, town: Fleet) -> None:
    await notices(sensor, "odd", kind="跌倒")
    await notices(sensor, "", kind="fall")
    await notices(sensor, "lost", kind="position")
    await sensor.publish(f"devices/{SENSOR}/observation", b"motion", qos=1)
    await notices(sensor, "even")
    await passed_on(town, "even")
    assert not {"odd", "", "lost"} & set(heard(town))

    async def is_counted() -> bool:
        await town.turn()
        return (await town.device(SENSOR)).irregular_records == 4

    await eventually(is_counted)


async def test_nobody_but_a_sensor_is_heard_there_and_none_for_another(sensor: aiomqtt.Client, town: Fleet, guarded: Servers) -> None:
    await town.register("sensor-of-somebody", Kind.SENSOR)
    async with mqtt(guarded, EDGE_BOX, town.secrets[EDGE_BOX]) as box:
        await notices(box, "of a box", EDGE_BOX)
        await notices(box, "of a box", SENSOR)
    await notices(sensor, "forged", "sensor-of-somebody")
    await sensor.publish(f"devices/{SENSOR}/presented", json.dumps({"id": "p", "kind": "code", "value": "x-1"}), qos=1)
    await notices(sensor, "own")
    await passed_on(town, "own")
    assert "own" in heard(town)
    assert not {"of a box", "forged"} & {event.message.record_id for event in town.running.events(ObservationMade)}


async def test_what_is_noticed_while_ingest_is_away_is_heard_afterwards_as_of_when_it_came(sensor: aiomqtt.Client, town: Fleet) -> None:
    await town.running.host.stop()
    records = [f"away-{number}" for number in range(30)]
    for record in records:
        await notices(sensor, record, at=None)
    came_at = datetime.now(UTC)
    async with second_instance(town):
        found = await passed_on(town, records[-1])
        assert found.occurred_at.ToDatetime(UTC) <= found.received_at.ToDatetime(UTC) <= came_at
        assert heard(town)[-len(records) :] == records
