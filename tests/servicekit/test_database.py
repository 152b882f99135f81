"""Transactions: what they keep apart, what becomes of them when the server fails, and what a caller is told."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest

from servicekit.auth import Principal
from servicekit.clock import system_clock
from servicekit.database import GIVE_WAY, PLATFORM, AlreadyHandled, Database, InboxEntry, Resources, open_database
from servicekit.errors import Invalid, Unavailable
from servicekit.messaging import Publisher
from tests.servicekit.toy import COUNT, INSERT, QUIET, texts
from tests.servicekit.wire import Wire, wire_to
from tests.support import Servers, eventually

BACKENDS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'linli-toy' AND datname = $1"
END_BACKENDS = f"SELECT count(pg_terminate_backend(pid, 5000)) FROM ({BACKENDS}) AS backends"


class Toy:
    """The toy's database, and the superuser's view of it."""

    def __init__(self, url: str, database: Database, superuser: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.url = url
        self.database = database
        self.superuser = superuser
        self.name = url.rpartition("/")[2]

    async def kill_sessions(self) -> int:
        """Ends every session of the service, as an administrator would."""
        return int(await self.superuser.fetchval(END_BACKENDS, self.name))


@pytest.fixture
async def toy(servers: Servers) -> AsyncIterator[Toy]:
    async with servers.database(QUIET) as url:
        superuser = await asyncpg.connect(servers.postgres.url(url.rpartition("/")[2]))
        database = await open_database("toy", url, pool_size=2, clock=system_clock)
        try:
            yield Toy(url, database, superuser)
        finally:
            await database.close()
            await superuser.close()


async def test_a_transaction_sees_its_own_community_and_the_platform_sees_all(toy: Toy) -> None:
    one, other = uuid.uuid4(), uuid.uuid4()
    for community in (one, other):
        async with toy.database.transaction(community) as tx:
            await tx.execute(INSERT, community, f"said in {community}")
    async with toy.database.transaction(one) as tx:
        assert await texts(tx) == [f"said in {one}"]
        await tx.enter(other)
        assert await texts(tx) == [f"said in {other}"]
    async with toy.database.transaction(PLATFORM) as tx:
        assert await tx.fetchval(COUNT) == 2
    async with toy.database.transaction("") as tx:
        assert await tx.fetchval(COUNT) == 0


async def test_a_transaction_cannot_write_into_another_community(toy: Toy) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with toy.database.transaction(uuid.uuid4()) as tx:
            await tx.execute(INSERT, uuid.uuid4(), "smuggled")


async def test_without_its_policy_a_table_leaks(toy: Toy) -> None:
    async with toy.database.transaction(uuid.uuid4()) as tx:
        await tx.execute(INSERT, tx.community_id, "private")
    await toy.superuser.execute("DROP POLICY community ON heard; ALTER TABLE heard DISABLE ROW LEVEL SECURITY")
    async with toy.database.transaction(uuid.uuid4()) as tx:
        assert await texts(tx) == ["private"]


async def test_the_scope_of_a_transaction_does_not_outlive_it(toy: Toy) -> None:
    async with toy.database.transaction(PLATFORM) as tx:
        await tx.execute(INSERT, uuid.uuid4(), "said")
    url = toy.url
    connection = await asyncpg.connect(url)
    try:
        async with toy.database.transaction("") as tx:
            assert await tx.fetchval("SELECT current_setting('linli.community', true)") == ""
    finally:
        await connection.close()


async def test_an_error_that_is_raised_rolls_back(toy: Toy) -> None:
    async def fail() -> None:
        async with toy.database.transaction(PLATFORM) as tx:
            await tx.execute(INSERT, uuid.uuid4(), "never")
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    async with toy.database.transaction(PLATFORM) as tx:
        assert await tx.fetchval(COUNT) == 0


async def test_a_transaction_whose_error_was_swallowed_does_not_pass_for_committed(toy: Toy) -> None:
    async def swallow() -> None:
        async with toy.database.transaction(PLATFORM) as tx:
            await tx.execute(INSERT, uuid.uuid4(), "lost")
            try:
                await tx.execute("SELECT 1 / 0")
            except asyncpg.DivisionByZeroError:
                pass

    with pytest.raises(RuntimeError, match="swallowed"):
        await swallow()
    async with toy.database.transaction(PLATFORM) as tx:
        assert await tx.fetchval(COUNT) == 0


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("SELECT $1::text", "a\0b"),
        ("SELECT $1::jsonb", '{"a": "\\u0000"}'),
        ("SELECT $1::int", 2**40),
        ("SELECT $1::bigint", 2**70),
        ("SELECT $1::bigint::int", 2**40),
        ("SELECT $1::uuid", "no id"),
        ("SELECT $1::text::uuid", "no id"),
        ("SELECT $1::text::timestamptz", "999999-01-01"),
        ("SELECT $1::text", "\ud800"),
        (
            "INSERT INTO idempotency_keys (community_id, account_id, method, request_hash, key) "
            "VALUES (gen_random_uuid(), gen_random_uuid(), '', '', "
            "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 300) AS i) || $1::text)",
            "too long for an index",
        ),
    ],
)
async def test_a_value_that_postgresql_cannot_hold_is_the_callers_error(toy: Toy, sql: str, value: object) -> None:
    with pytest.raises(Invalid, match=r"request\.value"):
        async with toy.database.transaction(PLATFORM) as tx:
            await tx.fetch(sql, value)


async def test_a_value_of_the_wrong_type_is_a_defect_of_ours(toy: Toy) -> None:
    with pytest.raises(asyncpg.DataError):
        async with toy.database.transaction(PLATFORM) as tx:
            await tx.fetch("SELECT $1::int", "five")


async def test_a_second_writer_of_an_inbox_row_waits_for_the_first_and_is_told(toy: Toy) -> None:
    entry = InboxEntry("toy-hears", "event", uuid.uuid4())
    begun, finish = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with toy.database.transaction(entry.community_id, inbox=entry):
            begun.set()
            await finish.wait()

    async def second() -> None:
        async with toy.database.transaction(entry.community_id, inbox=entry):
            raise AssertionError("handled twice")

    one = asyncio.create_task(first())
    await begun.wait()
    other = asyncio.create_task(second())

    async def waits() -> bool:
        return bool(await toy.superuser.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))

    await eventually(waits)
    finish.set()
    await one
    with pytest.raises(AlreadyHandled):
        await other


async def test_an_inbox_row_of_a_transaction_that_failed_is_not_kept(toy: Toy) -> None:
    entry = InboxEntry("toy-hears", 'it\'s \\ "quoted"; DROP TABLE heard --', uuid.uuid4())
    for _ in range(2):
        with pytest.raises(KeyError):
            async with toy.database.transaction(entry.community_id, inbox=entry):
                raise KeyError
    async with toy.database.transaction(entry.community_id, inbox=entry) as tx:
        assert await tx.fetchval("SELECT event_id FROM inbox") == entry.event_id


async def test_a_pool_without_a_free_connection_is_unavailable(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servicekit.database._COMMAND_TIMEOUT_S", 0.2)
    async with toy.database.transaction(PLATFORM), toy.database.transaction(PLATFORM):
        with pytest.raises(Unavailable):
            async with toy.database.transaction(PLATFORM):
                pass
    async with toy.database.transaction(PLATFORM) as tx:
        assert await tx.fetchval("SELECT 1") == 1


async def test_a_statement_that_takes_too_long_is_unavailable_and_leaves_the_connection_usable(servers: Servers) -> None:
    async with servers.database(QUIET) as url:
        pool = await asyncpg.create_pool(url, min_size=1, max_size=1, command_timeout=0.2)
        database = Database("toy", pool, system_clock)

        async def dawdle() -> None:
            async with database.transaction(PLATFORM) as tx:
                await tx.execute(INSERT, uuid.uuid4(), "never")
                await tx.execute("SELECT pg_sleep(30)")

        for _ in range(3):
            with pytest.raises(Unavailable):
                await dawdle()
            async with database.transaction(PLATFORM) as tx:
                assert await tx.fetchval(COUNT) == 0
        await database.close()


async def test_a_cancelled_transaction_rolls_back_and_gives_its_connection_back(toy: Toy) -> None:
    async def slow(begun: asyncio.Event) -> None:
        async with toy.database.transaction(PLATFORM) as tx:
            await tx.execute(INSERT, uuid.uuid4(), "never")
            begun.set()
            await tx.execute("SELECT pg_sleep(30)")

    for _ in range(5):
        begun = asyncio.Event()
        task = asyncio.create_task(slow(begun))
        await begun.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with toy.database.transaction(PLATFORM) as tx, toy.database.transaction(PLATFORM):
        assert await tx.fetchval(COUNT) == 0


async def test_a_statement_whose_task_is_cancelled_twice_does_not_go_on(toy: Toy) -> None:
    async def slow() -> None:
        async with toy.database.transaction(PLATFORM) as tx:
            await tx.execute("SELECT pg_sleep(30)")

    async def sleeping() -> bool:
        return bool(await toy.superuser.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))

    async def ended() -> bool:
        return not await sleeping()

    task = asyncio.create_task(slow())
    await eventually(sleeping)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(ended, deadline_s=1.5)


async def test_a_transaction_whose_session_was_killed_is_unavailable_and_the_next_one_works(toy: Toy) -> None:
    async def lose_session() -> None:
        async with toy.database.transaction(PLATFORM) as tx:
            await tx.execute(INSERT, uuid.uuid4(), "never")
            assert await toy.kill_sessions() >= 1
            await tx.execute(INSERT, uuid.uuid4(), "never")

    for _ in range(3):
        with pytest.raises(Unavailable):
            await lose_session()
        async with toy.database.transaction(PLATFORM) as tx:
            assert await tx.fetchval(COUNT) == 0


async def test_a_statement_whose_session_is_killed_while_it_runs_is_unavailable(toy: Toy) -> None:
    async def slow() -> None:
        async with toy.database.transaction(PLATFORM) as tx:
            await tx.execute("SELECT pg_sleep(30)")

    task = asyncio.create_task(slow())

    async def runs() -> bool:
        return bool(await toy.superuser.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))

    await eventually(runs)
    await toy.kill_sessions()
    with pytest.raises(Unavailable):
        await task


async def test_sessions_that_were_killed_while_nobody_used_them_are_replaced(toy: Toy) -> None:
    async with toy.database.transaction(PLATFORM), toy.database.transaction(PLATFORM):
        pass
    assert await toy.kill_sessions() == 2

    async def works() -> bool:
        try:
            async with toy.database.transaction(PLATFORM) as tx:
                return bool(await tx.fetchval("SELECT true"))
        except Unavailable:
            return False

    await asyncio.gather(*(eventually(works) for _ in range(4)))


async def test_the_pool_recovers_when_postgresql_crashed_and_came_back(servers: Servers) -> None:
    async with servers.database(QUIET) as url:
        database = await open_database("toy", url, pool_size=4, clock=system_clock)

        async def use() -> bool:
            try:
                async with database.transaction(PLATFORM) as tx:
                    await tx.fetchval("SELECT pg_sleep(0.01)")
                    return True
            except Unavailable:
                return False

        async def keep_using(until: asyncio.Event) -> None:
            while not until.is_set():
                await use()
                await asyncio.sleep(0.02)

        stop = asyncio.Event()
        users = [asyncio.create_task(keep_using(stop)) for _ in range(8)]
        assert await eventually(use)
        await asyncio.to_thread(servers.postgres.kill)
        with pytest.raises(Unavailable):
            async with database.transaction(PLATFORM):
                pass
        servers.postgres.restart()
        assert await eventually(use)
        stop.set()
        await asyncio.gather(*users)
        assert all(await asyncio.gather(*(use() for _ in range(8))))
        await database.close()


async def test_a_commit_that_gets_no_answer_is_unavailable(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    async with servers.database(QUIET) as url, wire_to(servers.postgres.port) as wire:
        database = await open_database(
            "toy", url.replace(f":{servers.postgres.port}/", f":{wire.address.rpartition(':')[2]}/"), pool_size=1, clock=system_clock
        )
        with pytest.raises(Unavailable):
            await _commit_into_nothing(database, wire)
        await wire.mend()
        async with database.transaction(PLATFORM) as tx:
            assert await tx.fetchval(COUNT) == 0
        await database.close()


async def _commit_into_nothing(database: Database, wire: Wire) -> None:
    async with database.transaction(PLATFORM) as tx:
        await tx.execute(INSERT, uuid.uuid4(), "never")
        await wire.cut()


async def test_a_migration_under_a_running_service_makes_it_repeat_a_transaction_not_fail(toy: Toy) -> None:
    read = "SELECT text FROM heard LIMIT 1"
    async with toy.database.transaction(PLATFORM) as tx:
        await tx.execute(INSERT, uuid.uuid4(), "1")
        await tx.fetch(read)
    await toy.superuser.execute("ALTER TABLE heard ALTER COLUMN text TYPE varchar(100)")
    with pytest.raises(GIVE_WAY):
        async with toy.database.transaction(PLATFORM) as tx:
            await tx.fetch(read)
    async with toy.database.transaction(PLATFORM) as tx:
        assert [row["text"] for row in await tx.fetch(read)] == ["1"]


async def test_the_network_is_out_of_bounds_inside_a_transaction(toy: Toy) -> None:
    publisher = Publisher.__new__(Publisher)
    async with toy.database.transaction(PLATFORM):
        with pytest.raises(AssertionError, match="inside a transaction"):
            await publisher.send_now("subject", b"")


async def test_a_transaction_knows_who_asked_and_what_the_service_opened(toy: Toy) -> None:
    who = Principal(uuid.uuid4(), uuid.uuid4())
    toy.database.resources = Resources(["a text"])
    async with toy.database.transaction(who.community_id, principal=who) as tx:
        assert tx.caller is who
        assert tx.resource(str) == "a text"
        with pytest.raises(LookupError):
            tx.resource(int)
    async with toy.database.transaction(PLATFORM) as tx:
        with pytest.raises(RuntimeError, match="nobody"):
            _ = tx.caller
        with pytest.raises(RuntimeError, match="no community"):
            _ = tx.community_id
