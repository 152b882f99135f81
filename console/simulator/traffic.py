"""A day's traffic, hurried: residents, visitors and strangers drive in, park for a minute, pay and leave."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from console.simulator.cameras import PushCamera, ViidCamera
from console.simulator.gates import Gate
from console.simulator.town import Phone, Town, pay, say, troubled

_HEARTBEAT_S = 30.0
_READINGS_S = 5.0
_PARKED_S = (15.0, 90.0)
_GATE_WAIT_S = 5.0
_PAYS_FIRST = 0.7
_STUCK_S = (5.0, 15.0)
_TRIES = 20
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


def _say_opened(lane: str, command: str) -> None:
    say("gate_opened", lane=lane, command=command)


@dataclass(slots=True)
class Lane:
    """A camera and the gate that its decision moves."""

    name: str
    read: Callable[[str], Awaitable[bool]]


@dataclass(slots=True)
class Traffic:
    """The lanes, and who is inside."""

    town: Town
    visitor: Phone
    entries: list[Lane] = field(default_factory=list)
    exits: list[Lane] = field(default_factory=list)
    parked: set[str] = field(default_factory=set)


def connect_lanes(traffic: Traffic) -> list[Coroutine[Any, Any, None]]:
    """Puts cameras and gates at the lanes. Returns what has to run for as long as they work."""
    town, plan = traffic.town, traffic.town.demonstration
    work: list[Coroutine[Any, Any, None]] = []
    for lane in plan.lanes:
        gate = None
        if lane.gate_device_id != lane.camera_device_id:
            gate = Gate(
                plan.mqtt_host,
                plan.mqtt_port,
                lane.gate_device_id,
                plan.secrets[lane.gate_device_id],
                plan.gate_public_key,
                functools.partial(_say_opened, lane.name),
            )
            work.append(gate.run())
        secret = plan.secrets[lane.camera_device_id]
        if lane.protocol == "viid":
            viid = ViidCamera(town.client, plan.ingest_url, lane.camera_device_id, secret)
            assert gate is not None
            read = _viid_reader(lane.name, viid, gate)
            work.append(_beat(viid.register, viid.keep_alive))
        else:
            push = PushCamera(town.client, plan.ingest_url, lane.camera_device_id, secret)
            read = _push_reader(lane.name, push, gate)
            work.append(_beat(push.heartbeat, push.heartbeat))
        (traffic.entries if lane.entry else traffic.exits).append(Lane(lane.name, read))
    work.append(_measure(town))
    return work


async def _beat(first: Callable[[], Awaitable[int]], later: Callable[[], Awaitable[int]]) -> None:
    beat = first
    while True:
        with contextlib.suppress(httpx.HTTPError):
            await beat()
            beat = later
        await asyncio.sleep(_HEARTBEAT_S)


def _push_reader(name: str, camera: PushCamera, gate: Gate | None) -> Callable[[str], Awaitable[bool]]:
    async def read(plate: str) -> bool:
        opened_before = len(gate.opened) if gate else 0
        answer = await camera.push(plate, datetime.now(UTC))
        say("decision", lane=name, plate=plate, opened=answer.opened, milliseconds=round(answer.seconds * 1000, 1))
        if gate is not None:
            return await gate.opens_beyond(opened_before, _GATE_WAIT_S)
        if answer.opened:
            say("gate_opened", lane=name)
        return answer.opened

    return read


def _viid_reader(name: str, camera: ViidCamera, gate: Gate) -> Callable[[str], Awaitable[bool]]:
    sequence = int(time.time())

    async def read(plate: str) -> bool:
        nonlocal sequence
        sequence += 1
        before, started = len(gate.opened), time.perf_counter()
        if await camera.report(plate, datetime.now(UTC), sequence) != 0:
            return False
        opened = await gate.opens_beyond(before, _GATE_WAIT_S)
        if opened:
            say("decision", lane=name, plate=plate, opened=True, milliseconds=round((time.perf_counter() - started) * 1000, 1))
        return opened

    return read


async def drive(traffic: Traffic, cars_per_minute: int, minutes: float) -> None:
    """Sends cars for a number of minutes, or with 0 until it is cancelled."""
    if not cars_per_minute:
        return
    end = time.monotonic() + minutes * 60 if minutes else float("inf")
    trips: set[asyncio.Task[None]] = set()
    while time.monotonic() < end:
        trip = asyncio.create_task(_trip(traffic))
        trips.add(trip)
        trip.add_done_callback(trips.discard)
        await asyncio.sleep(traffic.town.chance.expovariate(cars_per_minute / 60))
    await asyncio.gather(*trips, return_exceptions=True)


async def _trip(traffic: Traffic) -> None:
    chance, plate = traffic.town.chance, _choose_plate(traffic)
    traffic.parked.add(plate)
    try:
        with troubled(plate):
            if not await chance.choice(traffic.entries).read(plate):
                say("turned_away", plate=plate)
                return
            say("car_in", plate=plate)
            await asyncio.sleep(chance.uniform(*_PARKED_S))
            # Nobody leaves a car behind because the barrier did not open at once: the lot would fill up.
            for _ in range(_TRIES):
                if await _leave(traffic, plate):
                    say("car_out", plate=plate)
                    return
                say("stuck", plate=plate)
                await asyncio.sleep(chance.uniform(*_STUCK_S))
    finally:
        traffic.parked.discard(plate)


async def _leave(traffic: Traffic, plate: str) -> bool:
    chance = traffic.town.chance
    with troubled(plate):
        if chance.random() < _PAYS_FIRST:
            await _pay(traffic, plate)
        return await chance.choice(traffic.exits).read(plate) or await _pay_at_the_barrier(traffic, plate)
    return False


def _choose_plate(traffic: Traffic) -> str:
    chance = traffic.town.chance
    known = [plate for plate in traffic.town.demonstration.plates if plate not in traffic.parked]
    if known and chance.random() < 0.5:
        return chance.choice(known)
    return f"京{chance.choice(_LETTERS)}{chance.randrange(100_000):05}"


async def _pay_at_the_barrier(traffic: Traffic, plate: str) -> bool:
    chance = traffic.town.chance
    await asyncio.sleep(chance.uniform(0.5, 2.0))
    if not await _pay(traffic, plate):
        return False
    return await chance.choice(traffic.exits).read(plate)


async def _pay(traffic: Traffic, plate: str) -> bool:
    """Quotes and pays as a visitor's phone does. True when nothing is owed any more."""
    phone, lot_id = traffic.visitor, traffic.town.demonstration.lot_id
    quote = await phone.request("POST", "/v1/parking/quotes", {"lot_id": lot_id, "plate": plate})
    if quote.status_code != httpx.codes.OK:
        return False
    charge, amount = quote.json()["charge_id"], int(quote.json()["amount_fen"])
    if not charge:
        return True
    if paid := await pay(traffic.town, phone, charge):
        say("paid", plate=plate, fen=amount)
    return paid


async def _measure(town: Town) -> None:
    """An edge box that reports the garage's air."""
    plan = town.demonstration
    batch = 0
    while True:
        now = time.time_ns() // 1000
        batch += 1
        readings = [{"metric": "co_ppm", "at_us": now + i, "value": round(town.chance.gauss(9, 2), 2), "sequence": i} for i in range(20)]
        body = {"batch_id": f"{now}", "readings": readings}
        with contextlib.suppress(httpx.HTTPError):
            answer = await town.client.post(
                f"{plan.ingest_url}/devices/readings", json=body, auth=httpx.BasicAuth(plan.edge_box_id, plan.secrets[plan.edge_box_id])
            )
            if answer.status_code < httpx.codes.BAD_REQUEST:
                say("readings", count=len(readings))
        await asyncio.sleep(_READINGS_S)
