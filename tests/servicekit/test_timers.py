"""Timers fire once, when they are due, whatever happens to the process that fires them."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from servicekit.database import Database, Transaction, open_database
from servicekit.errors import Conflict
from servicekit.identifiers import new_id
from servicekit.timers import Due, Handler, Timers, cancel_timers, set_timers, timer
from tests.servicekit.toy import INSERT, QUIET, Spoken, texts, toy
from tests.support import Servers, TestClock, eventually, platform

pytestmark = pytest.mark.asyncio(loop_scope="module")
# Handlers of one process.
AT_ONCE = 4
DUE = datetime(2026, 3, 1, 8, 15, tzinfo=UTC)


class Timed:
    """A database whose timers fire by a clock of ours, and what its handlers wrote."""

    def __init__(self, url: str, database: Database, clock: TestClock) -> None:
        self.url, self.database, self.clock = url, database, clock

    async def set(self, community_id: UUID, *timers: Due) -> None:
        async with self.database.transaction(community_id) as tx:
            await set_timers(tx, timers)

    async def texts(self, community_id: UUID) -> list[str]:
        async with self.database.transaction(community_id) as tx:
            return list(await texts(tx))

    async def written(self, community_id: UUID, *expected: str) -> None:
        """Waits until the handlers have written exactly this, in any order."""

        async def is_written() -> bool:
            return sorted(await self.texts(community_id)) == sorted(expected)

        await eventually(is_written)

    async def pending(self, community_id: UUID) -> int:
        async with self.database.transaction(community_id) as tx:
            return int(await tx.fetchval("SELECT count(*) FROM timers"))

    async def all_looked_at(self) -> None:
        """Waits until everything that is due was looked at: a timer that becomes due last is taken up last."""
        community = new_id()
        await self.set(community, due("looked", self.clock.now, kind="look"))
        await self.written(community, "looked")

    @asynccontextmanager
    async def firing(self, **handlers: Handler) -> AsyncIterator[Timers]:
        """Fires the timers of these kinds for a block."""
        timers = Timers(self.database, [timer("look", write), *(timer(kind, run) for kind, run in handlers.items())])
        timers.start()
        try:
            yield timers
        finally:
            await timers.stop(5)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(servers: Servers) -> AsyncIterator[str]:
    async with servers.database(QUIET) as address:
        yield address


@pytest_asyncio.fixture(loop_scope="module")
async def timed(url: str) -> AsyncIterator[Timed]:
    clock = TestClock(DUE - timedelta(minutes=15))
    database = await open_database("toy", url, pool_size=8, clock=clock)
    try:
        yield Timed(url, database, clock)
    finally:
        await database.close()


async def write(tx: Transaction, due: Due) -> None:
    """Writes which timer fired."""
    await tx.execute(INSERT, tx.community_id, due.name)


async def fail(_tx: Transaction, _due: Due) -> None:
    raise Conflict("toy.stopped", "停", "stopped")


def due(name: str = "at 15 minutes", at: datetime = DUE, subject_id: UUID | None = None, kind: str = "response") -> Due:
    return Due(kind, subject_id or new_id(), name, at)


async def test_a_timer_fires_once_when_it_is_due_in_its_community_and_is_gone(timed: Timed) -> None:
    here, there, subject = new_id(), new_id(), new_id()
    await timed.set(here, due("here", subject_id=subject), due("later", DUE + timedelta(hours=1), subject))
    await timed.set(there, due("there", subject_id=subject))
    seen = []

    async def judge(tx: Transaction, timer: Due) -> None:
        seen.append((tx.community_id, timer))
        assert tx.now >= timer.due_at
        await write(tx, timer)

    async with timed.firing(response=judge):
        timed.clock.advance(minutes=14, seconds=59)
        await timed.all_looked_at()
        assert seen == []
        timed.clock.advance(seconds=1)
        await timed.written(here, "here")
        await timed.written(there, "there")
        await timed.all_looked_at()
    assert sorted(seen) == sorted([(here, due("here", subject_id=subject)), (there, due("there", subject_id=subject))])
    assert (await timed.pending(here), await timed.pending(there)) == (1, 0)


async def test_a_timer_that_is_moved_or_taken_back_does_not_fire_at_the_old_instant(timed: Timed) -> None:
    community, moved, cancelled, half = new_id(), new_id(), new_id(), new_id()
    await timed.set(
        community, due("moved", subject_id=moved), due("cancelled", subject_id=cancelled), due("cancelled, too", subject_id=cancelled)
    )
    await timed.set(community, due("of this kind", subject_id=half), due("of another kind", subject_id=half, kind="completion"))
    async with timed.database.transaction(community) as tx:
        later = DUE + timedelta(minutes=5)
        await set_timers(tx, [due("moved", DUE - timedelta(minutes=5), moved), due("moved", later, moved), due(subject_id=cancelled)])
        await cancel_timers(tx, cancelled)
        await cancel_timers(tx, half, "response")
    async with timed.firing(response=write, completion=write):
        timed.clock.now = DUE
        await timed.written(community, "of another kind")
        await timed.all_looked_at()
        timed.clock.now = later
        await timed.written(community, "of another kind", "moved")
    assert await timed.pending(community) == 0


async def test_a_handler_sets_its_own_timer_anew(timed: Timed) -> None:
    community = new_id()
    await timed.set(community, due())

    async def again(tx: Transaction, timer: Due) -> None:
        await tx.execute(INSERT, tx.community_id, timer.due_at.isoformat())
        await set_timers(tx, [Due(timer.kind, timer.subject_id, timer.name, timer.due_at + timedelta(days=1))])

    async with timed.firing(response=again):
        timed.clock.now = DUE
        await timed.written(community, DUE.isoformat())
        assert await timed.pending(community) == 1
        timed.clock.advance(days=1)
        await timed.written(community, DUE.isoformat(), (DUE + timedelta(days=1)).isoformat())


async def test_a_timer_whose_handler_fails_is_tried_again_later_each_time_and_holds_back_no_other(timed: Timed) -> None:
    community = new_id()
    broken = [due(f"broken {number}") for number in range(10)]
    await timed.set(community, *broken, due("whole", DUE + timedelta(milliseconds=1)))
    is_mended = False

    async def judge(tx: Transaction, timer: Due) -> None:
        await write(tx, timer)
        if timer.name != "whole" and not is_mended:
            await fail(tx, timer)

    async def all_failed(times: int) -> None:
        async def probe() -> bool:
            async with timed.database.transaction(community) as tx:
                return [row["attempts"] for row in await tx.fetch("SELECT attempts FROM timers")] == [times] * len(broken)

        await eventually(probe)

    with capture_logs() as logs:
        async with timed.firing(response=judge):
            timed.clock.now = DUE + timedelta(seconds=0.5)
            await timed.written(community, "whole")
            await all_failed(1)
            timed.clock.advance(seconds=1)
            await all_failed(2)
            timed.clock.advance(seconds=1)
            await timed.all_looked_at()
            await all_failed(2)
            is_mended = True
            timed.clock.advance(seconds=1)
            await timed.written(community, "whole", *(each.name for each in broken))
    assert [line["attempts"] for line in logs if line["event"] == "timer_failed"] == [1] * 10 + [2] * 10
    assert await timed.pending(community) == 0


async def test_a_handler_that_hangs_holds_back_no_other(timed: Timed) -> None:
    community, go_on = new_id(), asyncio.Event()
    await timed.set(community, due("slow"), *(due(f"quick {number}", DUE + timedelta(seconds=1)) for number in range(50)))

    async def judge(tx: Transaction, timer: Due) -> None:
        if timer.name == "slow":
            await go_on.wait()
        await write(tx, timer)

    async with timed.firing(response=judge):
        timed.clock.now = DUE + timedelta(seconds=1)
        await timed.written(community, *(f"quick {number}" for number in range(50)))
        go_on.set()
        await timed.written(community, "slow", *(f"quick {number}" for number in range(50)))


async def test_whoever_changes_a_subject_takes_back_a_timer_that_is_just_firing(timed: Timed) -> None:
    community, subject = new_id(), new_id()
    await timed.set(community, due(subject_id=subject))
    has_begun = asyncio.Event()

    async def judge(tx: Transaction, timer: Due) -> None:
        has_begun.set()
        await tx.execute("SELECT pg_advisory_xact_lock(hashtext($1))", str(subject))
        await write(tx, timer)

    async with timed.firing(response=judge):
        async with timed.database.transaction(community) as tx:
            await tx.execute("SELECT pg_advisory_xact_lock(hashtext($1))", str(subject))
            timed.clock.now = DUE
            await has_begun.wait()
            await cancel_timers(tx, subject)
        timed.clock.advance(hours=1)
        await timed.all_looked_at()
    assert await timed.texts(community) == []


async def test_what_became_due_while_no_process_ran_fires_at_the_next_start_the_longest_due_first(timed: Timed) -> None:
    community = new_id()
    names = [f"{number:03}" for number in range(100)]
    await timed.set(community, *(due(name, DUE + timedelta(seconds=int(name))) for name in reversed(names)))
    timed.clock.now = DUE + timedelta(days=3)
    async with timed.firing(response=write):
        await timed.written(community, *names)
    fired = await timed.texts(community)
    # Those in work at once may overtake each other.
    assert sum(abs(fired.index(name) - int(name)) for name in names) / len(names) < 5


async def test_several_processes_share_the_work_and_fire_each_timer_once(timed: Timed) -> None:
    community, done = new_id(), Counter[int]()
    names = [str(number) for number in range(300)]
    await timed.set(community, *(due(name) for name in names))

    def judge(process: int) -> Handler:
        async def run(tx: Transaction, timer: Due) -> None:
            await write(tx, timer)
            await asyncio.sleep(0.01)
            done[process] += tx.community_id == community

        return run

    async with AsyncExitStack() as stack:
        for process in range(3):
            database = await open_database("toy", timed.url, pool_size=4, clock=timed.clock)
            stack.push_async_callback(database.close)
            await stack.enter_async_context(Timed(timed.url, database, timed.clock).firing(response=judge(process)))
        timed.clock.now = DUE
        await timed.written(community, *names)
        await timed.all_looked_at()
        assert sorted(await timed.texts(community)) == sorted(names)
    assert sum(done.values()) == 300
    assert len(done) > 1


async def test_a_process_that_stops_finishes_what_is_in_work_and_leaves_the_rest(timed: Timed) -> None:
    community, go_on, begun = new_id(), asyncio.Event(), Counter[str]()
    await timed.set(community, *(due(str(number)) for number in range(20)))
    timed.clock.now = DUE

    async def judge(tx: Transaction, timer: Due) -> None:
        begun[timer.name] += 1
        await go_on.wait()
        await write(tx, timer)

    async def have_begun() -> bool:
        return len(begun) == AT_ONCE

    async with timed.firing(response=judge) as timers:
        await eventually(have_begun)
        stopping = asyncio.create_task(timers.stop(5))
        await asyncio.sleep(0)
        go_on.set()
        await stopping
    assert sorted(await timed.texts(community)) == sorted(begun)
    assert await timed.pending(community) == 20 - AT_ONCE


async def test_a_kind_that_nobody_judges_any_more_is_left_alone_and_told_of(timed: Timed) -> None:
    community = new_id()
    await timed.set(community, *(due(str(number), kind="forgotten") for number in range(3)), due("known"))
    timed.clock.now = DUE
    with capture_logs() as logs:
        async with timed.firing(response=write):
            await timed.written(community, "known")
    told = [line for line in logs if line["event"] == "timers_left_alone" and line["kind"] == "forgotten"]
    assert [line["timers"] for line in told] == [3]
    assert await timed.pending(community) == 3


async def test_one_kind_has_one_handler(timed: Timed) -> None:
    with pytest.raises(TypeError, match="toy declares two handlers"):
        Timers(timed.database, [timer("response", write), timer("response", fail)])


PROGRAM = """
import asyncio, os, sys
from servicekit.clock import system_clock
from servicekit.database import open_database
from servicekit.timers import Timers, timer
from tests.servicekit.toy import INSERT

