"""A day whose news comes late, out of order and twice ends like the same day in time: through NATS and PostgreSQL."""

import asyncio
import heapq
import random
from datetime import timedelta
from uuid import uuid5

import pytest

from linli.billing.v1.events_pb2 import PaymentSucceeded
from servicekit.errors import NotFound
from servicekit.identifiers import new_id
from tests.community import Town
from tests.parking.arrange import MONDAY_9, CarPark, Community
from tests.parking.days import LATE_S_MAX, Asked, Day, News, Seen, a_day
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def after(parking: Town, day: Day, news: list[News], chance: random.Random | None = None) -> list[tuple[object, ...]]:
    """A fresh car park's sessions once all the news has come."""
    parking.clock.now = MONDAY_9
    park = await Community(parking).lot(capacity=10_000)
    for plates in day.permits:
        await park.permit(*plates)
    records = new_id()
    # In the order in which it comes; a payment is news that a driver's question makes.
    waiting: list[tuple[int, int, News | PaymentSucceeded]] = [(one.second, number, one) for number, one in enumerate(news)]
    heapq.heapify(waiting)
    while waiting:
        second, _, one = heapq.heappop(waiting)
        parking.clock.now = MONDAY_9 + timedelta(seconds=second)
        if isinstance(one, PaymentSucceeded):
            await credit(park, one)
        elif isinstance(one.happening, Seen):
            occurred_at = MONDAY_9 + timedelta(seconds=one.happening.second)
            record_id = str(uuid5(records, str(one.happening.number)))
            lane, plate = one.happening.lane, one.happening.plate
            await park.deliver(park.read(lane, plate, occurred_at=occurred_at, received_at=occurred_at, record_id=record_id))
        elif (payment := await asked(park, one.happening)) is not None:
            paid = second + one.happening.pays_after_s
            payment.paid_at.FromDatetime(MONDAY_9 + timedelta(seconds=paid))
            delay_s = 0 if chance is None else chance.randint(0, LATE_S_MAX)
            heapq.heappush(waiting, (paid + delay_s, len(news) + second, payment))
    async with park.running.transaction("parking", park.community.community_id) as tx:
        rows = await tx.fetch("SELECT plate, entered_at, state, out_at, admission, amount_fen, paid_fen FROM sessions ORDER BY 1, 2")
        inside = await tx.fetchval("SELECT inside = (SELECT count(*) FROM sessions WHERE state = 'open') FROM lots")
    assert inside
    return [tuple(row) for row in rows]


async def asked(park: CarPark, question: Asked) -> PaymentSucceeded | None:
    """What the driver will pay who asks now."""
    try:
        quote = await park.quote(question.plate)
    except NotFound:
        return None
    return park.payment(quote.session_id, quote.charge_id, quote.amount_fen) if quote.amount_fen else None


async def credit(park: CarPark, payment: PaymentSucceeded) -> None:
    """A payment is reported twice; returns when it is in the books."""
    event_ids = [await park.community.publish(payment) for _ in range(2)]

    async def handled() -> bool:
        async with park.running.transaction("parking", park.community.community_id) as tx:
            return bool(await tx.fetchval("SELECT count(*) = $2 FROM inbox WHERE event_id = ANY($1)", event_ids, len(event_ids)))

    await eventually(handled)


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_day_whose_news_comes_late_and_twice_ends_like_the_same_day_in_time(parking: Town, seed: int) -> None:
    chance = random.Random(seed)
    day = a_day(chance, vehicles=7)
    in_time = await after(parking, day, day.in_time())
    late = await after(parking, day, day.late_and_twice(chance), chance)
    assert late == in_time
    assert {row[2] for row in in_time} == {"open", "left", "exit_missed"}
    assert any(row[6] for row in in_time)


async def test_records_that_come_all_at_once_end_in_the_same_books(parking: Town) -> None:
    """What a camera sends after an outage: everything at once, handled at the same time by as many as there are lanes."""
    chance = random.Random(3)
    day = a_day(chance, vehicles=10, hours=4)
    seen = [happening for happening in day.happenings if isinstance(happening, Seen)]
    in_time = await after(parking, Day(seen, []), [News(one.second, one) for one in seen])
    parking.clock.now = MONDAY_9
    park = await Community(parking).lot(capacity=10_000)
    parking.clock.advance(days=1)
    reads = [park.read(one.lane, one.plate, occurred_at=MONDAY_9 + timedelta(seconds=one.second)) for one in chance.sample(seen, len(seen))]
    await asyncio.gather(*(park.deliver(read) for read in reads))
    async with park.running.transaction("parking", park.community.community_id) as tx:
        rows = await tx.fetch("SELECT plate, entered_at, state, out_at FROM sessions ORDER BY 1, 2")
    assert [tuple(row) for row in rows] == [row[:4] for row in in_time]
