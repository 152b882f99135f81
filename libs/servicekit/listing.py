"""Lists with optional filters: the statement holds only what is asked for, so that one plan of it is right for good.

Of `WHERE ($2::text IS NULL OR state = $2)` no plan is right for every question: PostgreSQL plans it anew each time, or keeps a plan that
reads on and on where few rows fit. A `Listing` is a constant of a store, beside the function that asks it, and fits `paging.page`, whose
cursor is its key:

    _SESSIONS = Listing(
        select="SELECT session_id, plate, state FROM sessions",
        where="community_id = {}",
        filters={"plate": "plate = {}", "state": one_of("state", SessionState), "unpaid": "paid_fen < amount_fen"},
        key=("session_id",),
        descending=True,
    )

    async def list_sessions(tx: Transaction, plate: str | None, unpaid: bool, after: UUID | None, limit: int) -> list[Session]:
        rows = await _SESSIONS.fetch(tx, [tx.community_id], after, limit, plate=plate, unpaid=unpaid)

The variants of a statement are few, and asyncpg keeps each of them prepared.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from servicekit.database import Transaction


def one_of(column: str, values: Iterable[str]) -> Mapping[str, str]:
    """A filter by a column of few values, such as a state. Each is written out in a statement of its own: of some there are many rows and
    of others few, and only what is written out finds an index on some of them."""
    return {value: f"{column} = '{value}'" for value in values}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A list in the order of its key, whose columns are never NULL and together unique in it.

    `select` ends with its FROM and its joins. `where` always holds, a filter when it is asked for; `{}` in them stands for an argument. A
    filter is a condition, or one for each value that may be asked for. `then` closes what `select` has opened, when the rows of a page are
    chosen in a subquery: the page first, then what belongs to it.
    """

    select: str
    key: tuple[str, ...]
    descending: bool = False
    where: str = "true"
    filters: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)
    then: str = ""

    async def fetch(
        self, tx: Transaction, arguments: Sequence[object], after: object | None, limit: int, /, **asked: object
    ) -> list[asyncpg.Record]:
        """Up to `limit` rows whose key follows `after`: a value, or a tuple for a key of several columns; None for the first page.

        `arguments` belong to `where`. A filter is asked for with its argument, a tuple of several, or True when it has none; None and False
        do not ask for it. Raises KeyError for what is not declared.
        """
        conditions, values = [], list(arguments)
        for name, value in asked.items():
            if value is None or value is False:
                continue
            condition = self.filters[name]
            if not isinstance(condition, str):
                conditions.append(condition[str(value)])
                continue
            conditions.append(condition)
            if value is not True:
                values += value if isinstance(value, tuple) else (value,)
        if after is not None:
            values += after if isinstance(after, tuple) else (after,)
        return await tx.fetch(self._statement(conditions, is_first=after is None), *values, limit)

    def statements(self) -> Iterator[str]:
        """The statement without filters, with each alone, and with all of them, for the first page and for others: so that a test can
        prepare them."""
        each = [[condition] if isinstance(condition, str) else [*condition.values()] for condition in self.filters.values()]
        for conditions in [[], *([condition] for choices in each for condition in choices), [choices[0] for choices in each]]:
            yield self._statement(conditions, is_first=True)
            yield self._statement(conditions, is_first=False)

    def _statement(self, conditions: Sequence[str], *, is_first: bool) -> str:
        held = [self.where, *conditions]
        if not is_first:
            held.append(f"({', '.join(self.key)}) {'<' if self.descending else '>'} ({', '.join('{}' for _ in self.key)})")
        order = ", ".join(f"{column} DESC" if self.descending else column for column in self.key)
        clause = f" WHERE {' AND '.join(f'({each})' for each in held)} ORDER BY {order} LIMIT {{}} "
        return self.select + clause.format(*(f"${number}" for number in range(1, clause.count("{}") + 1))) + self.then
