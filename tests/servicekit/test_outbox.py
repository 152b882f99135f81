"""What a transaction publishes leaves when it commits, in order for each aggregate, through every crash."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from servicekit import messaging, outbox
from servicekit.clock import system_clock
from servicekit.config import NatsSettings, ProcessSettings
from servicekit.database import PLATFORM, Database, open_database
from servicekit.errors import Unavailable
from servicekit.events import event_type
from servicekit.messaging import Publisher, on
from servicekit.outbox import Relay
from tests.servicekit.toy import QUIET, SAY, Spoken, Whispered, message, texts, toy
from tests.servicekit.wire import wire_to
from tests.support import Servers, eventually, platform, principal

COMMUNITY = uuid.UUID("018f0000-0000-7000-8000-000000000001")
UNSENT = "SELECT count(*) FROM outbox WHERE sent_at IS NULL"
SENT = "SELECT count(*) FROM outbox WHERE sent_at IS NOT NULL"


@dataclass(slots=True)
class Process:
    """What one process of the toy service has to do with its outbox."""

    database: Database
    client: Client
    publisher: Publisher
    relay: Relay

    async def publish(self, *events: Any, versions: list[int] | None = None) -> None:
        """One transaction that publishes these events."""
        async with self.database.transaction(COMMUNITY) as tx:
            for index, event in enumerate(events):
                tx.publish(event, version=versions[index] if versions else 0)

    async def count(self, sql: str) -> int:
        """The answer of a counting statement."""
        async with self.database.transaction(PLATFORM) as tx:
            return int(await tx.fetchval(sql))

    async def all_sent(self) -> bool:
        """Whether nothing waits."""
        return await self.count(UNSENT) == 0


@asynccontextmanager
async def process(url: str, nats_url: str, *, runs: bool = True) -> AsyncIterator[Process]:
    """A process whose relay runs, unless it is told not to."""
    database = await open_database("toy", url, pool_size=4, clock=system_clock)
    client = await messaging.connect(ProcessSettings(nats_url=nats_url), NatsSettings(), "toy")
    publisher = Publisher(client, "toy")
    relay = Relay(database, publisher)
    task = asyncio.create_task(relay.run() if runs else asyncio.sleep(0))
    try:
        yield Process(database, client, publisher, relay)
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=1)
        await relay.flush(0.2)
        await client.close()
        await database.close()


@pytest.fixture
async def url(servers: Servers) -> AsyncIterator[str]:
    await servers.forget_streams()
    client = await nats.connect(servers.nats.url)
    await messaging.ensure_stream(client, event_type(Spoken), 1)
    await client.close()
    async with servers.database(QUIET) as address:
        yield address


async def stored(servers: Servers, stream: str = "LINLI_TOY") -> list[tuple[str, int]]:
    """What a stream holds, in order: aggregate and version of each event."""
    client = await nats.connect(servers.nats.url)
    try:
        state = (await client.jetstream().stream_info(stream)).state
        found = []
        for sequence in range(max(state.first_seq, 1), state.last_seq + 1):
            headers = (await client.jetstream().get_msg(stream, sequence)).headers or {}
            found.append((headers["ce-subject"], int(headers["ce-sequence"])))
        return found
    finally:
        await client.close()


def is_in_order(events: list[tuple[str, int]]) -> bool:
    """Whether each aggregate's versions rise by one from 1."""
    last: dict[str, int] = {}
    for aggregate, version in events:
        if version != last.get(aggregate, 0) + 1:
            return False
        last[aggregate] = version
    return True


def hold(publisher: Publisher) -> asyncio.Event:
    """Makes a process's publisher wait before each message until the event is set."""
    may_go, send = asyncio.Event(), publisher.send

    async def slow(subject: str, body: bytes, headers: dict[str, str]) -> None:
        await may_go.wait()
        await send(subject, body, headers)

    publisher.send = slow  # type: ignore[method-assign]
    return may_go


# Leaving


async def test_an_event_leaves_when_its_transaction_commits_without_waiting_for_any_relay(servers: Servers, url: str) -> None:
    async with process(url, servers.nats.url, runs=False) as one:
        await one.publish(Spoken(word_id="a"), Spoken(word_id="a"), Spoken(word_id="b"), versions=[1, 2, 1])
        await eventually(one.all_sent)
        assert sorted(await stored(servers)) == [("a", 1), ("a", 2), ("b", 1)]


async def test_an_event_of_a_transaction_that_fails_never_leaves(servers: Servers, url: str) -> None:
    async def fail(one: Process) -> None:
        async with one.database.transaction(COMMUNITY) as tx:
            tx.publish(Spoken(word_id="a"), version=1)
            raise KeyError

    async with process(url, servers.nats.url) as one:
        with pytest.raises(KeyError):
            await fail(one)
        await one.publish(Spoken(word_id="b"), versions=[1])
        await eventually(one.all_sent)
        assert await stored(servers) == [("b", 1)]


