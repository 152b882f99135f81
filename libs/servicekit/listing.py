"""Lists with optional filters: the statement holds only what is asked for, so that the planner sees it and takes the index for it.

`WHERE ($2::text IS NULL OR state = $2)` is one statement for every question, and its generic plan has an index for none. A `Listing` is a
constant of a store, beside the function that asks it, and fits `paging.page`, whose cursor is its key:

    _SESSIONS = Listing(
        "SELECT session_id, plate, state FROM sessions",
        where="community_id = {}",
        filters={"plate": "plate = {}", "only_open": "state = 'open'"},
        key=("session_id",),
        descending=True,
    )

    async def list_sessions(tx: Transaction, plate: str | None, only_open: bool, after: UUID | None, limit: int) -> list[Session]:
        rows = await _SESSIONS.fetch(tx, [tx.community_id], after, limit, plate=plate, only_open=only_open)

The variants of a statement are few, and asyncpg keeps each of them prepared.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from servicekit.database import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A list in the order of its key, whose columns are never NULL and together unique in it.

    `select` ends with its FROM and its joins. `where` always holds, a filter when it is asked for; `{}` in them stands for an argument.
    `then` closes what `select` has opened, when the rows of a page are chosen in a subquery: the page first, then what belongs to it.
    """

    select: str
    key: tuple[str, ...]
    descending: bool = False
    where: str = "true"
    filters: Mapping[str, str] = field(default_factory=dict)
    then: str = ""

    async def fetch(
        self, tx: Transaction, arguments: Sequence[object], after: object | None, limit: int, /, **asked: object
    ) -> list[asyncpg.Record]:
        """Up to `limit` rows whose key follows `after`: a value, or a tuple for a key of several columns; None for the first page.

        `arguments` belong to `where`. Of the filters those hold whose value is neither None nor False: True is for a filter without an
        argument, a tuple for one with several. Raises KeyError for a filter that is not declared.
        """
        given = {name: value for name, value in asked.items() if value is not None and value is not False}
        values = list(arguments)
        for value in [*given.values(), after]:
            if isinstance(value, tuple):
                values += value
            elif value is not None and value is not True:
                values.append(value)
        return await tx.fetch(self._statement(given, is_first=after is None), *values, limit)

    def statements(self) -> Iterator[str]:
        """The statement without filters, with each alone, and with all of them, for the first page and for others: so that a test can
        prepare them."""
        for names in [(), *((name,) for name in self.filters), tuple(self.filters)]:
            yield self._statement(names, is_first=True)
            yield self._statement(names, is_first=False)

    def _statement(self, names: Collection[str], *, is_first: bool) -> str:
        conditions = [self.where, *(self.filters[name] for name in names)]
        if not is_first:
            conditions.append(f"({', '.join(self.key)}) {'<' if self.descending else '>'} ({', '.join('{}' for _ in self.key)})")
        order = ", ".join(f"{column} DESC" if self.descending else column for column in self.key)
        clause = f" WHERE {' AND '.join(conditions)} ORDER BY {order} LIMIT {{}} "
        return self.select + clause.format(*(f"${number}" for number in range(1, clause.count("{}") + 1))) + self.then
