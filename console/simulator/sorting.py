"""Residents bring their waste to smart bins, which are emptied when they are full. What comes of it at the counter is told too."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import httpx

from console.demonstration import DemonstrationBin, DemonstrationResident
from console.simulator.bins import ZONE, Bin, drifting_clock, right_clock
from console.simulator.town import Phone, Town, say

# Of each category how often it is brought, and grams: least, most and usual.
_HABITS = {
    "kitchen": (45, 100, 1200, 400),
    "other": (30, 100, 1000, 300),
    "recyclable": (20, 50, 1500, 300),
    "hazardous": (5, 20, 300, 80),
}
# How many of those who come are residents with their cards. Others have none, or one that nobody knows.
_WITH_CARD, _WITH_UNKNOWN_CARD = 0.6, 0.1
_UNKNOWN_CARD = "0999999999"
# Whoever tries the demonstration does not want to wait for its resident's points.
_DEMONSTRATION_RESIDENT_COMES = 4
# A hurried resident stays at home for the rest of the day before waste finds that nobody has this much.
_IN_A_DAY_GRAMS = 30_000
# A real bin loses its connection now and then: some records are overtaken by later ones, some are sent again.
_OVERTAKEN, _SENT_AGAIN = 0.06, 0.06
_DELAY_S = (5.0, 40.0)
_FILL_AT_START = (0.05, 0.85)
_FULL, _EMPTIED_AFTER_S = 0.92, (20.0, 60.0)
# The last bin's clock: wrong from the start, and gaining a second in two minutes.
_AHEAD_S, _GAIN = 100.0, 1 / 120
_LOOK_S = 3.0


@dataclass(slots=True)
class Sorting:
    """The bins, who comes to them, and what is under way."""

    town: Town
    bins: list[Bin]
    work: set[asyncio.Task[None]] = field(default_factory=set)
    full: set[tuple[str, str]] = field(default_factory=set)
    # By account and day.
    brought_grams: Counter[tuple[str, date]] = field(default_factory=Counter)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Lets something happen beside the rest."""
        task = asyncio.create_task(work)
        self.work.add(task)
        task.add_done_callback(self.work.discard)


def make_bins(town: Town) -> list[Bin]:
    """The bins, not yet connected."""
    plan = town.demonstration
    return [
        Bin(
            plan.mqtt_host,
            plan.mqtt_port,
            each,
            plan.secrets[each.device_id],
            _grams_at_start(each),
            drifting_clock(_AHEAD_S, _GAIN) if each is plan.bins[-1] else right_clock,
        )
        for each in plan.bins
    ]


def _grams_at_start(plan: DemonstrationBin) -> dict[str, int]:
    chance = random.Random(plan.device_id)  # the same at every start
    return {name: int(capacity * chance.uniform(*_FILL_AT_START)) for name, capacity in plan.capacity_grams.items()}


async def sort_waste(town: Town, bins: list[Bin], deposits_per_minute: int, minutes: float) -> None:
    """Brings waste for a number of minutes, or with 0 until it is cancelled."""
    if not bins or not deposits_per_minute:
        return
    end = time.monotonic() + minutes * 60 if minutes else float("inf")
    sorting = Sorting(town, bins)
    resident: DemonstrationResident | None = town.demonstration.residents[0]
    try:
        while time.monotonic() < end:
            sorting.begin(_bring(sorting, resident))
            await asyncio.sleep(town.chance.expovariate(deposits_per_minute / 60))
            resident = _choose_resident(sorting)
        await asyncio.gather(*sorting.work, return_exceptions=True)
    finally:
        for task in sorting.work:
            task.cancel()


def _choose_resident(sorting: Sorting) -> DemonstrationResident | None:
    """Who comes next; None is somebody without a card of this community."""
    chance, today = sorting.town.chance, datetime.now(ZONE).date()
    if chance.random() > _WITH_CARD:
        return None
    residents = sorting.town.demonstration.residents
    resident = chance.choices(residents, [_DEMONSTRATION_RESIDENT_COMES, *[1] * (len(residents) - 1)])[0]
    return None if sorting.brought_grams[resident.account_id, today] > _IN_A_DAY_GRAMS else resident


async def _bring(sorting: Sorting, resident: DemonstrationResident | None) -> None:
    chance = sorting.town.chance
    place = chance.choice(sorting.bins)
    category = chance.choices(list(_HABITS), [share for share, *_ in _HABITS.values()])[0]
    _share, least, most, usual = _HABITS[category]
    grams = int(chance.triangular(least, most, usual))
    if resident:
        sorting.brought_grams[resident.account_id, datetime.now(ZONE).date()] += grams
    card = resident.card_number if resident else (_UNKNOWN_CARD if chance.random() < _WITH_UNKNOWN_CARD else "")
    record = place.weigh(card, category, grams)
    if place.fill(category) >= _FULL and (place.plan.device_id, category) not in sorting.full:
        sorting.begin(_empty(sorting, place, category))
    if chance.random() < _OVERTAKEN:
        await asyncio.sleep(chance.uniform(*_DELAY_S))
    await place.send(record)
    say("deposit", bin=place.plan.name, who=resident.name if resident else "", category=category, grams=grams)
    if chance.random() < _SENT_AGAIN:
        await asyncio.sleep(chance.uniform(*_DELAY_S))
        await place.send(record)


async def _empty(sorting: Sorting, place: Bin, category: str) -> None:
    key = (place.plan.device_id, category)
    sorting.full.add(key)
    await asyncio.sleep(sorting.town.chance.uniform(*_EMPTIED_AFTER_S))
    place.empty(category)
    sorting.full.discard(key)
    say("emptied", bin=place.plan.name, category=category)


async def watch_points(town: Town) -> None:
    """Tells every change of residents' points, as the counter sees it, until it is cancelled."""
    manager = town.manager()
    seen: dict[str, int] = {}
    while town.demonstration.residents:
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
            for resident in town.demonstration.residents:
                await _tell_entries(manager, resident, seen)
        await asyncio.sleep(_LOOK_S)


async def _tell_entries(manager: Phone, resident: DemonstrationResident, seen: dict[str, int]) -> None:
    answer = await manager.request("GET", f"/v1/points/residents/{resident.account_id}/entries?page_size=20")
    entries = answer.json()["entries"]
    newest = int(entries[0]["number"]) if entries else 0
    # What was there before the simulation is not news.
    for entry in reversed(entries):
        if int(entry["number"]) > seen.get(resident.account_id, newest):
            texts = {"text": entry["text_en"] or entry["text_zh"]}
            say("points", resident=resident.name, change=int(entry["change"]), points=int(entry["points"]), **texts)
    seen[resident.account_id] = newest
