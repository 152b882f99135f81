"""A day's traffic, hurried: residents, visitors and strangers drive in, park for a minute, pay and leave.

Prints what happens as JSON lines.
"""

import asyncio
import contextlib
import functools
import json
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec

from console.demonstration import Demonstration
from console.environment import newest_code
from console.simulator.cameras import PushCamera, ViidCamera
from console.simulator.gates import Gate

_HEARTBEAT_S = 30.0
_READINGS_S = 5.0
_PARKED_S = (15.0, 90.0)
_GATE_WAIT_S = 5.0
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


def _say(kind: str, **values: Any) -> None:
    line = json.dumps({"kind": kind, "at": datetime.now(UTC).isoformat(timespec="milliseconds"), **values}, ensure_ascii=False)
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os._exit(0)  # nobody reads any more, as after `| head`: devices without power, not an error for each task and at exit


def _say_opened(lane: str, command: str) -> None:
    _say("gate_opened", lane=lane, command=command)


@dataclass(slots=True)
class Lane:
    """A camera and the gate that its decision moves."""

    name: str
    read: Callable[[str], Awaitable[bool]]


@dataclass(slots=True)
class Town:
    """Everything that moves."""

    demonstration: Demonstration
    folder: Path
    client: httpx.AsyncClient
    entries: list[Lane] = field(default_factory=list)
    exits: list[Lane] = field(default_factory=list)
    parked: set[str] = field(default_factory=set)
    chance: random.Random = field(default_factory=random.Random)
    phone_token: str = ""


async def simulate(folder: Path, *, cars_per_minute: int, minutes: float) -> None:
    """Runs until it is cancelled, or for a number of minutes. Raises OSError when there is no demonstration to drive through."""
    stored = msgspec.json.decode((folder / "demonstration.json").read_bytes(), type=Demonstration)
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(trust_env=False, timeout=10.0, limits=limits) as client:
        town = Town(stored, folder, client)
        background = [asyncio.create_task(work) for work in _devices(town)]
        try:
            await _drive(town, cars_per_minute, minutes)
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)


def _devices(town: Town) -> list[Any]:
    plan = town.demonstration
    work: list[Any] = []
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
        (town.entries if lane.entry else town.exits).append(Lane(lane.name, read))
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
        _say("decision", lane=name, plate=plate, opened=answer.opened, milliseconds=round(answer.seconds * 1000, 1))
        if gate is not None:
            return await gate.opens_beyond(opened_before, _GATE_WAIT_S)
        if answer.opened:
            _say("gate_opened", lane=name)
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
            _say("decision", lane=name, plate=plate, opened=True, milliseconds=round((time.perf_counter() - started) * 1000, 1))
        return opened

    return read


async def _drive(town: Town, cars_per_minute: int, minutes: float) -> None:
    end = time.monotonic() + minutes * 60 if minutes else float("inf")
    trips: set[asyncio.Task[None]] = set()
    while time.monotonic() < end:
        trip = asyncio.create_task(_trip(town))
        trips.add(trip)
        trip.add_done_callback(trips.discard)
        await asyncio.sleep(town.chance.expovariate(cars_per_minute / 60))
    await asyncio.gather(*trips, return_exceptions=True)


async def _trip(town: Town) -> None:
    plate = _choose_plate(town)
    town.parked.add(plate)
    try:
        if not await town.chance.choice(town.entries).read(plate):
            _say("turned_away", plate=plate)
            return
        _say("car_in", plate=plate)
        await asyncio.sleep(town.chance.uniform(*_PARKED_S))
        pays_first = town.chance.random() < 0.7
        if pays_first:
            await _pay(town, plate)
        if not await town.chance.choice(town.exits).read(plate) and not await _pay_at_the_barrier(town, plate):
            _say("stuck", plate=plate)
            return
        _say("car_out", plate=plate)
    except (httpx.HTTPError, ValueError, KeyError) as error:
        _say("trouble", plate=plate, error=type(error).__name__)
    finally:
        town.parked.discard(plate)


def _choose_plate(town: Town) -> str:
    known = [plate for plate in town.demonstration.plates if plate not in town.parked]
    if known and town.chance.random() < 0.5:
        return town.chance.choice(known)
    return f"京{town.chance.choice(_LETTERS)}{town.chance.randrange(100_000):05}"


async def _pay_at_the_barrier(town: Town, plate: str) -> bool:
    await asyncio.sleep(town.chance.uniform(0.5, 2.0))
    if not await _pay(town, plate):
        return False
    return await town.chance.choice(town.exits).read(plate)


async def _pay(town: Town, plate: str) -> bool:
    """Quotes and pays as a visitor's phone does. True when nothing is owed any more."""
    plan = town.demonstration
    headers = {"Authorization": f"Bearer {await _token(town)}"}
    body = {"lot_id": plan.lot_id, "plate": plate}
    quote = await town.client.post(f"{plan.gateway_url}/v1/parking/quotes", json=body, headers=headers)
    if quote.status_code != httpx.codes.OK:
        return False
    charge, amount = quote.json()["charge_id"], int(quote.json()["amount_fen"])
    if not charge:
        return True
    payment = await town.client.post(f"{plan.gateway_url}/v1/charges/{charge}/payments", json={"provider": "sandbox"}, headers=headers)
    if payment.status_code != httpx.codes.OK:
        return False
    paid = await town.client.post(payment.json()["pay_url"])
    if paid.status_code >= httpx.codes.BAD_REQUEST:
        return False
    identifier = payment.json()["payment_id"]
    for _ in range(40):
        state = (await town.client.get(f"{plan.gateway_url}/v1/payments/{identifier}", headers=headers)).json()["state"]
        if state == "PAYMENT_STATE_SUCCEEDED":
            _say("paid", plate=plate, fen=amount)
            return True
        await asyncio.sleep(0.25)
    return False


async def _token(town: Town) -> str:
    """A visitor's access token, signed in anew every few minutes."""
    plan = town.demonstration
    if not town.phone_token or time.monotonic() > _token_expiry[0]:
        body = {"community_id": plan.community_id, "phone": plan.visitor_phone}
        await town.client.post(f"{plan.gateway_url}/v1/sign-in/codes", json=body)
        code = await asyncio.to_thread(newest_code, town.folder, plan.visitor_phone)
        tokens = await town.client.post(f"{plan.gateway_url}/v1/sign-in/code", json={**body, "code": code or "000000"})
        town.phone_token = tokens.json()["access_token"]
        _token_expiry[0] = time.monotonic() + 480
    return town.phone_token


_token_expiry = [0.0]


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
                _say("readings", count=len(readings))
        await asyncio.sleep(_READINGS_S)
