"""A day in the demonstration community, hurried: cars, doors, waste, points and repairs. Prints what happens as JSON lines."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from console.demonstration import Demonstration
from console.simulator.doors import come_and_go, connect_doors, make_doors
from console.simulator.sorting import make_bins, sort_waste, watch_points
from console.simulator.town import Town
from console.simulator.traffic import Traffic, connect_lanes, drive
from console.simulator.troubles import begin_work, make_trouble


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much happens, and for how many minutes; 0 minutes is until it is cancelled."""

    cars_per_minute: int
    deposits_per_minute: int
    passages_per_minute: int
    orders_per_hour: int
    minutes: float


async def simulate(folder: Path, pace: Pace) -> None:
    """Runs until it is cancelled, or for a number of minutes. Raises OSError when there is no demonstration to live in."""
    stored = msgspec.json.decode((folder / "demonstration.json").read_bytes(), type=Demonstration)
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(trust_env=False, timeout=10.0, limits=limits) as client:
        town = Town(stored, folder, client)
        traffic, bins, doors = Traffic(town, town.visitor()), make_bins(town), make_doors(town)
        devices = [*connect_lanes(traffic), *(each.run() for each in bins), *connect_doors(doors), watch_points(town)]
        people = begin_work(town) if pace.orders_per_hour else []
        background = [asyncio.create_task(work) for work in (*devices, *people)]
        try:
            await asyncio.gather(
                drive(traffic, pace.cars_per_minute, pace.minutes),
                sort_waste(town, bins, pace.deposits_per_minute, pace.minutes),
                come_and_go(doors, pace.passages_per_minute, pace.minutes),
                make_trouble(town, pace.orders_per_hour, pace.minutes),
            )
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
