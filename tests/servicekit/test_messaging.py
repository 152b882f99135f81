"""Events from one service's transaction to another's handler, through duplicates, failures and a broker that comes and goes."""

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest
from nats.js.api import ConsumerConfig

from console import databases
from servicekit import database as database_module
from servicekit import messaging
from servicekit.config import NatsSettings, ProcessSettings
from servicekit.database import PLATFORM, InboxEntry, Transaction
from servicekit.errors import Conflict, Unavailable
from servicekit.events import Received, envelope, event_type
from servicekit.identifiers import new_id
from servicekit.messaging import Publisher, listen, on, on_batch, on_outside
from tests.servicekit.toy import INSERT, TOY, Echoed, Rattled, Spoken, Whispered, kind, texts, toy
from tests.servicekit.wire import wire_to
from tests.support import Platform, Servers, eventually, platform

COMMUNITY = uuid.UUID("018f0000-0000-7000-8000-000000000001")
DEAD = "SELECT count(*) FROM dead_letters"


async def note(tx: Transaction, event: Received[Any]) -> None:
    await tx.execute(INSERT, tx.community_id, event.message.word)


async def heard(running: Platform) -> Sequence[str]:
    async with running.transaction("toy", PLATFORM) as tx:
        return await texts(tx)


def hears(running: Platform, *expected: str) -> Callable[[], Awaitable[bool]]:
    """Whether exactly these words were stored, in whatever order."""

    async def probe() -> bool:
        return sorted(await heard(running)) == sorted(expected)

    return probe


def dead(running: Platform, count: int) -> Callable[[], Awaitable[bool]]:
    async def probe() -> bool:
        async with running.transaction("toy", PLATFORM) as tx:
            return bool(await tx.fetchval(DEAD) == count)

    return probe


async def say(running: Platform, *words: str, word_id: str = "") -> None:
    for word in words:
        await running.publish(Spoken(word_id=word_id or word, word=word), COMMUNITY)


async def consumer_info(servers: Servers, name: str, stream: str = "LINLI_TOY") -> Any:
    client = await nats.connect(servers.nats.url)
    try:
        return await client.jetstream().consumer_info(stream, name)
    finally:
        await client.close()


