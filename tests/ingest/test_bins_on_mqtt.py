"""Smart bins on MQTT, through a real broker: what they weigh is kept and passed on once, and nobody speaks for another."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import aiomqtt
import nats
import pytest
import pytest_asyncio

from console import databases
from infra.local import accounts
from linli.device.v1.events_pb2 import BinDeposited, BinReported
from linli.ingest.v1.ingest_pb2 import DisableDeviceRequest
from servicekit.events import Received
from services.ingest.devices import Kind
from tests.ingest.broker import PASSWORDS, guarded_servers, mqtt, town_on_mqtt
from tests.ingest.fleet import EDGE_BOX, INGEST, Fleet, second_instance, stored
from tests.support import Servers, environment, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
DEAD = "SELECT subject, body, error FROM dead_letters WHERE subject = $1 AND replayed_at IS NULL ORDER BY failed_at, dead_letter_id"
_numbers = count(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bins")


@pytest.fixture(scope="module")
def guarded(servers: Servers, folder: Path) -> Iterator[Servers]:
    """The servers, with a guarded broker for all tests of this file."""
    with guarded_servers(servers, folder) as own:
        yield own


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(guarded: Servers, folder: Path) -> AsyncIterator[Fleet]:
    async with town_on_mqtt(guarded, folder) as running:
        yield running


class Bin:
    """A bin with its connection."""

    def __init__(self, town: Fleet, device_id: str, client: aiomqtt.Client) -> None:
        self.device_id = device_id
        self._town = town
        self._client = client

    async def says(self, topic: str, said: Any, device_id: str = "") -> None:
        """Publishes; returns when the broker has it. Bytes go as they are."""
        body = said if isinstance(said, bytes) else json.dumps(said)
        await self._client.publish(f"devices/{device_id or self.device_id}/{topic}", body, qos=1)

    async def weighs(self, record_id: str, grams: Any = 1240, **more: Any) -> None:
        """Publishes a deposit."""
        at = datetime.now(UTC).isoformat()
        await self.says("deposit", {"id": record_id, "compartment": "recyclable", "grams": grams, "fill": 0.42, "at": at, **more})

    async def event(self, where: Callable[[BinDeposited], bool]) -> Received[BinDeposited]:
        """The first event of a deposit of this bin that fits; waits for it."""
        fits: Callable[[Received[BinDeposited]], bool] = lambda event: event.aggregate == self.device_id and where(event.message)  # noqa: E731
        return await self._town.running.event(BinDeposited, fits)

    def heard(self) -> list[tuple[str, int]]:
        """What was passed on of this bin until now: records and their grams."""
        events = self._town.running.events(BinDeposited)
        return [(event.message.record_id, event.message.grams) for event in events if event.aggregate == self.device_id]


@pytest_asyncio.fixture(loop_scope="module")
async def smart_bin(guarded: Servers, town: Fleet) -> AsyncIterator[Bin]:
    """A bin of this test's own."""
    device_id = f"bin-{next(_numbers)}"
    secret = await town.register(device_id, Kind.BIN)
    async with mqtt(guarded, device_id, secret) as client:
        yield Bin(town, device_id, client)


async def test_what_a_bin_weighs_is_passed_on_in_its_order(smart_bin: Bin, town: Fleet) -> None:
    at = datetime(2026, 1, 4, 23, 31, 9, tzinfo=UTC)
    await smart_bin.weighs("first", card="0042", code="qr-1", at="2026-01-05T07:31:09+08:00")
    records = [f"record-{number}" for number in range(200)]
    await asyncio.gather(*(smart_bin.weighs(record) for record in records))
    await smart_bin.event(lambda found: found.record_id == records[-1])
    event = await smart_bin.event(lambda found: found.record_id == "first")
    found = event.message
    assert (found.card_number, found.code, found.compartment, found.grams, found.fill_permille) == ("0042", "qr-1", "recyclable", 1240, 420)
    assert found.occurred_at.ToDatetime(UTC) == at
    assert abs(found.received_at.ToDatetime(UTC) - datetime.now(UTC)) < timedelta(seconds=30)
    assert event.community_id == town.community_id
    assert [record for record, _ in smart_bin.heard()] == ["first", *records]


async def test_a_record_that_is_sent_again_is_one_event_and_its_id_with_other_content_another(smart_bin: Bin, guarded: Servers) -> None:
    before = await kept(guarded)
    at = datetime.now(UTC).isoformat()
    for grams in (500, 500, 700, 500):
        await smart_bin.weighs("same", grams, at=at)
    await smart_bin.weighs("last")
    await smart_bin.event(lambda found: found.record_id == "last")
    assert smart_bin.heard() == [("same", 500), ("same", 700), ("last", 1240)]
    assert await kept(guarded) == before + 3


async def kept(guarded: Servers) -> int:
    """How many events of deposits are stored."""
    try:
        return await stored(guarded, "DEVICE_DEPOSIT")
    except nats.js.errors.NotFoundError:
        return 0


