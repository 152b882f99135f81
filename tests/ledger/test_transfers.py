"""One request after the other: what a ledger accepts, what it refuses, and what it then says."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

import ledger
from ledger import Account, Posting, Side, State, Transfer
from servicekit.database import PLATFORM
from servicekit.errors import Conflict, Invalid, NotFound, ServiceError
from servicekit.identifiers import new_id
from tests.ledger.books import MORNING, Books

INT64_MAX = 2**63 - 1


async def refusal(books: Books, request: Transfer | ledger.Resolution) -> str:
    """The code of the error that a request is refused with."""
    (answer,) = await books.answers(request)
    assert isinstance(answer, ServiceError)
    return answer.code


async def test_a_transfer_moves_points_from_one_account_to_another(books: Books) -> None:
    giver, taker = await books.open(funds=10), await books.open()
    receipt = await books.apply(books.transfer(giver, taker, 7))
    assert (receipt.recorded_at, receipt.is_new) == (MORNING, True)
    assert (await books.balance(giver), await books.balance(taker)) == (ledger.Balance(3, 0, 2), ledger.Balance(7, 0, 1))
    assert (await books.balance(books.issuer)).balance == 10  # A debit account grows by what it gave.


async def test_a_floor_refuses_one_point_too_many_and_what_is_refused_is_not_remembered(books: Books) -> None:
    giver, taker = await books.open(funds=10), await books.open()
    too_much = books.transfer(giver, taker, 11)
    assert await refusal(books, too_much) == "ledger.insufficient"
    await books.apply(books.transfer(books.issuer, giver, 1))
    assert (await books.apply(too_much)).is_new


@pytest.mark.parametrize(
    ("postings", "code"),
    [
        (lambda a, b: (Posting(a, 5), Posting(b, -4)), "ledger.unbalanced"),
        (lambda a, _b: (Posting(a, 5),), "ledger.unbalanced"),
        (lambda _a, _b: (), "ledger.no_postings"),
        (lambda a, b: (Posting(a, 0), Posting(b, 0)), "ledger.zero_amount"),
        (lambda a, b: (Posting(a, 2**63), Posting(b, -(2**63))), "ledger.overflow"),
        (lambda a, b: (Posting(a, 10**30), Posting(b, -(10**30))), "ledger.overflow"),
        (lambda a, _b: (Posting(a, 5), Posting(a, -5)), "ledger.account_named_twice"),
        (lambda a, b: (Posting(a, 5), Posting(b, -3), Posting(a, -2)), "ledger.account_named_twice"),
        (lambda a, _b: (Posting(a, 5), Posting(new_id(), -5)), "ledger.account_not_found"),
        (lambda _a, _b: tuple(Posting(new_id(), 1) for _ in range(101)), "ledger.too_many_postings"),
    ],
)
async def test_a_transfer_that_cannot_be_is_refused(
    books: Books, postings: Callable[[object, object], tuple[Posting, ...]], code: str
) -> None:
    one, other = await books.open(None), await books.open(None)
    assert await refusal(books, books.transfer(one, other, 1, postings=postings(one, other))) == code


@pytest.mark.parametrize(
    "content",
    [
        {"kind": ""},
        {"kind": "x\0"},
        {"kind": "k" * 65},
        {"details": {"note": "a\0b"}},
        {"details": {"note": "\ud800"}},
        {"details": {"n": 2**63}},
        {"details": {"long": "x" * 1001}},
        {"details": {str(number): 1 for number in range(33)}},
    ],
)
async def test_what_cannot_be_stored_is_refused_by_name(books: Books, content: dict[str, object]) -> None:
    one, other = await books.open(None), await books.open(None)
    assert await refusal(books, books.transfer(one, other, 1, **content)) == "ledger.details"


async def test_a_balance_that_would_not_fit_64_bits_is_refused(books: Books) -> None:
    giver, taker = await books.open(None), await books.open(funds=1)
    assert await refusal(books, books.transfer(giver, taker, INT64_MAX)) == "ledger.overflow"
    await books.apply(books.transfer(giver, taker, INT64_MAX - 1))
    assert (await books.balance(taker)).balance == INT64_MAX


async def test_each_unit_balances_on_its_own(books: Books) -> None:
    points, coupons = await books.open(funds=5), await books.open(None, unit="coupon")
    coupon_issuer = await books.open(None, unit="coupon", side=Side.DEBIT)
    crossed = (Posting(points, 5), Posting(coupons, -5))
    assert await refusal(books, books.transfer(points, coupons, 5, postings=crossed)) == "ledger.unbalanced"
    exchange = (Posting(points, 5), Posting(books.issuer, -5), Posting(coupon_issuer, 1), Posting(coupons, -1))
    await books.apply(books.transfer(points, coupons, 5, postings=exchange))
    assert ((await books.balance(points)).balance, (await books.balance(coupons)).balance) == (0, 1)


@pytest.mark.parametrize("is_platform", [True, False])
async def test_accounts_and_transfers_of_another_community_are_not_found(books: Books, is_platform: bool) -> None:
    mine = await books.open(funds=5)
    pending = books.transfer(mine, books.issuer, 1, pending_until=MORNING + timedelta(days=1))
    gift = books.transfer(books.issuer, mine, 1)
    await books.answers(pending, gift)
    stranger = replace(books, community_id=new_id())
    own = await stranger.open(None)
    asked: list[Transfer | ledger.Resolution] = [
        stranger.transfer(own, mine, 1),
        stranger.resolution(replace(pending, community_id=stranger.community_id), is_posted=True),
        stranger.transfer(own, books.issuer, 1, reverses_id=gift.transfer_id, postings=(Posting(own, 1), Posting(mine, -1))),
    ]
    async with books.database.transaction(PLATFORM if is_platform else stranger.community_id) as tx:
        turn = await ledger.take_turn(tx, [stranger.community_id])
        answers = await turn.apply(asked)
        assert mine not in await turn.balances([mine, own]) or is_platform
    assert [getattr(answer, "code", None) for answer in answers] == [
        "ledger.account_not_found",
        "ledger.pending_not_found",
        "ledger.account_not_found",
    ]
    other = await stranger.open(None)
    assert await refusal(stranger, stranger.transfer(own, other, 1, reverses_id=gift.transfer_id)) == "ledger.transfer_not_found"


@pytest.mark.parametrize("is_platform", [True, False])
async def test_the_id_of_another_communitys_transfer_is_taken(books: Books, is_platform: bool) -> None:
    gift = books.transfer(books.issuer, await books.open(), 1)
    await books.apply(gift)
    stranger = replace(books, community_id=new_id())
    stolen = stranger.transfer(await stranger.open(None), await stranger.open(None), 1, transfer_id=gift.transfer_id)
    if is_platform:
        with pytest.raises(Conflict) as caught:
            await stranger.writer().submit(stranger.community_id, stolen)
    else:
        with pytest.raises(Conflict) as caught:
            await stranger.apply(stolen)
    assert caught.value.code == "ledger.transfer_differs"


async def test_the_same_transfer_again_changes_nothing_and_answers_the_same(books: Books) -> None:
    giver, taker = await books.open(funds=10), await books.open()
    gift = books.transfer(giver, taker, 4, details={"rule": "r1", "version": 3}, occurred_at=MORNING - timedelta(hours=1))
    first = await books.apply(gift)
    books.clock.advance(hours=1)
    in_other_order = replace(gift, transfer_id=gift.transfer_id, postings=gift.postings[::-1])
    again, and_again = await books.answers(gift, in_other_order)
    assert again == and_again == replace(first, is_new=False)
    assert (await books.balance(giver)).balance == 6


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "theft"},
        {"details": {"rule": "r2"}},
        {"occurred_at": MORNING},
        {"pending_until": MORNING + timedelta(days=1)},
        {"reverses_id": new_id()},
    ],
)
async def test_the_same_id_with_other_content_is_a_conflict(books: Books, change: dict[str, object]) -> None:
    giver, taker = await books.open(funds=10), await books.open()
    gift = books.transfer(giver, taker, 4, details={"rule": "r1"})
    other = replace(gift, **change)  # type: ignore[arg-type]
    _, in_the_same_turn = await books.answers(gift, other)
    assert getattr(in_the_same_turn, "code", None) == "ledger.transfer_differs"
    assert await refusal(books, other) == "ledger.transfer_differs"
    assert await refusal(books, replace(gift, postings=(Posting(giver, 5), Posting(taker, -5)))) == "ledger.transfer_differs"
    as_resolution = ledger.Resolution(gift.transfer_id, books.community_id, new_id(), is_posted=True)
    assert await refusal(books, as_resolution) == "ledger.transfer_differs"


async def test_a_pending_transfer_holds_what_it_would_take_until_it_is_posted(books: Books) -> None:
    resident, shop = await books.open(funds=10), await books.open()
    pending = books.transfer(resident, shop, 8, pending_until=MORNING + timedelta(days=1), details={"reward": "coffee"})
    await books.apply(pending)
    assert await books.balance(resident) == ledger.Balance(10, 8, 1)
    assert await books.balance(shop) == ledger.Balance(0, 0, 0)
    assert await refusal(books, books.transfer(resident, shop, 3)) == "ledger.insufficient"
    posting = replace(books.resolution(pending, is_posted=True), details={"clerk": 7})
    assert (await books.apply(posting)).is_new
    assert not (await books.apply(posting)).is_new
    assert await books.balance(resident) == ledger.Balance(2, 0, 2)
    assert await books.balance(shop) == ledger.Balance(8, 0, 1)
    assert await refusal(books, books.resolution(pending, is_posted=False)) == "ledger.pending_resolved"
    async with books.database.transaction(books.community_id) as tx:
        stored = await ledger.find_transfer(tx, pending.transfer_id)
        (entry,) = await ledger.entries(tx, shop, None, 10)
    assert stored is not None
    assert stored.state is State.POSTED
    assert (entry.kind, entry.details, entry.transfer_id) == ("gift", {"reward": "coffee", "clerk": 7}, posting.transfer_id)


async def test_a_voided_transfer_gives_back_what_it_held(books: Books) -> None:
    resident, shop = await books.open(funds=10), await books.open()
    pending = books.transfer(resident, shop, 8, pending_until=MORNING + timedelta(days=1))
    void = books.resolution(pending, is_posted=False)
    await books.answers(pending, void)  # In one turn, as if one came after the other.
    assert await books.balance(resident) == ledger.Balance(10, 0, 1)
    assert await refusal(books, books.resolution(pending, is_posted=True)) == "ledger.pending_resolved"
    assert await refusal(books, replace(void, is_posted=True)) == "ledger.transfer_differs"


async def test_a_pending_transfer_expires_by_itself(books: Books) -> None:
    resident, shop = await books.open(funds=10), await books.open()

    pending = books.transfer(resident, shop, 4, pending_until=MORNING + timedelta(hours=1))
    later = books.transfer(resident, shop, 5, pending_until=MORNING + timedelta(hours=2))
    await books.answers(pending, later)
    books.clock.advance(hours=1)
    assert await refusal(books, books.resolution(pending, is_posted=True)) == "ledger.pending_expired"  # The timer has not run.
    async with books.database.transaction(PLATFORM) as tx:
        assert await ledger.expired_holds(tx, books.clock.now, 10) == [pending.transfer_id]
        (expired,) = await ledger.expire_holds(tx)
    assert (expired.transfer_id, expired.state) == (pending.transfer_id, State.EXPIRED)
    async with books.database.transaction(PLATFORM) as tx:
        assert await ledger.expire_holds(tx) == []
    assert (await books.balance(resident)).available == 5
    for is_posted in (True, False):
        assert await refusal(books, books.resolution(pending, is_posted=is_posted)) == "ledger.pending_expired"
    assert await refusal(books, books.transfer(resident, shop, 1, pending_until=books.clock.now)) == "ledger.pending_expired"


async def test_a_transfer_is_reversed_once_by_another_one(books: Books) -> None:
    resident = await books.open()
    award = books.transfer(books.issuer, resident, 5)
    await books.apply(award)
    reversal = books.transfer(resident, books.issuer, 5, reverses_id=award.transfer_id)
    await books.apply(reversal)
    assert not (await books.apply(reversal)).is_new
    assert await refusal(books, books.transfer(resident, books.issuer, 5, reverses_id=award.transfer_id)) == "ledger.reversed_already"
    async with books.database.transaction(books.community_id) as tx:
        stored = await ledger.find_transfer(tx, award.transfer_id)
    assert stored is not None
    assert stored.reversed_by_id == reversal.transfer_id


async def test_only_what_has_moved_something_is_reversed(books: Books) -> None:
    resident = await books.open(funds=5)
    until = MORNING + timedelta(days=1)
    pending = books.transfer(resident, books.issuer, 5, pending_until=until)
    posting = books.resolution(pending, is_posted=True)
    await books.apply(pending)
    assert await refusal(books, books.transfer(books.issuer, resident, 5, reverses_id=pending.transfer_id)) == "ledger.transfer_not_posted"
    assert await refusal(books, books.transfer(books.issuer, resident, 5, reverses_id=new_id())) == "ledger.transfer_not_found"
    await books.apply(posting)
    await books.apply(books.transfer(books.issuer, resident, 5, reverses_id=posting.transfer_id))
    assert (await books.balance(resident)).balance == 5
    forever = books.transfer(books.issuer, resident, 5, reverses_id=posting.transfer_id, pending_until=until)
    assert await refusal(books, forever) == "ledger.reversal_pending"


async def test_only_an_empty_account_is_closed_and_then_for_good(books: Books) -> None:
    resident, shop = await books.open(funds=5), await books.open()
    pending = books.transfer(resident, shop, 5, pending_until=MORNING + timedelta(days=1))
    await books.apply(pending)
    for account_id in (resident, shop):  # Points are on their way to the shop.
        with pytest.raises(Conflict, match=r"ledger\.account_not_empty"):
            await books.close(account_id)
    await books.apply(books.resolution(pending, is_posted=True))
    await books.close(resident)
    await books.close(resident)
    assert await refusal(books, books.transfer(books.issuer, resident, 1)) == "ledger.account_closed"
    with pytest.raises(NotFound, match=r"ledger\.account_not_found"):
        await books.close(new_id())


async def test_opening_an_account_again_changes_nothing_unless_it_differs(books: Books) -> None:
    account = Account(new_id(), books.community_id, "points", Side.CREDIT, 0)
    async with books.database.transaction(books.community_id) as tx:
        turn = await ledger.take_turn(tx, [books.community_id])
        await turn.open_accounts([account, account])
        await turn.open_accounts([account])
        for other in (replace(account, unit="fen"), replace(account, side=Side.DEBIT), replace(account, floor=None)):
            with pytest.raises(Conflict, match=r"ledger\.account_differs"):
                await turn.open_accounts([other])
        for wrong in (replace(account, unit=""), replace(account, floor=1), replace(account, floor=-(2**63))):
            with pytest.raises(Invalid, match=r"ledger\.account_invalid"):
                await turn.open_accounts([wrong])
    with pytest.raises(Conflict, match=r"ledger\.account_differs"):
        async with books.database.transaction(foreign := new_id()) as tx:
            await (await ledger.take_turn(tx, [foreign])).open_accounts([replace(account, community_id=foreign)])


async def test_balances_as_of_a_time_and_statements_agree_with_the_entries(books: Books) -> None:
    resident = await books.open()
    for number in range(1, 11):
        books.clock.advance(minutes=1)
        await books.apply(books.transfer(books.issuer, resident, number))
    async with books.database.transaction(books.community_id) as tx:
        minute = timedelta(minutes=1)
        assert [await ledger.balance_at(tx, resident, MORNING + number * minute) for number in range(12)] == [
            *(number * (number + 1) // 2 for number in range(11)),
            55,
        ]
        assert await ledger.balance_at(tx, new_id(), MORNING) == 0
        period = await ledger.statement(tx, resident, MORNING + 3 * minute, MORNING + 6 * minute)
        assert (period.opening, period.closing, [entry.change for entry in period.entries]) == (3, 15, [3, 4, 5])
        quiet = await ledger.statement(tx, resident, MORNING + 30 * minute, MORNING + 60 * minute)
        assert (quiet.opening, quiet.closing, quiet.entries) == (55, 55, ())
        page = await ledger.entries(tx, resident, None, 3)
        following = await ledger.entries(tx, resident, page[-1].version, 3)
    assert [entry.version for entry in (*page, *following)] == [10, 9, 8, 7, 6, 5]
    assert [(entry.previous_balance, entry.balance) for entry in page] == [(45, 55), (36, 45), (28, 36)]


async def test_what_is_recorded_never_goes_back_in_time_when_a_clock_does(books: Books) -> None:
    resident = await books.open(funds=5)
    books.clock.advance(hours=-1)
    assert (await books.apply(books.transfer(books.issuer, resident, 5))).recorded_at == MORNING


async def test_two_turns_at_once_wait_for_each_other(books: Books) -> None:
    resident = await books.open(funds=1)
    answers = await asyncio.gather(*(books.answers(books.transfer(resident, books.issuer, 1)) for _ in range(8)))
    assert sum(isinstance(answer, ledger.Receipt) for (answer,) in answers) == 1