async def test_events_of_several_communities_leave_from_one_transaction(servers: Servers, url: str) -> None:
    async with process(url, servers.nats.url) as one:
        async with one.database.transaction(PLATFORM) as tx:
            tx.publish(Spoken(word_id="a"), version=1, community_id=uuid.uuid4())
            for word in "bc":
                await tx.enter(uuid.uuid4())
                tx.publish(Spoken(word_id=word), version=1)
        await eventually(one.all_sent)
        assert sorted(await stored(servers)) == [("a", 1), ("b", 1), ("c", 1)]


async def test_a_transaction_in_a_community_publishes_for_no_other(url: str, servers: Servers) -> None:
    async with process(url, servers.nats.url, runs=False) as one, one.database.transaction(COMMUNITY) as tx:
        tx.publish(Spoken(word_id="a"), version=1, community_id=COMMUNITY)
        with pytest.raises(RuntimeError, match="another community"):
            tx.publish(Spoken(word_id="b"), version=1, community_id=uuid.uuid4())


@pytest.mark.parametrize(
    "event",
    [
        Spoken(word_id=""),
        Spoken(word_id="two\r\nlines"),
        Spoken(word_id="a\0b"),
        Spoken(word_id="a", word="x" * 2_000_000),
        Whispered(word_id="a", account_id=""),
        Whispered(word_id="a", account_id="two words"),
        Whispered(word_id="a", account_id="*"),
        Whispered(word_id="a", account_id="a..b"),
    ],
    ids=["no aggregate", "line break", "NUL", "long body", "no recipient", "blank", "wildcard", "empty token"],
)
async def test_an_event_that_could_never_leave_is_refused_before_it_lies_in_the_outbox(servers: Servers, url: str, event: Any) -> None:
    async with process(url, servers.nats.url) as one:
        with pytest.raises(ValueError, match=r"linli\.toy\.v1"):
            await one.publish(event)
        assert await one.count("SELECT count(*) FROM outbox") == 0


# Order


async def test_events_of_an_aggregate_leave_in_order_from_several_processes(servers: Servers, url: str) -> None:
    async def write(one: Process, aggregate: str) -> None:
        async with one.database.transaction(COMMUNITY) as tx:
            await tx.execute("SELECT pg_advisory_xact_lock(hashtext($1))", aggregate)
            version = await tx.fetchval("SELECT count(*) + 1 FROM outbox WHERE aggregate = $1", aggregate)
            tx.publish(Spoken(word_id=aggregate), version=version)

    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(process(url, servers.nats.url)) for _ in range(3)]
        await asyncio.gather(*(write(random.choice(processes), f"word-{index % 5}") for index in range(200)))
        await eventually(processes[0].all_sent)
        events = await stored(servers)
    assert len(events) == 200
    assert is_in_order(events)


async def test_events_that_follow_each_other_closely_leave_once_each(servers: Servers, url: str) -> None:
    watcher = await nats.connect(servers.nats.url)
    seen: list[str] = []

    async def see(message: Any) -> None:
        seen.append(message.headers["ce-sequence"])

    await watcher.subscribe("linli.toy.>", cb=see)
    await watcher.flush()
    async with process(url, servers.nats.url) as one:
        for version in range(1, 101):
            await one.publish(Spoken(word_id="a"), versions=[version])
        await eventually(one.all_sent)
    await watcher.flush()
    await watcher.close()
    assert seen == [str(version) for version in range(1, 101)]


async def _two_processes_of_which_the_first_is_slow(servers: Servers, url: str) -> list[tuple[str, int]]:
    async with process(url, servers.nats.url, runs=False) as slow, process(url, servers.nats.url) as quick:
        may_go = hold(slow.publisher)
        await slow.publish(Spoken(word_id="a"), versions=[1])
        await quick.publish(Spoken(word_id="a"), versions=[2])

        async def second_is_there() -> bool:
            return ("a", 2) in await stored(servers)

        await eventually(second_is_there)
        may_go.set()
        await slow.relay.flush()
        return await stored(servers)


async def test_an_event_does_not_overtake_an_earlier_one_that_another_process_has_yet_to_send(servers: Servers, url: str) -> None:
    assert await _two_processes_of_which_the_first_is_slow(servers, url) == [("a", 1), ("a", 2)]


