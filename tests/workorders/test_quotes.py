"""What work costs: the price list, quotes, the resident's answer, and the charge."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from linli.billing.v1.events_pb2 import ChargeRaised, ChargeWithdrawn, PaymentSucceeded
from linli.workorders.v1 import workorders_pb2 as pb
from linli.workorders.v1.events_pb2 import WorkOrderChanged
from servicekit.errors import Conflict, Denied, Invalid, NotFound
from servicekit.identifiers import new_id
from servicekit.times import to_datetime
from tests.support import eventually
from tests.workorders.arrange import Community, Person, WorkTown

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The price list.


async def price(community: Community, code: str, price_fen: int, **fields: Any) -> pb.PriceItem:
    values: dict[str, Any] = {"name_zh": "水管", "name_en": "Pipe", "unit": pb.PRICE_UNIT_METRE, "in_use": True} | fields
    made: pb.PriceItem = await community.call("SetPrice", pb.SetPriceRequest(code=code, price_fen=price_fen, **values))
    return made


async def test_a_price_has_versions_of_which_the_newest_is_in_force(community: Community) -> None:
    assert (await price(community, "pipe", 1250)).version == 1
    assert (await price(community, "pipe", 1250)).version == 1
    assert (await price(community, "pipe", 1300)).version == 2
    await price(community, "labour", 8000, unit=pb.PRICE_UNIT_HOUR, labour=True)
    reader = Person(community)
    first = await reader.call("ListPrices", pb.ListPricesRequest(page_size=1))
    rest = await reader.call("ListPrices", pb.ListPricesRequest(page_token=first.next_page_token))
    assert [(each.code, each.version, each.price_fen) for each in [*first.prices, *rest.prices]] == [("labour", 1, 8000), ("pipe", 2, 1300)]
    with pytest.raises(Denied):
        await reader.call("SetPrice", pb.SetPriceRequest(code="pipe", name_zh="x", name_en="x", unit=pb.PRICE_UNIT_PIECE))


# Quotes.


@dataclass(slots=True)
class Job:
    """An order that a technician has accepted."""

    community: Community
    reporter: Person
    technician: Person
    order: pb.Order

    async def quote(self, *items: tuple[str, int], prepaid: bool = False) -> pb.Quote:
        lines = [pb.QuoteItem(code=code, quantity_hundredths=hundredths) for code, hundredths in items or [("pipe", 250)]]
        request = pb.QuoteOrderRequest(order_id=self.order.order_id, items=lines, prepaid=prepaid)
        made: pb.Quote = await self.technician.call("QuoteOrder", request)
        return made

    async def agree(self, quote: pb.Quote, who: Person | None = None) -> pb.Quote:
        request = pb.AgreeToQuoteRequest(order_id=self.order.order_id, quote_id=quote.quote_id)
        agreed: pb.Quote = await (who or self.reporter).call("AgreeToQuote", request)
        return agreed

    async def refuse(self, quote: pb.Quote) -> pb.Quote:
        request = pb.RefuseQuoteRequest(order_id=self.order.order_id, quote_id=quote.quote_id, reason="太贵")
        refused: pb.Quote = await self.reporter.call("RefuseQuote", request)
        return refused

    async def quotes(self, who: Person | None = None) -> list[tuple[str, int]]:
        """Who asks, and sees each quote's state and total, newest first."""
        listed = await (who or self.reporter).call("ListQuotes", pb.ListQuotesRequest(order_id=self.order.order_id))
        return [(pb.QuoteState.Name(each.state).removeprefix("QUOTE_STATE_").lower(), each.total_fen) for each in listed.quotes]

    async def look(self) -> pb.Order:
        return await self.technician.see(self.order)

    async def charge(self, number: int = 1) -> ChargeRaised:
        """The charge that was raised for the order, or a later one; waits for it."""

        def raised() -> list[ChargeRaised]:
            told = self.community.town.running.events(ChargeRaised)
            return [event.message for event in told if event.message.origin_id == self.order.order_id]

        async def is_raised() -> bool:
            return len(raised()) >= number

        await eventually(is_raised, "the charge")
        assert len(raised()) == number
        return raised()[-1]

    async def pay(self, charge: ChargeRaised) -> None:
        paid = PaymentSucceeded(
            charge_id=charge.charge_id,
            payment_id=str(new_id()),
            origin="workorders",
            origin_id=self.order.order_id,
            amount_fen=charge.amount_fen,
        )
        await self.community.publish(paid)

        async def is_paid() -> bool:
            return (await self.look()).paid

        await eventually(is_paid, "the order is paid")


