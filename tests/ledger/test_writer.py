"""Group commit: many callers at once, each with an answer of its own, whatever becomes of the others, the writer or its connection."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg
import pytest

import ledger
from ledger import Receipt, Resolution, Transfer, Turn, TurnLost, Writer
from ledger.turn import Memory
from servicekit.database import Database, open_database
from servicekit.errors import Exhausted, ServiceError, Unavailable
from servicekit.identifiers import new_id
from tests.ledger.books import Books, PlainWriter, decide
from tests.measured import measured
from tests.support import Servers, eventually

COMMITS = "SELECT count(DISTINCT xmin::text) FROM ledger_transfers"
END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()"
WAITING = """
SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()
"""


@asynccontextmanager
async def second_pool(books: Books, name: str = "other") -> AsyncIterator[Database]:
    """A pool of its own, as another process has; its sessions are named `linli-<name>`."""
    database = await open_database(name, books.url, pool_size=2, clock=books.clock)
    try:
        yield database
    finally:
        await database.close()


async def total(books: Books, account_ids: Sequence[uuid.UUID]) -> int:
    balances = [await books.balance(account_id) for account_id in account_ids]
    return sum(balance.balance for balance in balances)


async def test_callers_that_wait_at_the_same_time_share_a_commit(books: Books) -> None:
    residents = [await books.open() for _ in range(4)]
    writer = books.writer()
    gifts = [books.transfer(books.issuer, residents[number % 4], 1) for number in range(400)]
    sizes = [measured(f"linli_ledger_group_size_{part}", service=books.database.service) for part in ("sum", "count")]
    receipts = await asyncio.gather(*(writer.submit(books.community_id, gift) for gift in gifts))
    assert [receipt.transfer_id for receipt in receipts] == [gift.transfer_id for gift in gifts]
    assert await total(books, residents) == 400
    async with books.database.transaction(books.community_id) as tx:
        commits = await tx.fetchval(COMMITS)
    assert commits < 10
    assert measured("linli_ledger_group_size_sum", service=books.database.service) == sizes[0] + 400
    assert measured("linli_ledger_group_size_count", service=books.database.service) < sizes[1] + 10


async def test_64_withdrawals_at_once_with_funds_for_one(books: Books) -> None:
    resident = await books.open(funds=5)
    async with second_pool(books) as other:
        writers: list[PlainWriter] = [books.writer(), Writer(other, decide)]
        asked = [books.transfer(resident, books.issuer, 5) for _ in range(64)]
        work = (writers[number % 2].submit(books.community_id, transfer) for number, transfer in enumerate(asked))
        answers = await asyncio.gather(*work, return_exceptions=True)
    assert sum(isinstance(answer, Receipt) for answer in answers) == 1
    assert {answer.code for answer in answers if isinstance(answer, ServiceError)} == {"ledger.insufficient"}
    assert await books.balance(resident) == ledger.Balance(0, 0, 2)


async def test_one_poisoned_request_fails_alone(books: Books) -> None:
    resident = await books.open()

    async def decide_or_break(turn: Turn, requests: Sequence[Transfer | Resolution]) -> Sequence[Receipt | ServiceError]:
        answers = await turn.apply(requests)
        if any(request.transfer_id == poison.transfer_id for request in requests):
            raise ZeroDivisionError("poisoned")
        return answers

    writer: PlainWriter = Writer(books.database, decide_or_break)
    gifts = [books.transfer(books.issuer, resident, 1) for _ in range(50)]
    poison = gifts[17]
    answers = await asyncio.gather(*(writer.submit(books.community_id, gift) for gift in gifts), return_exceptions=True)
    assert [number for number, answer in enumerate(answers) if not isinstance(answer, Receipt)] == [17]
    assert isinstance(answers[17], ZeroDivisionError)
    assert (await books.balance(resident)).balance == 49


async def test_a_group_that_gave_way_is_done_again(books: Books) -> None:
    resident = await books.open()
    tries = 0

    async def give_way_once(turn: Turn, requests: Sequence[Transfer | Resolution]) -> Sequence[Receipt | ServiceError]:
        nonlocal tries
        tries += 1
        answers = await turn.apply(requests)
        if tries == 1:
            raise asyncpg.DeadlockDetectedError("as PostgreSQL would")
        return answers

    writer: PlainWriter = Writer(books.database, give_way_once)
    assert (await writer.submit(books.community_id, books.transfer(books.issuer, resident, 1))).is_new
    assert (await books.balance(resident)).balance == 1


async def test_past_the_limit_callers_are_told_to_come_again(books: Books) -> None:
    resident = await books.open()
    writer: PlainWriter = Writer(books.database, decide, waiting_max=10)
    gifts = [books.transfer(books.issuer, resident, 1) for _ in range(30)]
    answers = await asyncio.gather(*(writer.submit(books.community_id, gift) for gift in gifts), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Exhausted)]
    assert {(error.code, error.retry_after_s) for error in refused} == {("ledger.busy", 1)}
    assert (await books.balance(resident)).balance == 30 - len(refused) == 10


async def test_a_closed_writer_answers_all_that_waited_and_takes_no_more(books: Books) -> None:
    resident = await books.open()
    writer = books.writer()
    waiting = [asyncio.create_task(writer.submit(books.community_id, books.transfer(books.issuer, resident, 1))) for _ in range(300)]
    await asyncio.sleep(0)
    await writer.close()
    assert all(task.done() and task.result().is_new for task in waiting)
    with pytest.raises(Unavailable):
        await writer.submit(books.community_id, books.transfer(books.issuer, resident, 1))


async def test_a_caller_that_goes_away_leaves_the_others_their_answers(books: Books) -> None:
    resident = await books.open()
    writer = books.writer()
    tasks = [asyncio.create_task(writer.submit(books.community_id, books.transfer(books.issuer, resident, 1))) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Receipt, asyncio.CancelledError, Receipt]


async def test_two_writers_of_one_shard_double_nothing(books: Books) -> None:
    residents = [await books.open() for _ in range(3)]
    gifts = [books.transfer(books.issuer, residents[number % 3], 1) for number in range(300)]
    async with second_pool(books) as other:
        writers: list[PlainWriter] = [books.writer(), Writer(other, decide)]
        work = (writer.submit(books.community_id, gift) for gift in gifts for writer in writers)
        receipts = await asyncio.gather(*work)
    assert sum(receipt.is_new for receipt in receipts) == 300
    assert await total(books, residents) == 300


async def test_a_writer_that_counts_other_shards_loses_and_doubles_nothing(books: Books) -> None:
    resident = await books.open()
    gifts = [books.transfer(books.issuer, resident, 1) for _ in range(200)]
    shards = next(count for count in range(2, 9) if books.community_id.int % count)
    async with second_pool(books) as other:
        writers: list[PlainWriter] = [books.writer(), Writer(other, decide, shards=shards)]

        async def insist(writer: PlainWriter, gift: Transfer) -> Receipt:
            while True:
                try:
                    return await writer.submit(books.community_id, gift)
                except Unavailable:
                    continue

        receipts = await asyncio.gather(*(insist(writer, gift) for gift in gifts for writer in writers))
    assert sum(receipt.is_new for receipt in receipts) == 200
    assert await books.balance(resident) == ledger.Balance(200, 0, 200)


async def test_who_writes_without_the_turn_makes_the_one_who_has_it_begin_again(books: Books) -> None:
    resident = await books.open(funds=5)

    async def spend_with_an_intruder() -> None:
        async with books.database.transaction(books.community_id) as tx:
            turn = await ledger.take_turn(tx, [books.community_id])
            await turn.balances([resident])
            async with books.database.transaction(books.community_id) as intruder:
                other = Turn(intruder, [books.community_id], Memory())  # As if it had the turn.
                await other.apply([books.transfer(books.issuer, resident, 1)])
            await turn.apply([books.transfer(resident, books.issuer, 5)])

    with pytest.raises(TurnLost):
        await spend_with_an_intruder()
    assert (await books.balance(resident)).balance == 6


async def test_a_writer_that_is_killed_in_its_turn_is_replaced_and_nothing_is_lost_or_doubled(books: Books, servers: Servers) -> None:
    resident = await books.open()
    is_writing = asyncio.Event()

    async def write_and_wait(turn: Turn, requests: Sequence[Transfer | Resolution]) -> Sequence[Receipt | ServiceError]:
        answers = await turn.apply(requests)
        is_writing.set()
        await turn.tx.execute("SELECT pg_sleep(60)")
        return answers

    gifts = [books.transfer(books.issuer, resident, 1) for _ in range(20)]
    superuser = await asyncpg.connect(servers.postgres.url(books.url.rpartition("/")[2]))
    async with second_pool(books, "victim") as theirs:
        victim: PlainWriter = Writer(theirs, write_and_wait)
        lost = [asyncio.create_task(victim.submit(books.community_id, gift)) for gift in gifts]
        await is_writing.wait()
        writer = books.writer()
        again = [asyncio.create_task(writer.submit(books.community_id, gift)) for gift in gifts]
        await eventually(lambda: superuser.fetchval(WAITING), "the other waits for the turn")
        assert not any(task.done() for task in again)
        await superuser.fetch(END_SESSIONS, "linli-victim")
        assert all([(await task).is_new for task in again])
        for task in lost:
            with pytest.raises(Unavailable):
                await task
    await superuser.close()
    assert await books.balance(resident) == ledger.Balance(20, 0, 20)


async def test_who_vanishes_in_its_turn_loses_it_within_seconds(books: Books) -> None:
    resident = await books.open()

    async def vanish(database: Database) -> None:
        async with database.transaction(books.community_id) as tx:
            await ledger.take_turn(tx, [books.community_id])
            # Says nothing more, as a machine without power, while another asks for the turn.
            async with asyncio.timeout(10):
                await books.apply(books.transfer(books.issuer, resident, 1))
            await tx.fetchval("SELECT 1")

    async with second_pool(books, "vanished") as theirs:
        with pytest.raises(Unavailable):
            await vanish(theirs)
    assert (await books.balance(resident)).balance == 1


async def test_a_writer_tells_nothing_of_another_community_that_it_remembers(books: Books) -> None:
    neighbours = replace(books, community_id=new_id())
    theirs, ours = await neighbours.open(None), await books.open()
    told: list[dict[uuid.UUID, ledger.Balance]] = []

    async def look(turn: Turn, requests: Sequence[Transfer | Resolution]) -> Sequence[Receipt | ServiceError]:
        answers = await turn.apply(requests)
        told.append(await turn.balances([theirs, ours]))
        return answers

    writer: PlainWriter = Writer(books.database, look)
    await writer.submit(neighbours.community_id, neighbours.transfer(await neighbours.open(None), theirs, 1))
    await writer.submit(books.community_id, books.transfer(books.issuer, ours, 1))
    assert [set(balances) for balances in told] == [{theirs}, {ours}]


async def test_a_writer_forgets_what_others_have_changed_since(books: Books) -> None:
    resident, writer = await books.open(), books.writer()
    for _ in range(3):
        await writer.submit(books.community_id, books.transfer(books.issuer, resident, 1))
        await books.apply(books.transfer(resident, books.issuer, 1))
        with pytest.raises(ServiceError, match=r"ledger\.insufficient"):
            await writer.submit(books.community_id, books.transfer(resident, books.issuer, 1))
        await books.apply(books.transfer(books.issuer, resident, 1))
        await writer.submit(books.community_id, books.transfer(resident, books.issuer, 1))