async def test_without_asking_what_waits_an_event_overtakes_an_earlier_one(
    servers: Servers, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = Relay._committed
    monkeypatch.setattr(Relay, "_committed", lambda relay, events, _may_leave: committed(relay, events, True))
    assert await _two_processes_of_which_the_first_is_slow(servers, url) == [("a", 2), ("a", 1)]


async def test_an_aggregate_whose_event_is_refused_waits_and_holds_back_no_other(servers: Servers, url: str) -> None:
    async with process(url, servers.nats.url, runs=False) as one:
        send, refusing = one.publisher.send, True

        async def refuse_some(subject: str, body: bytes, headers: dict[str, str]) -> None:
            if refusing and headers["ce-subject"] == "a" and headers["ce-sequence"] == "1":
                raise Unavailable("messaging.unavailable", "", "")
            await send(subject, body, headers)

        one.publisher.send = refuse_some  # type: ignore[method-assign]
        await one.publish(Spoken(word_id="a"), Spoken(word_id="a"), Spoken(word_id="b"), versions=[1, 2, 1])
        assert await one.relay.send_batch() == -1
        assert await stored(servers) == [("b", 1)]
        refusing = False
        assert await one.relay.send_batch() == 2
        assert await stored(servers) == [("b", 1), ("a", 1), ("a", 2)]


# Faults


async def _crash_between_publishing_and_marking(servers: Servers, url: str) -> list[tuple[str, int]]:
    async def nothing(_relay: Relay) -> None: ...

    async with process(url, servers.nats.url, runs=False) as one:
        one.relay._mark = nothing.__get__(one.relay)  # type: ignore[method-assign]
        await one.publish(Spoken(word_id="a"), versions=[1])

        async def there() -> bool:
            return await stored(servers) == [("a", 1)]

        await eventually(there)
        assert await one.count(UNSENT) == 1
    async with process(url, servers.nats.url) as other:
        await eventually(other.all_sent)
        return await stored(servers)


async def test_an_event_whose_process_died_before_it_was_marked_is_stored_once(servers: Servers, url: str) -> None:
    assert await _crash_between_publishing_and_marking(servers, url) == [("a", 1)]


async def test_without_its_message_id_such_an_event_is_stored_twice(servers: Servers, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    send = Publisher.send

    async def send_without_id(publisher: Publisher, subject: str, body: bytes, headers: dict[str, str]) -> None:
        await send(publisher, subject, body, {name: value for name, value in headers.items() if name != "Nats-Msg-Id"})

    monkeypatch.setattr(Publisher, "send", send_without_id)
    assert await _crash_between_publishing_and_marking(servers, url) == [("a", 1), ("a", 1)]


async def test_events_survive_a_broker_that_comes_and_goes(servers: Servers, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messaging, "ACK_S", 0.5)
    async with wire_to(servers.nats.port) as wire, process(url, f"nats://{wire.address}") as one:
        for version in range(1, 61):
            await one.publish(*(Spoken(word_id=word) for word in "abc"), versions=[version] * 3)
            if version % 20 == 5:
                await wire.cut()
            if version % 20 == 15:
                await wire.mend()
        await eventually(one.all_sent)
        events = await stored(servers)
    assert len(events) == 180
    assert is_in_order(events)


async def test_a_row_that_can_never_leave_holds_back_nothing_else(servers: Servers, url: str) -> None:
    async with process(url, servers.nats.url) as one:
        async with one.database.transaction(COMMUNITY) as tx:
            for subject, aggregate in (("two words", "p1"), ("linli.toy.*", "p2"), ("nobody.takes.this", "p3"), ("", "p4")):
                await tx.execute(
                    "INSERT INTO outbox (event_id, community_id, subject, type, aggregate, version, occurred_at, traceparent, body) "
                    "VALUES (gen_random_uuid(), $1, $2, 'x', $3, 1, now(), '', '')",
                    COMMUNITY,
                    subject,
                    aggregate,
                )
        for version in range(1, 6):
            await one.publish(Spoken(word_id="p1" if version == 1 else "fine"), versions=[max(version - 1, 1)])

        async def fine() -> bool:
            return [event for event in await stored(servers) if event[0] == "fine"] == [("fine", version) for version in range(1, 5)]

        await eventually(fine)
        assert one.client.is_connected
        assert ("p1", 1) not in await stored(servers)


async def test_a_relay_outlives_whatever_goes_wrong_in_it(servers: Servers, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    send_batch, failures = Relay.send_batch, [ValueError("a surprise"), ConnectionError(), KeyError("b")]

    async def fail_first(relay: Relay) -> int:
        if failures:
            raise failures.pop()
        return await send_batch(relay)

    monkeypatch.setattr(Relay, "send_batch", fail_first)
    monkeypatch.setattr(outbox, "_POLL_S", 0.01)
    async with process(url, servers.nats.url) as one:
        one.database.on_events = lambda *_: None
        await one.publish(Spoken(word_id="a"), versions=[1])
        await eventually(one.all_sent)
    assert failures == []


async def test_a_relay_that_is_stopped_while_it_publishes_loses_nothing(servers: Servers, url: str) -> None:
    async with process(url, servers.nats.url, runs=False) as one:
        hold(one.publisher)
        one.database.on_events = lambda *_: None
        await one.publish(Spoken(word_id="a"), versions=[1])
        task = asyncio.create_task(one.relay.send_batch())

        async def has_turn() -> bool:
            return await one.count("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted") > 0

        await eventually(has_turn)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await one.count(UNSENT) == 1
    async with process(url, servers.nats.url) as other:
        await eventually(other.all_sent)
        assert await stored(servers) == [("a", 1)]


async def test_a_process_whose_broker_hangs_keeps_others_waiting_for_one_ack_time_only(
    servers: Servers, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messaging, "ACK_S", 0.5)
    monkeypatch.setattr(outbox, "_POLL_S", 0.05)
    async with wire_to(servers.nats.port) as wire, process(url, f"nats://{wire.address}") as hanging:
        wire.hang()
        await hanging.publish(*(Spoken(word_id=f"{index % 3}") for index in range(9)), versions=[1 + index // 3 for index in range(9)])

        async def has_turn() -> bool:
            return await hanging.count("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted") > 0

        await eventually(has_turn)
        async with process(url, servers.nats.url) as healthy:
            await eventually(healthy.all_sent, deadline_s=3)
        assert is_in_order(await stored(servers))


@pytest.mark.parametrize("how", ["gone", "hanging"])
async def test_the_last_flush_ends_in_time_whatever_the_broker_does(
    servers: Servers, url: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(outbox, "_BATCH", 5)
    async with wire_to(servers.nats.port) as wire, process(url, f"nats://{wire.address}", runs=False) as one:
        one.database.on_events = lambda *_: None
        await one.publish(*(Spoken(word_id=f"{index}") for index in range(12)))
        if how == "gone":
            await wire.cut()
        else:
            wire.hang()
        async with asyncio.timeout(3):
            await one.relay.flush(1)
        await wire.mend()
        assert await one.count(UNSENT) == 12


async def test_the_last_flush_sends_more_than_one_batch(servers: Servers, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_BATCH", 5)
    async with process(url, servers.nats.url, runs=False) as one:
        one.database.on_events = lambda *_: None
        await one.publish(*(Spoken(word_id="a") for index in range(12)), versions=list(range(1, 13)))
        await one.relay.flush()
        assert await one.all_sent()
        assert is_in_order(await stored(servers))


# Keeping


async def test_sent_rows_are_pruned_by_age_and_unsent_ones_never(servers: Servers, url: str) -> None:
    async with process(url, servers.nats.url, runs=False) as one:
        await one.publish(Spoken(word_id="old"), Spoken(word_id="young"))
        await eventually(one.all_sent)
        one.database.on_events = lambda *_: None
        await one.publish(Spoken(word_id="waiting"))
        async with one.database.transaction(PLATFORM) as tx:
            age = outbox.KEEP + timedelta(minutes=1)
            await tx.execute("UPDATE outbox SET created_at = now() - $1::interval WHERE aggregate <> 'young'", age)
        await one.relay.prune()
        async with one.database.transaction(PLATFORM) as tx:
            assert [row["aggregate"] for row in await tx.fetch("SELECT aggregate FROM outbox ORDER BY position")] == ["young", "waiting"]


async def test_a_broker_that_lost_its_disk_is_given_everything_again_and_nobody_handles_it_twice(servers: Servers) -> None:
    async def note(tx: Any, event: Any) -> None:
        await tx.execute("INSERT INTO heard (community_id, text) VALUES ($1, $2)", tx.community_id, event.message.word)

    async with platform(servers, toy(on(Spoken, note))) as running:
        who = principal("toy.say", community_id=COMMUNITY, modules=["toy"])
        for word in ("one", "two"):
            await running.caller(who).call(SAY, message("SayRequest", word=word))

        def heard(count: int) -> Callable[[], Any]:
            async def probe() -> bool:
                async with running.transaction("toy", COMMUNITY) as tx:
                    return len(await texts(tx)) == count and await tx.fetchval(SENT) == count / 2

            return probe

        await eventually(heard(4))
        running.host._keepers[0].set()
        await servers.forget_streams()
        running.host._keepers[0].set()

        async def is_back() -> bool:
            try:
                return len(await stored(servers)) == 2
            except nats.js.errors.NotFoundError:
                return False

        await eventually(is_back)
        await running.caller(who).call(SAY, message("SayRequest", word="three"))
        await eventually(heard(6))
        async with running.transaction("toy", COMMUNITY) as tx:
            assert sorted(await texts(tx)) == ["one", "one", "three", "three", "two", "two"]