async def judge(tx, due):
    await tx.execute(INSERT, tx.community_id, due.name)
    print("begun", flush=True)
    await asyncio.sleep(60)

async def main():
    database = await open_database("toy", os.environ["TOY"], pool_size=4, clock=system_clock)
    Timers(database, [timer("response", judge)]).start()
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_timer_whose_process_is_killed_fires_in_the_next_one(timed: Timed) -> None:
    community = new_id()
    await timed.set(community, due())
    environment = {**os.environ, "TOY": timed.url, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, env=environment, stdout=asyncio.subprocess.PIPE)
    assert program.stdout is not None
    try:
        async with asyncio.timeout(30):
            while await program.stdout.readline() != b"begun\n":
                assert not program.stdout.at_eof()
    finally:
        program.kill()
        await program.wait()
    assert await timed.texts(community) == []
    timed.clock.now = DUE
    async with timed.firing(response=write):
        await timed.written(community, "at 15 minutes")
        await timed.all_looked_at()
    assert await timed.texts(community) == ["at 15 minutes"]


async def test_timers_fire_again_after_the_server_was_away(timed: Timed, servers: Servers) -> None:
    community = new_id()
    await timed.set(community, due())
    superuser = await asyncpg.connect(servers.postgres.url(timed.url.rpartition("/")[2]))

    async def has_fired() -> bool:
        return bool(await superuser.fetchval("SELECT count(*) FROM heard WHERE community_id = $1", community))

    async with timed.firing(response=write):
        await superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'linli-toy'")
        timed.clock.now = DUE
        await eventually(has_fired)
    await superuser.close()


async def test_a_service_declares_who_judges_its_timers_and_what_they_publish_leaves(servers: Servers) -> None:
    community, clock = new_id(), TestClock(DUE)

    async def tell(tx: Transaction, timer: Due) -> None:
        tx.publish(Spoken(word_id=str(timer.subject_id), word=timer.name))

    service = toy(timers=[timer("response", tell)])
    async with platform(servers, service, clock=clock) as running:
        async with running.transaction("toy", community) as tx:
            await set_timers(tx, [due("missed", DUE + timedelta(minutes=15))])
        clock.advance(minutes=15)
        event = await running.event(Spoken)
    assert (event.message.word, event.community_id, event.occurred_at) == ("missed", community, clock.now)