@pytest_asyncio.fixture(loop_scope="module")
async def job(community: Community) -> Job:
    """A leak in a home, accepted by a plumber; pipe is 12.50 yuan a metre."""
    await price(community, "pipe", 1250)
    reporter, plumber = await community.resident(), await community.technician()
    order = await plumber.accept(await reporter.report(await community.category(skill="plumbing")))
    return Job(community, reporter, plumber, order)


async def test_what_was_agreed_is_charged_once_when_the_work_is_done(job: Job) -> None:
    quote = await job.quote(("pipe", 250), ("pipe", 1))
    assert [(line.amount_fen, line.price_fen) for line in quote.lines] == [(3125, 1250), (13, 1250)]
    assert (quote.total_fen, quote.state) == (3138, pb.QUOTE_STATE_OPEN)
    await job.reporter.is_told("quoted")
    # What was quoted stays, whatever the list says later.
    await price(job.community, "pipe", 9900)
    agreed = await job.agree(quote)
    assert (agreed.state, agreed.total_fen, agreed.HasField("answered_at")) == (pb.QUOTE_STATE_AGREED, 3138, True)
    await job.technician.is_told("agreed")
    order = await job.look()
    assert (order.state, order.amount_fen, order.charge_id) == (pb.ORDER_STATE_ACCEPTED, 3138, "")
    done = await job.technician.finish(order)
    charge = await job.charge()
    assert (charge.charge_id, charge.amount_fen, charge.origin) == (done.charge_id, 3138, "workorders")
    assert to_datetime(charge.payable_until, "") == job.community.clock.now + timedelta(days=30)
    await job.reporter.call("ReopenOrder", pb.ReopenOrderRequest(order_id=order.order_id, reason="还在漏"))
    await job.technician.finish(await job.look())
    await job.charge()
    await job.pay(charge)
    actions = await job.community.actions(order)
    assert actions[-6:] == ["reopened", "offered", "accepted", "arrived", "done", "paid"]


async def test_what_is_to_be_paid_first_holds_the_work_until_it_is(job: Job) -> None:
    await job.agree(await job.quote(prepaid=True))
    order = await job.look()
    assert (order.state, order.waits_for) == (pb.ORDER_STATE_WAITING, pb.WAITS_FOR_PAYMENT)
    with pytest.raises(Conflict, match=r"workorders.unpaid"):
        await job.technician.call("ResumeOrder", pb.ResumeOrderRequest(order_id=order.order_id))
    charge = await job.charge()
    await job.pay(charge)
    order = await job.look()
    assert (order.state, order.paid, order.charge_id) == (pb.ORDER_STATE_ACCEPTED, True, charge.charge_id)
    with pytest.raises(Conflict, match=r"workorders.already_paid"):
        await job.quote()
    await job.technician.finish(order)
    await job.charge()


async def test_work_that_waits_for_a_part_waits_for_the_payment_instead(job: Job) -> None:
    request = pb.PauseOrderRequest(order_id=job.order.order_id, waits_for=pb.WAITS_FOR_PART, reason="等配件")
    await job.technician.call("PauseOrder", request)
    await job.agree(await job.quote(prepaid=True))
    assert (await job.look()).waits_for == pb.WAITS_FOR_PAYMENT
    await job.pay(await job.charge())
    assert (await job.look()).state == pb.ORDER_STATE_ACCEPTED


async def test_a_newer_quote_takes_the_place_of_the_open_and_of_the_agreed_one(job: Job) -> None:
    first, second = await job.quote(prepaid=True), await job.quote(("pipe", 300), prepaid=True)
    assert await job.quotes() == [("open", 3750), ("replaced", 3125)]
    with pytest.raises(Conflict, match=r"workorders.quote_not_open"):
        await job.agree(first)
    await job.agree(second)
    former = await job.charge()
    assert (await job.agree(await job.quote(("pipe", 400)))).total_fen == 5000
    assert await job.quotes() == [("agreed", 5000), ("replaced", 3750), ("replaced", 3125)]
    charge = await job.charge(2)
    assert (charge.amount_fen, charge.replaces_charge_id) == (5000, former.charge_id)


