"""Group commit: those who wait at the same time are applied in one transaction, and each gets its own answer after the commit.

A shard has one open group. It takes what waits and never waits for more; the next one gathers while it commits.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar
from uuid import UUID

from prometheus_client import Histogram

from ledger.turn import Memory, Turn, shard_of, take_turn
from servicekit import telemetry
from servicekit.database import GIVE_WAY, PLATFORM, Database, forbid_in_transaction
from servicekit.errors import Exhausted, ServiceError, Unavailable

R = TypeVar("R")
A = TypeVar("A")
Decide = Callable[[Turn, Sequence[R]], Awaitable[Sequence[A | ServiceError]]]

# Of the sizes of its requests. Larger groups gain nothing more, and make everybody in them wait.
GROUP_MAX: Final = 1_000
WAITING_MAX: Final = 20_000
_ATTEMPTS = 5
GROUP_SIZE = Histogram(
    "linli_ledger_group_size",
    "Requests that were committed in one transaction",
    ["service"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
)


class _Waiting(Generic[R, A]):
    """A request, and who waits for its answer."""

    __slots__ = ("answer", "community_id", "request", "size")

    def __init__(self, community_id: UUID, request: R, size: int, answer: "asyncio.Future[A]") -> None:
        self.community_id = community_id
        self.request = request
        self.size = size
        self.answer = answer


class Writer(Generic[R, A]):
    """Writes to a ledger for many callers at once.

    `decide` is given the turn, which covers the communities of all requests, and the requests in the order in which they came; it returns
    an answer or an error for each. It runs in a transaction in the platform scope, `turn.tx`, and may run again for the same requests, so
    all that it does must be in that transaction.
    """

    def __init__(self, database: Database, decide: Decide[R, A], *, shards: int = 1, waiting_max: int = WAITING_MAX) -> None:
        self._database = database
        self._decide = decide
        self._shards = shards
        self._waiting_max = waiting_max
        self._waiting: list[deque[_Waiting[R, A]]] = [deque() for _ in range(shards)]
        self._sizes = [0] * shards
        self._memories = [Memory() for _ in range(shards)]
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._is_closed = False

    async def submit(self, community_id: UUID, request: R, *, size: int = 1) -> A:
        """Returns the answer once it is committed. `size` is how many transfers the request stands for.

        Raises the request's own error; Exhausted when too much waits; Unavailable when the commit is not known to have happened: ask again
        with the same id.
        """
        forbid_in_transaction("waiting for the ledger's writer")
        shard = shard_of(community_id, self._shards)
        if self._is_closed:
            raise _unavailable()
        if self._sizes[shard] + size > self._waiting_max:
            raise Exhausted("ledger.busy", "系统繁忙，请稍后再试", "Too much waits for the ledger; please try again", retry_after_s=1)
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting[shard].append(_Waiting(community_id, request, size, answer))
        self._sizes[shard] += size
        if shard not in self._tasks:
            self._tasks[shard] = asyncio.create_task(self._run(shard))
        return await answer

    async def close(self) -> None:
        """Takes no more, and returns when all that waited is answered."""
        self._is_closed = True
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def _run(self, shard: int) -> None:
        try:
            while group := self._gather(shard):
                await self._answer(group)
        finally:
            del self._tasks[shard]

    def _gather(self, shard: int) -> list[_Waiting[R, A]]:
        waiting, size = self._waiting[shard], 0
        group: list[_Waiting[R, A]] = []
        while waiting and (not group or size + waiting[0].size <= GROUP_MAX):
            size += waiting[0].size
            group.append(waiting.popleft())
        self._sizes[shard] -= size
        return group

    async def _answer(self, group: Sequence[_Waiting[R, A]]) -> None:
        """Answers everybody in a group. What fails for one request's sake is halved until that one fails alone."""
        answers: Sequence[A | ServiceError]
        try:
            answers = await self._commit(group)
        except Unavailable as error:
            answers = [error] * len(group)
        except Exception as error:
            if len(group) > 1:
                telemetry.log.warning("ledger_group_halved", service=self._database.service, error=telemetry.describe(error))
                middle = len(group) // 2
                await self._answer(group[:middle])
                await self._answer(group[middle:])
                return
            if not group[0].answer.done():
                group[0].answer.set_exception(error)
            return
        for waiting, answer in zip(group, answers, strict=True):
            if waiting.answer.done():
                continue  # Who asked has gone.
            if isinstance(answer, ServiceError):
                waiting.answer.set_exception(answer)
            else:
                waiting.answer.set_result(answer)

    async def _commit(self, group: Sequence[_Waiting[R, A]]) -> Sequence[A | ServiceError]:
        communities = {waiting.community_id for waiting in group}
        requests = [waiting.request for waiting in group]
        memory = self._memories[shard_of(group[0].community_id, self._shards)]
        for _ in range(_ATTEMPTS):
            try:
                async with self._database.transaction(PLATFORM) as tx:
                    turn = await take_turn(tx, communities, shards=self._shards, memory=memory)
                    answers = await self._decide(turn, requests)
                    if len(answers) != len(requests):
                        raise RuntimeError("a decision without an answer for each request")
                GROUP_SIZE.labels(self._database.service).observe(len(group))
                return answers
            except BaseException as error:
                memory.forget()
                if not isinstance(error, GIVE_WAY):
                    raise
                telemetry.log.warning("ledger_group_again", service=self._database.service, error=telemetry.describe(error))
        raise _unavailable()


def _unavailable() -> Unavailable:
    return Unavailable("ledger.unavailable", "系统繁忙，请稍后再试", "The ledger does not answer; please try again", retry_after_s=1)
