"""What the ledger's tests stand on: an empty ledger on real PostgreSQL, and builders that state only what matters."""

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg

import ledger
from ledger import Account, Posting, Receipt, Resolution, Side, Transfer, Turn, Writer
from ledger.audit import audit
from servicekit.database import Database, open_database
from servicekit.errors import ServiceError
from servicekit.identifiers import new_id
from servicekit.service import Service
from tests.support import Servers, TestClock

LEDGER = Service(name="ledger", migrations=[ledger.MIGRATIONS])
MORNING = datetime(2026, 3, 2, 8, tzinfo=UTC)
PlainWriter = Writer[Transfer | Resolution, Receipt]


async def decide(turn: Turn, requests: Sequence[Transfer | Resolution]) -> Sequence[Receipt | ServiceError]:
    """What a writer of plain transfers decides."""
    return await turn.apply(requests)


@dataclass(slots=True)
class Books:
    """A ledger of one community with an issuing account, which may give without end. Everybody else's accounts have a floor of 0."""

    database: Database
    clock: TestClock
    url: str
    community_id: uuid.UUID
    issuer: uuid.UUID

    async def open(self, floor: int | None = 0, *, side: Side = Side.CREDIT, unit: str = "points", funds: int = 0) -> uuid.UUID:
        """Opens an account and gives it funds."""
        account = Account(new_id(), self.community_id, unit, side, floor)
        async with self.database.transaction(self.community_id) as tx:
            turn = await ledger.take_turn(tx, [self.community_id])
            await turn.open_accounts([account])
        if funds:
            await self.apply(self.transfer(self.issuer, account.account_id, funds))
        return account.account_id

    def transfer(self, giver: uuid.UUID, taker: uuid.UUID, amount: int, **content: object) -> Transfer:
        """A debit of the giver and a credit of the taker: points that go from one to the other."""
        postings = (Posting(giver, amount), Posting(taker, -amount))
        return Transfer(**{"transfer_id": new_id(), "community_id": self.community_id, "kind": "gift", "postings": postings, **content})  # type: ignore[arg-type]

    def resolution(self, pending: Transfer, *, is_posted: bool) -> Resolution:
        """Posts or voids a pending transfer."""
        return Resolution(new_id(), pending.community_id, pending.transfer_id, is_posted)

    async def answers(self, *requests: Transfer | Resolution) -> list[Receipt | ServiceError]:
        """Applies requests in one turn."""
        async with self.database.transaction(self.community_id) as tx:
            return await (await ledger.take_turn(tx, [self.community_id])).apply(requests)

    async def apply(self, request: Transfer | Resolution) -> Receipt:
        """Applies one request, or raises its refusal."""
        (answer,) = await self.answers(request)
        if isinstance(answer, ServiceError):
            raise answer
        return answer

    async def balance(self, account_id: uuid.UUID) -> ledger.Balance:
        """The balance of an account that exists."""
        async with self.database.transaction(self.community_id) as tx:
            found = await ledger.balance(tx, account_id)
        assert found is not None
        return found

    async def close(self, account_id: uuid.UUID) -> None:
        """Closes an account."""
        async with self.database.transaction(self.community_id) as tx:
            await (await ledger.take_turn(tx, [self.community_id])).close_account(account_id)

    def writer(self) -> PlainWriter:
        """A writer of plain transfers."""
        return Writer(self.database, decide)

    async def broken(self) -> dict[str, tuple[str, ...]]:
        """The invariants that do not hold, with what breaks them."""
        connection = await asyncpg.connect(self.url)
        try:
            return {finding.invariant: finding.broken async for finding in audit(connection) if finding.broken}
        finally:
            await connection.close()


@asynccontextmanager
async def books_on(servers: Servers, *, pool_size: int = 4) -> AsyncIterator[Books]:
    """Books in a database of their own."""
    async with servers.database(LEDGER) as url:
        clock = TestClock(MORNING)
        database = await open_database("ledger", url, pool_size=pool_size, clock=clock)
        try:
            books = Books(database, clock, url, new_id(), uuid.UUID(int=0))
            books.issuer = await books.open(None, side=Side.DEBIT)
            yield books
        finally:
            await database.close()