async def test_who_has_paid_while_they_agreed_to_a_newer_quote_has_paid_the_order(job: Job) -> None:
    await job.agree(await job.quote(prepaid=True))
    former = await job.charge()
    await job.agree(await job.quote(("pipe", 400), prepaid=True))
    assert (await job.charge(2)).replaces_charge_id == former.charge_id
    # Billing has cancelled the newer charge when it heard of it, because the former was paid.
    await job.pay(former)
    order = await job.look()
    assert (order.state, order.charge_id, order.amount_fen) == (pb.ORDER_STATE_ACCEPTED, former.charge_id, former.amount_fen)


async def test_work_does_not_end_over_a_quote_that_waits_for_its_answer(job: Job) -> None:
    quote = await job.quote()
    with pytest.raises(Conflict, match=r"workorders.quote_open"):
        await job.technician.finish(job.order)
    assert (await job.refuse(quote)).state == pb.QUOTE_STATE_REFUSED
    await job.technician.is_told("refused")
    with pytest.raises(Conflict, match=r"workorders.quote_not_open"):
        await job.agree(quote)
    done = await job.technician.finish(await job.look())
    assert (done.charge_id, done.amount_fen) == ("", 0)
    assert not [each for each in job.community.town.running.events(ChargeRaised) if each.message.origin_id == done.order_id]


async def test_what_costs_nothing_is_agreed_to_and_not_charged(job: Job) -> None:
    await price(job.community, "warranty", 0)
    await job.agree(await job.quote(("warranty", 100), prepaid=True))
    done = await job.technician.finish(await job.look())
    assert (done.state, done.charge_id) == (pb.ORDER_STATE_DONE, "")


async def test_only_the_reporters_household_answers_a_quote_and_neighbours_do_not_see_it(job: Job, workorders: WorkTown) -> None:
    family = await job.community.resident(others=[job.reporter])
    neighbour = await job.community.resident(building_id=job.reporter.building_id)
    quote = await job.quote()
    for stranger in (neighbour, job.technician, job.community.manager, Community(workorders).manager):
        with pytest.raises(NotFound, match=r"workorders.order_unknown"):
            await job.agree(quote, stranger)
    with pytest.raises(NotFound, match=r"workorders.order_unknown"):
        await job.quotes(neighbour)
    assert await job.quotes(job.technician) == await job.quotes(job.community.manager) == [("open", 3125)]
    assert (await job.agree(quote, family)).state == pb.QUOTE_STATE_AGREED
    # Another order's quote is none of this one.
    other = await job.reporter.report()
    with pytest.raises(NotFound, match=r"workorders.quote_unknown"):
        await job.reporter.call("AgreeToQuote", pb.AgreeToQuoteRequest(order_id=other.order_id, quote_id=quote.quote_id))


async def test_a_quote_that_cannot_be_is_refused(job: Job) -> None:
    await price(job.community, "old", 100, in_use=False)
    await price(job.community, "dear", 100_000_000)
    for code in ("gold", "old"):
        with pytest.raises(NotFound, match=r"workorders.price_unknown"):
            await job.quote((code, 100))
    with pytest.raises(Invalid, match=r"workorders.quote_too_large"):
        await job.quote(("dear", 101))
    other = await job.community.technician()
    with pytest.raises(NotFound, match=r"workorders.order_unknown"):
        await Job(job.community, job.reporter, other, job.order).quote()
    await job.technician.finish(job.order)
    with pytest.raises(Conflict, match=r"workorders.not_worked_on"):
        await job.quote()


async def test_an_order_that_is_cancelled_before_it_is_paid_costs_nothing(job: Job) -> None:
    await job.agree(await job.quote(prepaid=True))
    charge = await job.charge()
    await job.reporter.call("CancelOrder", pb.CancelOrderRequest(order_id=job.order.order_id, reason="自己修好了"))
    await job.community.event(ChargeWithdrawn, charge_id=charge.charge_id)


async def test_an_order_that_is_cancelled_after_it_was_paid_stays_charged_until_staff_pay_back(job: Job) -> None:
    await job.agree(await job.quote(prepaid=True))
    charge = await job.charge()
    await job.pay(charge)
    await job.reporter.call("CancelOrder", pb.CancelOrderRequest(order_id=job.order.order_id, reason="自己修好了"))
    await job.community.event(WorkOrderChanged, order_id=job.order.order_id, state="cancelled")
    withdrawn = [event.message.charge_id for event in job.community.town.running.events(ChargeWithdrawn)]
    assert charge.charge_id not in withdrawn
