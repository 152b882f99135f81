"""Databases go back in time and the broker does not: what is lost is named, nobody hears of it, and what devices told counts once.

A toy service first, quickly, with a control for each step of the recovery. The whole platform with PostgreSQL's own archive is in
`test_restores.py`.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import nats
import pytest

from console import recovery
from console.recovery import RecoveryError
from servicekit.messaging import on
from tests.servicekit.toy import SAY, Echoed, Rattled, Spoken, message, texts, toy
from tests.support import DEADLINE_S, Platform, Servers, environment, eventually, platform, principal

COMMUNITY = UUID("018f0000-0000-7000-8000-000000000003")
KEEP = "INSERT INTO heard (community_id, text) VALUES ($1, $2)"


async def echo_on_rattled(tx: Any, event: Any) -> None:
    """What a device told is a fact of its own."""
    await tx.execute(KEEP, tx.community_id, f"decided {event.event_id[-1]}")
    tx.publish(Echoed(word_id=event.event_id, word=event.event_id[-1]))


async def keep_echo(tx: Any, event: Any) -> None:
    await tx.execute(KEEP, tx.community_id, f"echoed {event.message.word}")


async def keep_word(tx: Any, event: Any) -> None:
    await tx.execute(KEEP, tx.community_id, f"heard {event.message.word}")


TOY = toy(on(Rattled, echo_on_rattled), on(Echoed, keep_echo), on(Spoken, keep_word))


@dataclass(slots=True)
class Span:
    """What happened while the platform ran: the facts that it published, by their ids."""

    facts: set[str]
    kept: list[str]


def wanted(devices: str, people: str) -> list[str]:
    """What is kept when these devices told something and these words were said: each once."""
    told = [f"{what} {name}" for name in devices for what in ("decided", "echoed")]
    return sorted([*told, *(text for name in people for text in (name, f"heard {name}"))])


@asynccontextmanager
async def running_on(servers: Servers, url: str) -> AsyncIterator[Platform]:
    async with platform(servers, TOY, settings={"LINLI_TOY_DATABASE_URL": url}, keep_streams=True) as running:
        yield running


async def keeps(running: Platform, expected: list[str], deadline_s: float = DEADLINE_S) -> Span:
    """Waits until exactly this is kept, and everything is sent."""

    async def kept() -> list[str]:
        async with running.transaction("toy", COMMUNITY) as tx:
            return sorted(await texts(tx))

    async def is_kept() -> bool:
        async with running.transaction("toy", COMMUNITY) as tx:
            is_sent = await tx.fetchval("SELECT count(*) FROM outbox WHERE sent_at IS NULL") == 0
        return is_sent and await kept() == expected

    try:
        await eventually(is_kept, deadline_s=deadline_s)
    except AssertionError:
        assert await kept() == expected
        raise
    facts = {event.event_id for kind in (Spoken, Echoed) for event in running.events(kind)}
    return Span(facts, expected)


async def live(running: Platform, device: str, word: str) -> None:
    """A device tells something, and a person says something."""
    await running.publish(Rattled(device_id=f"d{device}"), COMMUNITY, event_id=f"018f0000-0000-7000-8000-00000000000{device}")
    who = principal("toy.say", community_id=COMMUNITY, modules=["toy"])
    await running.caller(who).call(SAY, message("SayRequest", word=word))


@dataclass(slots=True)
class Past:
    """A database as it was, the instant, and the facts that were published after it."""

    url: str
    instant: datetime
    lost: set[str]


@asynccontextmanager
async def gone_back(servers: Servers) -> AsyncIterator[Past]:
    """A platform lived through an instant and on; its database is as it was at that instant, its broker has everything."""
    await servers.forget_streams()
    async with servers.database(TOY) as url:
        name = url.rpartition("/")[2]
        async with running_on(servers, url) as running:
            await live(running, "1", "a")
            before = await keeps(running, wanted("1", "a"))
        instant, past = datetime.now(UTC), f"{name}_past"
        await servers._run(f"CREATE DATABASE {past} TEMPLATE {name}")
        try:
            async with running_on(servers, url) as running:
                await live(running, "2", "b")
                after = await keeps(running, wanted("12", "ab"))
            yield Past(f"{url.rpartition('/')[0]}/{past}", instant, after.facts - before.facts)
        finally:
            await servers._run(f"DROP DATABASE {past} WITH (FORCE)")


async def recover(servers: Servers, past: Past, folder: Path, heard_until: datetime | None = None) -> set[str]:
    """Recovers as an operator would. Returns the facts that are said to be lost."""
    with environment({"LINLI_NATS_URL": servers.nats.url, "LINLI_TOY_DATABASE_URL": past.url}):
        await recovery.recover([TOY], past.instant, folder, heard_until)
    return reported(folder)


def reported(folder: Path) -> set[str]:
    """The ids of the facts in a report."""
    (report,) = folder.glob("*.jsonl")
    return {json.loads(line)["event_id"] for line in report.read_text().splitlines()}


async def goes_on(servers: Servers, past: Past, deadline_s: float = DEADLINE_S) -> None:
    """The services start, and everything is as if the lost time had only been told by devices."""
    async with running_on(servers, past.url) as running:
        await live(running, "3", "c")
        await keeps(running, wanted("123", "ac"), deadline_s)


async def test_what_is_lost_is_named_and_unheard_and_what_devices_told_counts_once(servers: Servers, tmp_path: Path) -> None:
    async with gone_back(servers) as past:
        assert len(past.lost) == 2  # What was said, and what was made of what the device told.
        assert await recover(servers, past, tmp_path) == past.lost
        await goes_on(servers, past)


async def test_consumers_that_were_not_behind_hear_only_what_came_after(servers: Servers, tmp_path: Path) -> None:
    async with gone_back(servers) as past:
        assert await recover(servers, past, tmp_path, heard_until=past.instant) == past.lost
        client = await nats.connect(servers.nats.url)
        waiting = (await client.jsm().consumer_info("DEVICE_TOY", "toy-echo_on_rattled")).num_pending
        await client.close()
        assert waiting == 1  # Of two that the stream holds.
        await goes_on(servers, past)


async def nothing(*_arguments: Any) -> int:
    return 0


# Without the first a word is heard that nobody has said, without the second nothing is decided on what a device told.
@pytest.mark.parametrize(("step", "symptom"), [("_delete", "heard b"), ("_hear_again", "decided 2")])
async def test_the_drill_fails_without_one_of_the_steps(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, symptom: str
) -> None:
    monkeypatch.setattr(recovery, step, nothing)
    async with gone_back(servers) as past:
        await recover(servers, past, tmp_path)
        with pytest.raises(AssertionError, match=symptom):
            await goes_on(servers, past, deadline_s=2)


async def test_recovery_may_be_interrupted_and_done_again(servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def break_down(*_arguments: Any) -> int:
        raise OSError("the power is gone")

    async with gone_back(servers) as past:
        with monkeypatch.context() as interrupted:
            interrupted.setattr(recovery, "_hear_again", break_down)
            with pytest.raises(OSError, match="power"):
                await recover(servers, past, tmp_path / "first")
        assert await recover(servers, past, tmp_path / "second") == set()
        await goes_on(servers, past)
        assert reported(tmp_path / "first") == past.lost


async def test_recovery_is_refused_while_services_run_and_on_databases_that_were_not_restored(servers: Servers, tmp_path: Path) -> None:
    async with gone_back(servers) as past:
        async with running_on(servers, past.url):
            with pytest.raises(RecoveryError, match="stop the services first: toy"):
                await recover(servers, past, tmp_path)
        too_early = Past(past.url, datetime(2026, 1, 5, tzinfo=UTC), set())
        with pytest.raises(RecoveryError, match="was not restored"):
            await recover(servers, too_early, tmp_path)
        with pytest.raises(ValueError, match="not enough values"):
            reported(tmp_path)
