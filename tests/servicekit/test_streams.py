"""A broker comes back without its disk, or with an older one: everything that was published is there again, and nobody asked for it."""

import copy
import shutil
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from nats.errors import Error as NatsError

from console.recovery import count_losses
from infra.local.nats import start_nats
from servicekit import streams
from servicekit.database import PLATFORM
from servicekit.errors import Unavailable
from servicekit.messaging import on
from servicekit.streams import Mark
from tests.servicekit.toy import SAY, Rattled, Spoken, message, texts, toy
from tests.support import Platform, Servers, eventually, platform, principal

COMMUNITY = uuid.UUID("018f0000-0000-7000-8000-000000000002")


@pytest.fixture
def own(servers: Servers, tmp_path: Path) -> Iterator[Servers]:
    """The worker's PostgreSQL, and a broker whose disk may go."""
    alone = copy.copy(servers)
    alone.nats = start_nats(tmp_path / "nats")
    yield alone
    alone.nats.stop()


async def hear(tx: Any, event: Any) -> None:
    await tx.execute("INSERT INTO heard (community_id, text) VALUES ($1, $2)", tx.community_id, f"heard {event.message.word}")


async def say(running: Platform, *words: str) -> None:
    """Says these words, each a transaction with an event."""
    who = principal("toy.say", community_id=COMMUNITY, modules=["toy"])
    for word in words:
        await running.caller(who).call(SAY, message("SayRequest", word=word))


async def is_heard(running: Platform, *words: str) -> None:
    """Waits until the consumer has heard exactly these words, each of them once."""

    async def probe() -> bool:
        async with running.transaction("toy", COMMUNITY) as tx:
            heard = [text.removeprefix("heard ") for text in await texts(tx) if text.startswith("heard ")]
            return sorted(heard) == sorted(words) and await tx.fetchval("SELECT count(*) FROM outbox WHERE sent_at IS NULL") == 0

    await eventually(probe, f"heard {words}")


async def holds(running: Platform, count: int) -> None:
    """Waits until the stream holds so many events."""

    async def probe() -> bool:
        try:
            found = await running.host.running[0].nats.jsm(timeout=0.5).stream_info("LINLI_TOY")
        except NatsError:  # The broker is away, or the stream.
            return False
        return bool(found.state.messages == count)

    await eventually(probe, f"the stream holds {count} events")


async def all_are_back(running: Platform) -> None:
    """Waits until the test's own ear is connected again too: a client that is closed while it connects leaves a socket open."""

    async def is_overheard() -> bool:
        await running.publish(Rattled(device_id="d"), COMMUNITY)
        return bool(running.events(Rattled))

    await eventually(is_overheard, every_s=0.1)


async def is_remembered(running: Platform, position: int) -> None:
    """Waits until the service has looked how far the stream is."""

    async def probe() -> bool:
        running.host._keepers[0].set()
        async with running.transaction("toy", PLATFORM) as tx:
            marks = await streams.known_streams(tx)
        return "LINLI_TOY" in marks and marks["LINLI_TOY"].position == position

    await eventually(probe, f"message {position} is remembered")


async def test_a_broker_without_its_disk_is_given_everything_again_by_the_running_service(own: Servers, tmp_path: Path) -> None:
    async with platform(own, toy(on(Spoken, hear))) as running:
        await say(running, "one", "two")
        await is_heard(running, "one", "two")
        own.nats.kill()
        shutil.rmtree(tmp_path / "nats" / "data")
        (tmp_path / "nats" / "data").mkdir()
        own.nats._process.hand_over(tmp_path / "nats" / "data")
        own.nats.restart()
        await holds(running, 2)
        await say(running, "three")
        await is_heard(running, "one", "two", "three")
        await all_are_back(running)


async def test_a_broker_that_came_back_with_an_older_disk_is_given_what_it_lacks(own: Servers, tmp_path: Path) -> None:
    data, older = tmp_path / "nats" / "data", tmp_path / "older"
    async with platform(own, toy(on(Spoken, hear))) as running:
        await say(running, "one")
        await is_heard(running, "one")
        own.nats.stop()
        shutil.copytree(data, older)
        own.nats.restart()
        await say(running, "two", "three")
        await is_heard(running, "one", "two", "three")
        await is_remembered(running, 3)
        own.nats.kill()
        for path in data.iterdir():
            shutil.rmtree(path)
        shutil.copytree(older, data, dirs_exist_ok=True)
        for path in [data, *data.rglob("*")]:
            own.nats._process.hand_over(path)
        own.nats.restart()
        await holds(running, 3)
        await is_heard(running, "one", "two", "three")
        await all_are_back(running)


async def test_a_service_that_was_away_when_the_broker_lost_its_disk_notices_when_it_starts(servers: Servers) -> None:
    service = toy(on(Spoken, hear))
    async with servers.database(service) as url:
        settings = {"LINLI_TOY_DATABASE_URL": url}
        async with platform(servers, service, settings=settings) as running:
            await say(running, "one")
            await is_heard(running, "one")
        # The streams are gone when the next one starts.
        async with platform(servers, service, settings=settings) as running:
            await holds(running, 1)
            await is_heard(running, "one")
            async with running.transaction("toy", PLATFORM) as tx:
                lost, new = [mark for mark in await streams.list_marks(tx) if (mark.stream, mark.consumer) == ("LINLI_TOY", "")]
            assert lost.made_at < new.made_at


async def test_what_devices_told_and_nobody_had_handled_before_the_loss_is_counted(servers: Servers) -> None:
    async def wait(_tx: Any, _event: Any) -> None:
        raise Unavailable("toy.away", "稍后", "later")

    async with platform(servers, toy(on(Rattled, wait))) as running:

        async def marks() -> set[Mark]:
            running.host._keepers[0].set()
            async with running.transaction("toy", PLATFORM) as tx:
                return {mark for mark in await streams.list_marks(tx) if mark.stream == "DEVICE_TOY"}

        async def has_looked() -> bool:
            return {(mark.consumer, mark.position) for mark in await marks()} == {("", 3), ("toy-wait", 0)}

        async def has_noticed() -> bool:
            return len({mark.made_at for mark in await marks()}) == 2

        for number in range(3):
            await running.publish(Rattled(device_id="d"), COMMUNITY, event_id=f"018f0000-0000-7000-8000-00000000000{number}")
        await eventually(has_looked)
        await servers.forget_streams()
        await eventually(has_noticed)
        [loss] = count_losses(await marks())
        assert (loss["stream"], loss["consumer"], loss["unheard_at_most"]) == ("DEVICE_TOY", "toy-wait", 3)


async def test_without_what_it_remembers_a_service_does_not_notice(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "find_lost", lambda *_: [])
    async with platform(servers, toy(on(Spoken, hear))) as running:
        await say(running, "one")
        await is_heard(running, "one")
        await servers.forget_streams()
        running.host._keepers[0].set()
        await say(running, "two")
        await is_heard(running, "one", "two")
        await holds(running, 1)


def test_a_stream_that_goes_on_has_lost_nothing() -> None:
    made_at = datetime(2026, 1, 5, tzinfo=UTC)
    before = Mark("S", made_at, "", 7)
    for mark, is_lost in (
        (Mark("S", made_at, "", 7), False),
        (Mark("S", made_at, "", 8), False),
        (Mark("S", made_at, "", 6), True),
        (Mark("S", made_at + timedelta(seconds=1), "", 900), True),
        (Mark("new", made_at, "", 1), False),
    ):
        assert streams.find_lost({"S": before}, [mark]) == ([before] if is_lost else [])
