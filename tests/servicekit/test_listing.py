"""Lists with optional filters: what is asked for is answered, page by page, by a statement that holds nothing else."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import pytest
import pytest_asyncio

from servicekit.clock import system_clock
from servicekit.database import Database, Transaction, open_database
from servicekit.identifiers import new_id
from servicekit.listing import Listing, one_of
from servicekit.paging import page
from tests.servicekit.toy import INSERT, QUIET
from tests.support import Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")
HEARD = Listing(
    select="SELECT heard_id, text FROM heard",
    where="community_id = {}",
    filters={
        "text": "text = {}",
        "between": "text >= {} AND text <= {}",
        "capitals": "text = upper(text)",
        "animal": one_of("text", ["ant", "bee"]),
    },
    key=("heard_id",),
    descending=True,
)
BY_TEXT = Listing(select="SELECT heard_id, text FROM heard", key=("text", "heard_id"))
# The page first, then what belongs to it.
NEIGHBOURS = Listing(
    select="SELECT heard_id, text FROM heard WHERE heard_id IN (SELECT heard_id FROM heard",
    where="community_id = {}",
    filters={"text": "text = {}"},
    key=("heard_id",),
    then=") ORDER BY heard_id",
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a list."""

    page_size: int = 0
    page_token: str = ""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(servers: Servers) -> AsyncIterator[Database]:
    async with servers.database(QUIET) as url:
        database = await open_database("toy", url, pool_size=2, clock=system_clock)
        yield database
        await database.close()


async def said(database: Database, words: str) -> UUID:
    """A community that has heard these words."""
    community = new_id()
    async with database.transaction(community) as tx:
        for word in words.split():
            await tx.execute(INSERT, community, word)
    return community


async def words(tx: Transaction, listing: Listing, *arguments: object, **asked: object) -> str:
    """What a list holds."""
    return " ".join([row["text"] for row in await listing.fetch(tx, arguments, None, 100, **asked)])


async def test_a_list_holds_what_every_filter_that_is_asked_for_lets_through(database: Database) -> None:
    community = await said(database, "ant bee CAT bee DOG")
    async with database.transaction(community) as tx:
        assert await words(tx, HEARD, community) == "DOG bee CAT bee ant"
        assert await words(tx, HEARD, community, text=None, between=None, capitals=False) == "DOG bee CAT bee ant"
        assert await words(tx, HEARD, community, text="bee") == "bee bee"
        assert await words(tx, HEARD, community, capitals=True) == "DOG CAT"
        assert await words(tx, HEARD, community, animal="bee") == "bee bee"
        assert await words(tx, HEARD, community, between=("CAT", "DOG"), text="DOG", capitals=True) == "DOG"
        assert await words(tx, HEARD, community, text="") == ""
        assert await words(tx, HEARD, new_id()) == ""
        assert await words(tx, NEIGHBOURS, community, text="bee") == "bee bee"
        with pytest.raises(KeyError):
            await words(tx, HEARD, community, texts="bee")
        with pytest.raises(KeyError):
            await words(tx, HEARD, community, animal="cat")


@pytest.mark.parametrize("listing", [HEARD, BY_TEXT], ids=["one column, downwards", "two columns, upwards"])
async def test_pages_neither_repeat_nor_skip_while_rows_come(database: Database, listing: Listing) -> None:
    community = await said(database, "one two three two one two three")
    arguments = [community] if listing is HEARD else []
    seen: list[int] = []
    token = ""
    for _ in range(10):
        async with database.transaction(community) as tx:

            async def fetch(after: object, limit: int, tx: Transaction = tx) -> list[tuple[str, int]]:
                return [(row["text"], row["heard_id"]) for row in await listing.fetch(tx, arguments, after, limit)]

            if listing is HEARD:
                rows, token = await page(Request(2, token), int, fetch, lambda row: row[1])
            else:
                rows, token = await page(Request(2, token), tuple[str, int], fetch, lambda row: row)
            seen += [heard_id for _, heard_id in rows]
            # Before the place where this page ends, in the order of either list.
            await tx.execute(INSERT, community, "a")
        if not token:
            break
    assert len(seen) == len(set(seen)) == 7


async def test_a_statement_holds_only_what_is_asked_for(database: Database) -> None:
    first, further, *_ = HEARD.statements()
    assert "text =" not in first
    assert first.count("$") == 2
    assert "(heard_id) < ($2)" in further
    # None, each of three, each animal, all: each for the first page and for others.
    assert len(set(HEARD.statements())) == 14
