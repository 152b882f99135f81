"""A day in the demonstration community, hurried: cars, waste and points. Prints what happens as JSON lines."""

import asyncio
from pathlib import Path

import httpx
import msgspec

from console.demonstration import Demonstration
from console.simulator.sorting import make_bins, sort_waste, watch_points
from console.simulator.town import Town
from console.simulator.traffic import Traffic, connect_lanes, drive


async def simulate(folder: Path, *, cars_per_minute: int, deposits_per_minute: int, minutes: float) -> None:
    """Runs until it is cancelled, or for a number of minutes. Raises OSError when there is no demonstration to live in."""
    stored = msgspec.json.decode((folder / "demonstration.json").read_bytes(), type=Demonstration)
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(trust_env=False, timeout=10.0, limits=limits) as client:
        town = Town(stored, folder, client)
        traffic, bins = Traffic(town, town.visitor()), make_bins(town)
        devices = [*connect_lanes(traffic), *(each.run() for each in bins), watch_points(town)]
        background = [asyncio.create_task(work) for work in devices]
        try:
            await asyncio.gather(drive(traffic, cars_per_minute, minutes), sort_waste(town, bins, deposits_per_minute, minutes))
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