async def settled(servers: Servers, name: str) -> None:
    """Waits until a consumer has nothing in work and nothing before it."""

    async def probe() -> bool:
        info = await consumer_info(servers, name)
        return bool(info.num_pending == 0 and info.num_ack_pending == 0)

    await eventually(probe)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once."""
    monkeypatch.setattr(messaging, "_RETRY_DELAYS_S", (0.01,))
    monkeypatch.setattr(messaging, "_PATIENCE_S", (0.01,))


# Once


async def _deliver_twice(servers: Servers) -> Sequence[str]:
    async with platform(servers, toy(on(Spoken, note))) as running:
        identifier = await running.publish(Spoken(word_id="a", word="once"), COMMUNITY)
        event = envelope(Spoken(word_id="a", word="once"), COMMUNITY, event_id=identifier, occurred_at=running.host.running[0].clock())
        headers = {name: value for name, value in event.headers("toy").items() if name != "Nats-Msg-Id"}
        await running.host.running[0].publisher.send(event.subject, event.body, headers)
        await say(running, "other")
        await settled(servers, "toy-note")
        return await heard(running)


async def test_an_event_delivered_twice_is_handled_once(servers: Servers) -> None:
    assert sorted(await _deliver_twice(servers)) == ["once", "other"]


async def test_without_its_inbox_row_an_event_delivered_twice_is_handled_twice(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = database_module._begin

    async def begin_without_inbox(connection: Any, scope: Any, _inbox: InboxEntry | None) -> None:
        await begin(connection, scope, None)

    monkeypatch.setattr(database_module, "_begin", begin_without_inbox)
    assert sorted(await _deliver_twice(servers)) == ["once", "once", "other"]


async def test_what_a_handler_writes_and_publishes_commits_together(servers: Servers) -> None:
    async with platform(servers, TOY) as running:
        await say(running, "hello")
        echoed = await running.event(Echoed)
        assert (echoed.message.word, echoed.community_id) == ("hello", COMMUNITY)
        assert await heard(running) == ["hello"]


async def test_two_processes_share_the_events_and_each_is_handled_once(servers: Servers) -> None:
    service = toy(on(Spoken, note))
    async with platform(servers, service) as one:
        settings = {"LINLI_TOY_DATABASE_URL": one.database_urls["toy"]}
        async with platform(servers, service, settings=settings, keep_streams=True):
            await say(one, *(f"word {index}" for index in range(60)))
            await eventually(hears(one, *(f"word {index}" for index in range(60))))


# Order


async def test_events_of_an_aggregate_are_handled_one_after_the_other_and_others_beside_them(servers: Servers) -> None:
    beside = asyncio.Event()

    async def note_slowly(tx: Transaction, event: Received[Any]) -> None:
        if event.message.word == "a1":
            await beside.wait()
        await note(tx, event)
        if event.message.word == "b1":
            beside.set()

    async with platform(servers, toy(on(Spoken, note_slowly))) as running:
        await say(running, "a1", "a2", "a3", word_id="a")
        await say(running, "b1", word_id="b")
        await eventually(hears(running, "a1", "a2", "a3", "b1"))
        assert await heard(running) == ["b1", "a1", "a2", "a3"]


# Failures


async def test_a_handler_that_fails_is_given_the_event_again(servers: Servers, impatient: None) -> None:
    attempts = 0

    async def fail_twice(tx: Transaction, event: Received[Any]) -> None:
        nonlocal attempts
        attempts += 1
        await note(tx, event)
        if attempts <= 2:
            raise ValueError("13800000000")

    async with platform(servers, toy(on(Spoken, fail_twice))) as running:
        await say(running, "hello")
        await eventually(hears(running, "hello"))
        assert attempts == 3
        assert await dead(running, 0)()


async def test_a_handler_waits_for_what_is_away_however_long_and_buries_nothing(servers: Servers, impatient: None) -> None:
    attempts, is_away = 0, True

    async def need_another(tx: Transaction, event: Received[Any]) -> None:
        nonlocal attempts
        attempts += 1
        if is_away:
            raise Unavailable("other.unavailable", "", "")
        await note(tx, event)

    async with platform(servers, toy(on(Spoken, need_another))) as running:
        await say(running, "hello", "again", word_id="a")

        async def tried() -> bool:
            return attempts > 3 * messaging.DELIVERIES_MAX

        await eventually(tried)
        info = await consumer_info(servers, "toy-need_another")
        assert info.num_redelivered == 0
        is_away = False
        await eventually(hears(running, "hello", "again"))
        assert await heard(running) == ["hello", "again"]
        assert await dead(running, 0)()


@pytest.mark.parametrize("trouble", ["fails", "no body", "no community", "no time", "NUL", "no id"])
async def test_an_event_that_cannot_be_handled_goes_to_the_dead_letters_and_holds_back_no_other(
    servers: Servers, impatient: None, trouble: str
) -> None:
    async def fail_on_poison(tx: Transaction, event: Received[Any]) -> None:
        if event.message.word == "poison":
            raise ValueError("phone 13800000000")
        await note(tx, event)

    async with platform(servers, toy(on(Spoken, fail_on_poison))) as running:
        event = envelope(Spoken(word_id="a", word="poison"), COMMUNITY, event_id=str(new_id()), occurred_at=running.host.running[0].clock())
        headers, body = event.headers("toy"), event.body
        match trouble:
            case "no body":
                body = b"\xff\xff"
            case "no community":
                headers["ce-community"] = "nowhere"
            case "no time":
                headers["ce-time"] = "2026-01-01T00:00:00"
            case "NUL":
                headers["ce-id"] = "a\0b"
            case "no id":
                del headers["ce-id"]
        await running.host.running[0].publisher.send(event.subject, body, headers)
        await say(running, "fine")
        await eventually(hears(running, "fine"))
        await eventually(dead(running, 1))
        await settled(servers, "toy-fail_on_poison")
        async with running.transaction("toy", PLATFORM) as tx:
            letter = await tx.fetchrow("SELECT consumer, subject, body, error FROM dead_letters")
        assert letter is not None
        assert (letter["consumer"], letter["subject"], letter["body"]) == ("toy-fail_on_poison", event.subject, body)
        assert "13800000000" not in letter["error"]


async def test_a_dead_letter_is_handed_to_its_own_consumer_again_and_to_no_other(
    servers: Servers, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_mended = False
    others = 0

    async def fail_until_mended(tx: Transaction, event: Received[Any]) -> None:
        if not is_mended:
            raise ValueError
        await note(tx, event)

    async def hear_beside(_tx: Transaction, _event: Received[Any]) -> None:
        nonlocal others
        others += 1

    service = toy(on(Spoken, fail_until_mended), on(Spoken, hear_beside))
    monkeypatch.setattr("console.catalog.find", lambda _names: [service])
    async with platform(servers, service) as running:
        await say(running, "hello")
        await eventually(dead(running, 1))
        # An old letter: the other consumer's inbox has forgotten the event.
        async with running.transaction("toy", PLATFORM) as tx:
            await tx.execute("DELETE FROM inbox")
        await databases.replay_dead_letters("toy", [])
        await settled(servers, "toy-fail_until_mended")
        async with running.transaction("toy", PLATFORM) as tx:
            assert await tx.fetchval("SELECT count(*) FROM dead_letters WHERE replayed_at IS NULL") == 1
            assert await tx.fetchval(DEAD) == 1
        is_mended = True
        await databases.replay_dead_letters("toy", [])
        await eventually(hears(running, "hello"))
        await settled(servers, "toy-hear_beside")
        assert others == 1
        async with running.transaction("toy", PLATFORM) as tx:
            assert await tx.fetchval("SELECT count(*) FROM dead_letters WHERE replayed_at IS NULL") == 0


async def test_a_dead_letter_that_was_dismissed_waits_for_nobody_and_is_not_handed_out_again(
    servers: Servers, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_mended = False

    async def fail_until_mended(tx: Transaction, event: Received[Any]) -> None:
        if not is_mended:
            raise ValueError
        await note(tx, event)

    service = toy(on(Spoken, fail_until_mended))
    monkeypatch.setattr("console.catalog.find", lambda _names: [service])
    async with platform(servers, service) as running:
        await say(running, "useless")
        await say(running, "useful")
        await eventually(dead(running, 2))
        async with running.transaction("toy", PLATFORM) as tx:
            useless = await tx.fetchval("SELECT dead_letter_id FROM dead_letters ORDER BY failed_at, dead_letter_id LIMIT 1")
            word = await tx.fetchval("SELECT encode(body, 'escape') FROM dead_letters WHERE dead_letter_id = $1", useless)
        with pytest.raises(databases.DatabaseError, match="UUID"):
            await databases.dismiss_dead_letters("toy", ["useless"])
        await databases.dismiss_dead_letters("toy", [str(useless)])
        is_mended = True
        await databases.replay_dead_letters("toy", [])
        await eventually(hears(running, "useful" if "useless" in word else "useless"))
        async with running.transaction("toy", PLATFORM) as tx:
            assert await tx.fetchval("SELECT count(*) FROM dead_letters WHERE replayed_at IS NULL") == 0
            assert await tx.fetchval(DEAD) == 2


async def test_a_message_that_is_not_from_the_broker_is_not_handled(servers: Servers) -> None:
    async with platform(servers, toy(on(Spoken, note))) as running:
        client = running.host.running[0].nats
        event = envelope(Spoken(word_id="a", word="forged"), COMMUNITY, event_id="x", occurred_at=running.host.running[0].clock())
        for reply in ("", client.new_inbox()):
            await client.publish("deliver.toy-note", event.body, reply, event.headers("toy"))
        await say(running, "genuine")
        await eventually(hears(running, "genuine"))


async def test_what_the_broker_delivers_again_while_it_is_in_work_is_not_begun_again(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messaging, "_ACK_WAIT_S", 0.2)
    finish = asyncio.Event()

    async def note_slowly(tx: Transaction, event: Received[Any]) -> None:
        await finish.wait()
        await note(tx, event)

    async with platform(servers, toy(on(Spoken, note_slowly))) as running:
        await say(running, "a1", "a2", "a3", word_id="a")

        async def came_again() -> bool:
            info = await consumer_info(servers, "toy-note_slowly")
            return bool(info.num_redelivered == 3 and info.delivered.consumer_seq >= 9)

        await eventually(came_again)
        assert len(running.host._consumers[0]._in_work) == 3
        finish.set()
        await settled(servers, "toy-note_slowly")
        assert await heard(running) == ["a1", "a2", "a3"]


async def test_a_consumer_that_stops_while_it_waits_for_what_is_away_hands_back_at_once(servers: Servers) -> None:
    is_away, waiting = True, asyncio.Event()

    async def need_another(tx: Transaction, event: Received[Any]) -> None:
        waiting.set()
        if is_away:
            raise Unavailable("other.unavailable", "", "")
        await note(tx, event)

    service = toy(on(Spoken, need_another))
    async with platform(servers, service) as one:
        settings = {"LINLI_TOY_DATABASE_URL": one.database_urls["toy"]}
        await say(one, "hello")
        await waiting.wait()
        async with platform(servers, service, settings=settings, keep_streams=True):
            async with asyncio.timeout(2):
                await one.host._consumers[0].stop()
            is_away = False
            await eventually(hears(one, "hello"), deadline_s=5)


# Batches and listeners


async def test_a_batch_with_one_bad_event_stores_the_others_and_buries_the_one(servers: Servers, impatient: None) -> None:
    sizes: list[int] = []

    async def note_batch(tx: Transaction, events: Sequence[Received[Any]]) -> None:
        sizes.append(len(events))
        for event in events:
            await tx.execute(INSERT, event.community_id, event.message.word)
        if any(event.message.word == "poison" for event in events):
            raise ValueError
        if len(sizes) == 1:
            await asyncio.wait_for(filled.wait(), 10)

    filled = asyncio.Event()
    async with platform(servers, toy(on_batch(Spoken, note_batch))) as running:
        await say(running, "first", *(f"word {index}" for index in range(20)), "poison", "last")
        filled.set()
        await eventually(hears(running, "first", *(f"word {index}" for index in range(20)), "last"))
        await eventually(dead(running, 1))
        await say(running, "after")
        await eventually(hears(running, "first", *(f"word {index}" for index in range(20)), "last", "after"))
    assert max(sizes) > 5


async def test_a_batch_waits_for_what_is_away(servers: Servers, impatient: None) -> None:
    attempts = 0

    async def note_batch(tx: Transaction, events: Sequence[Received[Any]]) -> None:
        nonlocal attempts
        attempts += 1
        for event in events:
            await tx.execute(INSERT, event.community_id, event.message.word)
        if attempts < 20:
            raise Unavailable("other.unavailable", "", "")

    async with platform(servers, toy(on_batch(Spoken, note_batch))) as running:
        await say(running, "one")
        await eventually(hears(running, "one"))
        assert await dead(running, 0)()


async def test_every_instance_hears_a_live_event_and_its_failure_is_its_own(servers: Servers) -> None:
    ears: list[str] = []

    async def hear(_call: Any, event: Received[Any]) -> None:
        ears.append(event.message.word)
        if event.message.word == "bad":
            raise ValueError

    service = toy(listen(Spoken, hear))
    async with platform(servers, service) as one:
        settings = {"LINLI_TOY_DATABASE_URL": one.database_urls["toy"]}
        async with platform(servers, service, settings=settings, keep_streams=True):
            await say(one, "bad", "good")

            async def all_heard() -> bool:
                return sorted(ears) == ["bad", "bad", "good", "good"]

            await eventually(all_heard)


async def test_what_a_listener_does_is_no_acknowledgement_of_the_broker(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messaging, "ACK_S", 0.3)
    heard_it = asyncio.Event()

    async def hear(_call: Any, _event: Received[Any]) -> None:
        heard_it.set()

    async with platform(servers, toy(listen(Spoken, hear))) as running:
        await servers.forget_streams()
        with pytest.raises(Unavailable):
            await running.publish(Spoken(word_id="a", word="unstored"), COMMUNITY)
        assert heard_it.is_set()


async def test_a_listener_that_cannot_keep_up_drops_what_is_too_much(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messaging, "_LISTENED_MAX", 5)
    begun, finish = 0, asyncio.Event()

    async def hear(_call: Any, _event: Received[Any]) -> None:
        nonlocal begun
        begun += 1
        await finish.wait()

    async with platform(servers, toy(listen(Spoken, hear))) as running:
        await say(running, *(f"word {index}" for index in range(20)))
        await running.host.running[0].nats.flush()
        assert begun == 5
        finish.set()


async def test_an_event_for_one_account_travels_under_its_name(servers: Servers) -> None:
    async with platform(servers, toy()) as running:
        client = running.host.running[0].nats
        subscription = await client.subscribe(f"linli.toy.Whispered.{COMMUNITY}.somebody")
        await running.publish(Whispered(word_id="w", account_id="nobody"), COMMUNITY)
        await running.publish(Whispered(word_id="w", account_id="somebody"), COMMUNITY)
        assert kind("Whispered").FromString((await subscription.next_msg(5)).data).account_id == "somebody"


async def test_a_devices_observation_goes_through_without_a_database(servers: Servers) -> None:
    rattled: list[str] = []

    async def hear(_call: Any, event: Received[Any]) -> None:
        rattled.append(event.aggregate)

    async with platform(servers, toy(on_outside(Rattled, hear))) as running:
        await running.publish(Rattled(device_id="camera-1"), COMMUNITY)

        async def came() -> bool:
            return rattled == ["camera-1"]

        await eventually(came)


# Stopping


async def test_a_consumer_that_stops_finishes_what_it_began_and_hands_back_the_rest(servers: Servers) -> None:
    begun, finish = asyncio.Event(), asyncio.Event()

    async def note_slowly(tx: Transaction, event: Received[Any]) -> None:
        begun.set()
        await finish.wait()
        await note(tx, event)

    service = toy(on(Spoken, note_slowly))
    async with platform(servers, service) as one:
        settings = {"LINLI_TOY_DATABASE_URL": one.database_urls["toy"]}
        async with platform(servers, service, settings=settings, keep_streams=True) as other:
            await say(one, *(f"word {index}" for index in range(10)))
            await begun.wait()
            stopping = asyncio.create_task(other.host._consumers[0].stop())
            await say(one, "late")
            finish.set()
            await stopping
            assert not other.host._consumers[0]._in_work
            await eventually(hears(one, *(f"word {index}" for index in range(10)), "late"), deadline_s=5)


async def test_a_consumer_that_stops_cancels_what_takes_too_long_and_another_process_does_it(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messaging, "_ACK_WAIT_S", 1.0)
    attempts = 0

    async def hang_once(tx: Transaction, event: Received[Any]) -> None:
        nonlocal attempts
        attempts += 1
        await note(tx, event)
        if attempts == 1:
            await asyncio.sleep(60)

    async with platform(servers, toy(on(Spoken, hang_once))) as running:
        await say(running, "hello")

        async def began() -> bool:
            return attempts == 1

        await eventually(began)
        await running.host._consumers[0].stop(0.1)
        assert await heard(running) == []
        again = messaging.Consumer(
            "toy", on(Spoken, hang_once), running.host.running[0].nats, running.database("toy"), running.host.running[0].call
        )
        await again.start()
        await eventually(hears(running, "hello"))
        await again.stop()


# The broker


async def test_events_are_handled_again_when_the_broker_was_killed_and_came_back(servers: Servers) -> None:
    async with platform(servers, toy(on(Spoken, note))) as running:
        await say(running, "before")
        await eventually(hears(running, "before"))
        await asyncio.to_thread(servers.nats.kill)
        late = asyncio.create_task(say(running, "during"))
        servers.nats.restart()
        await late
        await say(running, "after")
        await eventually(hears(running, "before", "during", "after"))


async def test_streams_and_consumers_come_back_when_the_broker_lost_its_disk(servers: Servers) -> None:
    async with platform(servers, toy(on(Spoken, note))) as running:
        await say(running, "before")
        await eventually(hears(running, "before"))
        await asyncio.to_thread(servers.nats.kill)
        for path in servers.nats._process.data.iterdir():
            shutil.rmtree(path)
        servers.nats.restart()

        async def published() -> bool:
            try:
                await say(running, "after")
                return True
            except Unavailable:
                return False

        await eventually(published)
        await eventually(hears(running, "before", "after"))


async def test_a_consumer_that_was_lost_is_made_again_and_skips_nothing(servers: Servers) -> None:
    async with platform(servers, toy(on(Spoken, note))) as running:
        await say(running, "before")
        await eventually(hears(running, "before"))
        await running.host.running[0].nats.jetstream().delete_consumer("LINLI_TOY", "toy-note")
        await say(running, "without it")
        running.host._keepers[0].set()
        await eventually(hears(running, "before", "without it"))


async def test_a_service_starts_beside_a_stream_that_differs_and_says_so_once(servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    messaging._tell_that_it_differs.cache_clear()
    await servers.forget_streams()
    client = await nats.connect(servers.nats.url)
    await client.jetstream().add_stream(name="LINLI_TOY", subjects=["linli.toy.>"], max_age=60)
    async with platform(servers, toy(on(Spoken, note)), keep_streams=True) as running:
        await say(running, "hello")
        await eventually(hears(running, "hello"))
        await messaging.ensure_stream(client, event_type(Spoken), 1)
        assert (await client.jetstream().stream_info("LINLI_TOY")).config.max_age == 60
    await client.close()
    written = capsys.readouterr()
    [line] = [line for line in (written.out + written.err).splitlines() if "stream_differs" in line]
    assert "LINLI_TOY" in line
    assert "warning" in line.lower()


@asynccontextmanager
async def publisher_over_a_wire(servers: Servers) -> AsyncIterator[tuple[Publisher, Any]]:
    async with wire_to(servers.nats.port) as wire:
        client = await messaging.connect(ProcessSettings(nats_url=f"nats://{wire.address}"), NatsSettings(), "toy")
        try:
            await messaging.ensure_stream(client, event_type(Spoken), 1)
            yield Publisher(client, "toy"), wire
        finally:
            await client.close()


async def test_what_was_on_its_way_when_the_connection_broke_is_sent_again_and_stored_once(servers: Servers) -> None:
    async with (
        wire_to(servers.nats.port) as wire,
        platform(servers, toy(), settings={"LINLI_NATS_URL": f"nats://{wire.address}"}) as running,
    ):
        await say(running, "before")
        wire.hang()
        late = asyncio.create_task(say(running, "late"))
        client = running.host.running[0].nats

        async def left() -> bool:
            return client.pending_data_size == 0 and len(running.host.running[0].publisher._acks) == 1

        await eventually(left)
        await wire.cut()
        await wire.mend()
        await late
        stream = await client.jetstream().stream_info("LINLI_TOY")
        assert stream.state.messages == 2


async def test_publishing_fails_in_time_and_nothing_leaves_afterwards_when_the_broker_stays_away(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messaging, "ACK_S", 0.2)
    async with publisher_over_a_wire(servers) as (publisher, wire):
        watcher = await nats.connect(servers.nats.url)
        seen = await watcher.subscribe("linli.toy.>")
        await wire.cut()

        async def noticed() -> bool:
            return not publisher.is_connected

        await eventually(noticed)
        with pytest.raises(Unavailable):
            await publisher.send("linli.toy.Spoken.x", b"late", {})
        with pytest.raises(Unavailable):
            await publisher.send_now("linli.toy.Command.x", b"late")
        await wire.mend()
        await eventually(lambda: _is_connected(publisher))
        await publisher.send("linli.toy.Spoken.x", b"now", {})
        assert (await seen.next_msg(5)).data == b"now"
        await watcher.close()


async def _is_connected(publisher: Publisher) -> bool:
    return publisher.is_connected


async def test_failures_to_publish_use_up_nothing(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messaging, "_IN_FLIGHT_MAX", 4)
    async with publisher_over_a_wire(servers) as (publisher, _):
        for subject, body in (("two words", b""), ("nobody.takes.this", b""), ("linli.toy.Spoken.x", b"x" * 9_000_000)):
            for _ in range(5):
                with pytest.raises(Unavailable):
                    await publisher.send(subject, body, {})
        await publisher.send("linli.toy.Spoken.x", b"fine", {})


async def test_more_messages_in_flight_than_the_limit_are_refused_at_once(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messaging, "_IN_FLIGHT_MAX", 4)
    monkeypatch.setattr(messaging, "ACK_S", 1.0)
    async with publisher_over_a_wire(servers) as (publisher, wire):
        await publisher.send("linli.toy.Spoken.x", b"", {})
        wire.hang()
        results = await asyncio.gather(*(publisher.send("linli.toy.Spoken.x", b"", {}) for _ in range(10)), return_exceptions=True)
        assert all(isinstance(result, Unavailable) for result in results)
        await wire.mend()
        await publisher.send("linli.toy.Spoken.x", b"", {})


async def test_a_full_stream_refuses_and_forgets_nothing(servers: Servers) -> None:
    async with publisher_over_a_wire(servers) as (publisher, _):
        stream = publisher._client.jetstream()
        config = (await stream.stream_info("LINLI_TOY")).config
        config.max_msgs = (await stream.stream_info("LINLI_TOY")).state.messages + 1
        await stream.update_stream(config)
        await publisher.send("linli.toy.Spoken.x", b"first", {})
        with pytest.raises(Unavailable):
            await publisher.send("linli.toy.Spoken.x", b"second", {})
        last = (await stream.stream_info("LINLI_TOY")).state.last_seq
        assert (await stream.get_msg("LINLI_TOY", last)).data == b"first"
        await stream.delete_stream("LINLI_TOY")


async def test_an_existing_consumer_with_other_settings_is_brought_up_to_date(servers: Servers) -> None:
    service = toy(on(Spoken, note))
    async with platform(servers, service) as running:
        stream = running.host.running[0].nats.jetstream()
        info = await stream.consumer_info("LINLI_TOY", "toy-note")
        assert info.config.max_ack_pending == messaging._IN_WORK_MAX
        changed = ConsumerConfig(**{**info.config.__dict__, "max_ack_pending": 3})
        await stream.add_consumer("LINLI_TOY", changed)
        [consumer] = running.host._consumers
        await consumer.ensure(await messaging.ensure_stream(running.host.running[0].nats, consumer.event, 1))
        assert (await stream.consumer_info("LINLI_TOY", "toy-note")).config.max_ack_pending == messaging._IN_WORK_MAX


async def test_a_handler_may_not_use_the_network_inside_its_transaction(servers: Servers, impatient: None) -> None:
    async def call_out(tx: Transaction, event: Received[Any]) -> None:
        publisher = tx.resource(Publisher)
        await publisher.publish(envelope(event.message, tx.community_id, event_id="x", occurred_at=tx.now))

    @asynccontextmanager
    async def resources(running: Any) -> AsyncIterator[Sequence[object]]:
        yield [running.publisher]

    async with platform(servers, toy(on(Spoken, call_out), resources=resources)) as running:
        await say(running, "hello")
        await eventually(dead(running, 1))


async def test_a_conflict_in_a_handler_is_a_failure_like_any_other(servers: Servers, impatient: None) -> None:
    async def refuse(_tx: Transaction, _event: Received[Any]) -> None:
        raise Conflict("toy.refused", "", "refused")

    async with platform(servers, toy(on(Spoken, refuse))) as running:
        await say(running, "hello")
        await eventually(dead(running, 1))
        async with running.transaction("toy", PLATFORM) as tx:
            assert "toy.refused" in await tx.fetchval("SELECT error FROM dead_letters")