async def test_odd_values_are_passed_on_for_waste_to_judge(smart_bin: Bin) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    for record, grams in (("negative", -5), ("nothing", 0), ("absurd", 10**9), ("text", "12.0")):
        await smart_bin.weighs(record, grams)
    await smart_bin.weighs("tomorrow", compartment="nowhere", at=tomorrow)
    last = await smart_bin.event(lambda found: found.record_id == "tomorrow")
    assert (last.message.compartment, last.message.occurred_at.ToDatetime(UTC).isoformat()) == ("nowhere", tomorrow)
    assert smart_bin.heard() == [("negative", -5), ("nothing", 0), ("absurd", 10**9), ("text", 12), ("tomorrow", 1240)]


async def test_what_is_no_deposit_is_counted_and_kept_for_an_operator_and_nothing_of_it_is_logged(
    smart_bin: Bin, town: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    bodies = [b"", b"not even JSON 0042", b'{"grams": 5, "card": "0042"}', b'{"id": "r", "grams": "heavy", "card": "0042"}']
    for body in (*bodies, bodies[1]):
        await smart_bin.says("deposit", body)
    await smart_bin.weighs("good")
    await smart_bin.event(lambda found: found.record_id == "good")

    async def letters() -> list[tuple[bytes, str]]:
        async with town.running.transaction("ingest", town.community_id) as tx:
            return [(row["body"], row["error"]) for row in await tx.fetch(DEAD, f"$MQTT.msgs.devices.{smart_bin.device_id}.deposit")]

    async def all_are_kept() -> bool:
        return len(await letters()) == len(bodies)

    async def all_are_counted() -> bool:
        await town.turn()
        return (await town.device(smart_bin.device_id)).irregular_records == len(bodies) + 1

    await eventually(all_are_kept)
    await eventually(all_are_counted)
    assert sorted(await letters()) == sorted(zip(bodies, ["no JSON object", "no JSON object", "id", "grams"], strict=True))
    assert smart_bin.heard() == [("good", 1240)]
    written = capsys.readouterr()
    assert "device_messages_malformed" in written.out + written.err
    assert "0042" not in written.out + written.err


async def test_a_dead_letter_that_can_be_read_now_is_passed_on_when_an_operator_replays_it(
    smart_bin: Bin, town: Fleet, guarded: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    await smart_bin.says("deposit", b'{"id": "late", "grams": {"value": 700}}')
    subject = f"$MQTT.msgs.devices.{smart_bin.device_id}.deposit"

    async def waiting() -> int:
        async with town.running.transaction("ingest", town.community_id) as tx:
            return len(await tx.fetch(DEAD, subject))

    async def is_kept() -> bool:
        return await waiting() == 1

    async def is_replayed() -> bool:
        return await waiting() == 0

    await eventually(is_kept)
    # As after an update that understands such scales.
    monkeypatch.setattr("services.ingest.bins._grams", lambda said: said["grams"]["value"])
    operator = {"LINLI_OPERATOR_NATS_USER": accounts.OPERATOR, "LINLI_OPERATOR_NATS_PASSWORD": PASSWORDS[accounts.OPERATOR]}
    async with town.running.transaction("ingest", town.community_id) as tx:
        letter_id = await tx.fetchval("SELECT dead_letter_id FROM dead_letters WHERE subject = $1", subject)
    address = f"nats://{guarded.nats.host}:{guarded.nats.port}"
    with environment({**operator, "LINLI_NATS_URL": address, "LINLI_INGEST_DATABASE_URL": town.running.database_urls["ingest"]}):
        await databases.replay_dead_letters("ingest", [str(letter_id)])
    await smart_bin.event(lambda found: (found.record_id, found.grams) == ("late", 700))
    await eventually(is_replayed)


async def test_a_bin_that_publishes_under_anothers_topic_is_refused_and_the_broker_says_so(
    smart_bin: Bin, town: Fleet, folder: Path
) -> None:
    await town.register("bin-of-somebody", Kind.BIN)
    log = folder / "nats" / "server.log"
    for topic in ("deposit", "status"):
        await smart_bin.says(topic, {"id": "forged", "grams": 5, "fill": {"other": 1}}, device_id="bin-of-somebody")
    await smart_bin.weighs("own")
    await smart_bin.event(lambda found: found.record_id == "own")
    assert not [event for event in town.running.events(BinDeposited) if event.message.record_id == "forged"]
    assert not [event for event in town.running.events(BinReported) if event.aggregate == "bin-of-somebody"]
    assert not await _is_seen(town, "bin-of-somebody")
    refusals = [line for line in log.read_text().splitlines() if "Publish Violation" in line]
    for topic in ("deposit", "status"):
        assert any(f"devices.bin-of-somebody.{topic}" in line and smart_bin.device_id in line for line in refusals)


async def _is_seen(town: Fleet, device_id: str) -> bool:
    await town.turn()
    return (await town.device(device_id)).HasField("last_seen_at")


async def test_neither_another_kind_of_device_nor_a_disabled_bin_is_heard(smart_bin: Bin, town: Fleet, guarded: Servers) -> None:
    async with mqtt(guarded, EDGE_BOX, town.secrets[EDGE_BOX]) as box:
        await Bin(town, EDGE_BOX, box).weighs("of a box")
    await smart_bin.weighs("before")
    await smart_bin.event(lambda found: found.record_id == "before")
    await town.caller.call(f"{INGEST}/DisableDevice", DisableDeviceRequest(device_id=smart_bin.device_id))
    town.forget(smart_bin.device_id)
    await smart_bin.weighs("after")
    await smart_bin.says("status", {"fill": {}})
    other = await town.register("bin-that-works", Kind.BIN)
    async with mqtt(guarded, "bin-that-works", other) as client:
        await Bin(town, "bin-that-works", client).weighs("later")
        await Bin(town, "bin-that-works", client).says("status", {})
    await town.running.event(BinReported, lambda event: event.aggregate == "bin-that-works")
    records = {event.message.record_id for event in town.running.events(BinDeposited)}
    assert "later" in records
    assert not records & {"after", "of a box"}
    assert not [event for event in town.running.events(BinReported) if event.aggregate == smart_bin.device_id]


async def test_how_a_bin_is_is_passed_on_and_shows_that_it_lives(smart_bin: Bin, town: Fleet) -> None:
    await smart_bin.says("status", b"no status at all")
    await smart_bin.says("status", {"fill": {"recyclable": 0.42}, "smoke": True, "temperature_c": 24})
    event = await town.running.event(BinReported, lambda event: event.aggregate == smart_bin.device_id)
    assert (dict(event.message.fill_permille), event.message.smoke, event.message.temperature_c) == ({"recyclable": 420}, True, 24)
    assert not event.message.HasField("occurred_at")
    await town.turn()
    shown = await town.device(smart_bin.device_id)
    assert (shown.online, shown.irregular_records) == (True, 1)


async def test_a_message_that_is_too_long_is_not_kept_and_holds_nothing_up(smart_bin: Bin) -> None:
    await smart_bin.weighs("long", compartment="x" * 20_000)
    await smart_bin.weighs("short", compartment="x" * 2_000)
    await smart_bin.event(lambda found: found.record_id == "short")
    assert smart_bin.heard() == [("short", 1240)]


async def test_a_bin_gone_mad_is_counted_but_fills_no_disk(smart_bin: Bin, town: Fleet) -> None:
    garbage = 300
    await asyncio.gather(*(smart_bin.says("deposit", f"garbage {number}".encode()) for number in range(garbage)))

    async def all_is_counted() -> bool:
        await town.turn()
        return (await town.device(smart_bin.device_id)).irregular_records == garbage

    await eventually(all_is_counted)
    async with town.running.transaction("ingest", town.community_id) as tx:
        letters = await tx.fetch(DEAD, f"$MQTT.msgs.devices.{smart_bin.device_id}.deposit")
    assert len(letters) < garbage


async def test_what_is_weighed_while_ingest_is_away_is_heard_afterwards_as_of_when_it_came(smart_bin: Bin, town: Fleet) -> None:
    await smart_bin.weighs("before")
    await smart_bin.event(lambda found: found.record_id == "before")
    await town.running.host.stop()
    records = [f"away-{number}" for number in range(50)]
    await asyncio.gather(*(smart_bin.weighs(record) for record in records))
    came_at = datetime.now(UTC)
    async with second_instance(town):
        last = await smart_bin.event(lambda found: found.record_id == records[-1])
        assert last.message.received_at.ToDatetime(UTC) <= came_at
        assert [record for record, _ in smart_bin.heard()] == ["before", *records]


async def test_a_broker_that_has_lost_its_disk_acknowledges_nothing_before_it_keeps_it_again(servers: Servers, tmp_path: Path) -> None:
    with guarded_servers(servers, tmp_path) as guarded:
        async with town_on_mqtt(guarded, tmp_path) as town:
            secret = await town.register("bin-1", Kind.BIN)
            async with mqtt(guarded, "bin-1", secret) as client:
                await Bin(town, "bin-1", client).weighs("before")
            await asyncio.to_thread(guarded.nats.kill)
            shutil.rmtree(tmp_path / "nats" / "data" / "jetstream")
            await asyncio.to_thread(guarded.nats.restart)
            acknowledged: list[str] = []

            async def come_back() -> bool:
                try:
                    async with mqtt(guarded, "bin-1", secret) as client:
                        for number in range(20):
                            await Bin(town, "bin-1", client).weighs(f"after-{number}")
                            acknowledged.append(f"after-{number}")
                except aiomqtt.MqttError:
                    return False  # Nobody lets it in yet.
                return True

            await eventually(come_back)
            async with mqtt(guarded, "bin-1", secret) as client:
                back = Bin(town, "bin-1", client)
                await back.weighs("last")
                await back.event(lambda found: found.record_id == "last")
                assert set(acknowledged) <= {record for record, _ in back.heard()}
