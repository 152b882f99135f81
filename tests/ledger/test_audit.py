"""The audit: silent on a sound ledger, and telling for every kind of damage which rows are broken."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from console import catalog
from console.main import main
from ledger.audit import INVARIANTS
from tests.ledger.books import LEDGER, MORNING, Books, books_on
from tests.support import Servers

# What somebody with the owner's rights could do by hand, and the invariants that it breaks. {one} and {other} are accounts, {gift} a
# transfer from the first to the second, {pending} an open pending transfer, {posting} what posted another.
DAMAGE = {
    "a posting raised": (
        "UPDATE ledger_transfers SET amounts[1] = amounts[1] + 1 WHERE transfer_id = '{gift}'",
        {"postings of every transfer sum to zero in each unit": "{gift}", "entries are what transfers posted": "{gift} {one}"},
    ),
    "a balance raised": (
        "UPDATE ledger_accounts SET balance = balance + 1 WHERE account_id = '{one}'",
        {"a balance is the sum of its entries": "{one}"},
    ),
    "a balance raised with its entry": (
        "UPDATE ledger_accounts SET balance = balance + 1 WHERE account_id = '{other}';"
        " UPDATE ledger_entries SET balance = balance + 1 WHERE account_id = '{other}' AND version = 2",
        {"entries are what transfers posted": "{posting} {other}"},
    ),
    "an entry deleted": (
        "DELETE FROM ledger_entries WHERE account_id = '{other}' AND version = 1",
        {
            "a balance is the sum of its entries": "{other}",
            "versions have no gap": "{other}",
            "balances chain": "{other} 2",
            "entries are what transfers posted": "{gift} {other}",
        },
    ),
    "a version skipped": (
        "UPDATE ledger_entries SET version = 9 WHERE account_id = '{other}' AND version = 2",
        {"versions have no gap": "{other}"},
    ),
    "a floor raised": (
        "UPDATE ledger_accounts SET floor = balance - held + 1 WHERE account_id = '{other}'",
        {"floors hold": "{other}"},
    ),
    "an entry shifted": (
        "UPDATE ledger_entries SET (previous_balance, balance) = (previous_balance + 1, balance + 1)"
        " WHERE account_id = '{other}' AND version = 1",
        {"balances chain": "{other} 1"},
    ),
    "an entry dated back": (
        "UPDATE ledger_entries SET recorded_at = recorded_at - interval '1 day' WHERE account_id = '{other}' AND version = 2",
        {"instants never go back": "{other} 2"},
    ),
    "a transfer copied": (
        "ALTER TABLE ledger_transfers DROP CONSTRAINT ledger_transfers_pkey;"
        " INSERT INTO ledger_transfers SELECT * FROM ledger_transfers WHERE transfer_id = '{gift}'",
        {"a transfer exists, is reversed and is resolved once": "{gift}", "entries are what transfers posted": "{gift} {one}"},
    ),
    "more held": (
        "UPDATE ledger_accounts SET held = held + 1 WHERE account_id = '{one}'",
        {"what is held is what open holds take": "{one}"},
    ),
    "a hold forgotten": (
        "DELETE FROM ledger_holds WHERE pending_id = '{pending}'",
        {"open holds are the unresolved pending transfers": "{pending}", "what is held is what open holds take": "{one}"},
    ),
    "a resolution of nothing": (
        "UPDATE ledger_transfers SET resolves_id = '{gift}' WHERE transfer_id = '{posting}'",
        {"reversals and resolutions name a transfer": "{posting}"},
    ),
    "a full account closed": (
        "UPDATE ledger_accounts SET closed_at = now() WHERE account_id = '{one}'",
        {"closed accounts are empty": "{one}"},
    ),
}


async def make_history(books: Books) -> dict[str, object]:
    """A little of everything."""
    one, other = await books.open(funds=100), await books.open()
    later = MORNING + timedelta(days=1)
    gift, posted = books.transfer(one, other, 5), books.transfer(one, other, 7, pending_until=later)
    pending, voided = books.transfer(one, other, 11, pending_until=later), books.transfer(one, other, 13, pending_until=later)
    posting, void = books.resolution(posted, is_posted=True), books.resolution(voided, is_posted=False)
    for request in (gift, posted, pending, voided, posting, void):
        await books.apply(request)
    await books.apply(books.transfer(other, one, 5, reverses_id=gift.transfer_id))
    return {"one": one, "other": other, "gift": gift.transfer_id, "pending": pending.transfer_id, "posting": posting.transfer_id}


async def damage_ledger(servers: Servers, books: Books, sql: str) -> None:
    """Does by hand what no code of ours would."""
    owner = await asyncpg.connect(servers.postgres.url(books.url.rpartition("/")[2]))
    try:
        await owner.execute(sql)
    finally:
        await owner.close()


@pytest.mark.parametrize("damage", DAMAGE)
async def test_the_audit_finds_the_damage_and_where_it_is(servers: Servers, damage: str) -> None:
    sql, broken = DAMAGE[damage]
    async with books_on(servers) as books:
        history = await make_history(books)
        assert await books.broken() == {}
        await damage_ledger(servers, books, sql.format(**history))
        found = await books.broken()
        for invariant, where in broken.items():
            assert where.format(**history) in found[invariant]


def test_every_invariant_is_broken_by_some_damage() -> None:
    assert {invariant for _, broken in DAMAGE.values() for invariant in broken} == set(INVARIANTS)


def test_the_command_names_what_is_broken_and_fails(servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(catalog, "find", lambda _names: [LEDGER])

    def audit() -> Result:
        return CliRunner().invoke(main, ["ledger", "audit", "ledger", "--data", str(tmp_path)])

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        books = runner.run(stack.enter_async_context(books_on(servers)))
        monkeypatch.setenv("LINLI_LEDGER_DATABASE_URL", books.url)
        history = runner.run(make_history(books))
        sound = audit()
        runner.run(damage_ledger(servers, books, DAMAGE["a balance raised"][0].format(**history)))
        broken = audit()
        runner.run(stack.aclose())
    assert (sound.exit_code, sound.output.count("ok "), sound.output.count("BROKEN")) == (0, len(INVARIANTS), 0)
    assert (broken.exit_code, broken.output.count("BROKEN")) == (1, 1)
    assert str(history["one"]) in broken.output
