"""The same day, delivered twice and out of order, ends in the same state."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from console.seed import TARIFF
from console.seed.lots import open_lot
from console.simulator.cameras import PushCamera
from tests.journeys.people import Phone, Town
from tests.support import eventually

CARS = 40
LATE_AT_MOST_S = 120


async def make_lot(town: Town, manager: Phone, name: str) -> tuple[str, dict[bool, PushCamera]]:
    """A lot with one entrance and one exit, whose barriers are wired to their cameras."""
    # Some stays are free and end at the exit; the others owe, and nobody pays for what is over.
    rules = {**TARIFF, "free": {"minutes": 180, "kind": "all_or_nothing"}}
    lot = await open_lot(manager, name, capacity=1000, rules=rules)
    cameras = {entry: await town.new_lane(manager, lot, f"{name}-{'in' if entry else 'out'}", entry=entry) for entry in (True, False)}
    return lot, cameras


def a_day(seed: int) -> list[tuple[datetime, bool, str]]:
    """Yesterday's reads: when, whether at the entrance, and which plate. Some cars are missed at the exit and come again."""
    chance = random.Random(seed)
    yesterday = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    reads = []
    for number in range(CARS):
        plate = f"京M{seed % 10}{number:04}"
        entered = yesterday + timedelta(seconds=chance.randrange(12 * 3600))
        stays = timedelta(seconds=chance.randrange(600, 6 * 3600))
        reads.append((entered, True, plate))
        if chance.random() < 0.15:
            reads.append((entered + stays, True, plate))
            reads.append((entered + stays + timedelta(minutes=10), False, plate))
        elif chance.random() < 0.9:
            reads.append((entered + stays, False, plate))
    return sorted(reads)


async def stays(manager: Phone, lot: str) -> list[tuple[Any, ...]]:
    """What the books say of a lot."""
    found = await manager.rows(f"/v1/parking/sessions?lot_id={lot}", "sessions")
    columns = ("plate", "entered_at", "left_at", "state", "amount_fen", "paid_fen")
    return sorted(tuple(str(stay.get(column)) for column in columns) for stay in found)


async def test_a_day_delivered_twice_and_out_of_order_ends_like_the_day_itself(town: Town) -> None:
    manager = await town.manager()
    seed = random.randrange(1000)
    day = a_day(seed)
    calm_lot, calm = await make_lot(town, manager, f"calm-{seed}")
    rough_lot, rough = await make_lot(town, manager, f"rough-{seed}")
    for at, entry, plate in day:
        assert (await calm[entry].push(plate, at)).status == 200

    chance = random.Random(seed)
    shaken = sorted((at + timedelta(seconds=chance.uniform(0, LATE_AT_MOST_S)), at, entry, plate) for at, entry, plate in day * 2)
    assert [at for _, at, _, _ in shaken] != sorted(at for _, at, _, _ in shaken)
    for _, at, entry, plate in shaken:
        assert (await rough[entry].push(plate, at)).status == 200

    entries = sum(entry for _, entry, _ in day)

    async def same() -> bool:
        calm_books, rough_books = await stays(manager, calm_lot), await stays(manager, rough_lot)
        return len(calm_books) == entries and calm_books == rough_books

    try:
        await eventually(same, "both lots have the same books", deadline_s=20)
    except AssertionError:
        calm_books, rough_books = await stays(manager, calm_lot), await stays(manager, rough_lot)
        assert calm_books == rough_books
        raise
    assert {state for _, _, _, state, _, _ in await stays(manager, calm_lot)} >= {"SESSION_STATE_LEFT", "SESSION_STATE_EXIT_MISSED"}
