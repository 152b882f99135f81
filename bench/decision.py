"""Figure 1: plate push in, answer with the gate's decision out, everything durable, against the least that a durable decision can be.

Prints p50, p99 and the ratio of p50 to a bare chain (HTTP, one JetStream publish with its ack, one SQL transaction, answer) under the same
load in the same run, in alternating rounds.
"""

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from statistics import median

import asyncpg
import httpx

from bench.measure import report
from console.load.http import Pool
from console.load.schedule import Run, open_loop
from console.seed import Api
from console.seed.lots import open_lane, open_lot
from console.simulator.cameras import plate_alarm
from console.up import Local
from servicekit.identifiers import new_id
from tests.support import free_address

# A city quarter: a lot's lanes decide one after the other, and a lane has a car a second at the very most.
LOTS = 20
LANES = 100
PER_SECOND = 100
ROUND_S = 8.0
ROUNDS = 3


@asynccontextmanager
async def peer(kind: str, environment: dict[str, str]) -> AsyncIterator[str]:
    """A process of `bench.peers`; yields its HTTP address."""
    address = free_address()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "console.child", "bench.peers", kind), env={**os.environ, "PEER_HTTP": address, **environment}
    )
    try:
        host, _, port = address.partition(":")
        for _ in range(200):
            try:
                _, writer = await asyncio.open_connection(host, int(port))
                writer.close()
                break
            except OSError:
                await asyncio.sleep(0.05)
        yield address
    finally:
        process.terminate()
        await process.wait()


async def _cameras(local: Local) -> dict[str, str]:
    """Lots of its own with five entrances each; returns the cameras' secrets."""
    plan = local.demonstration
    assert plan is not None
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        body = {"community_id": plan.community_id, "phone": plan.manager_phone, "password": plan.manager_password}
        manager = await Api(client, local.gateway_url).signed_in("/v1/sign-in/password", body)
        lots = [await open_lot(manager, f"bench {number}", capacity=100_000) for number in range(LOTS)]
        cameras = [f"bench-cam-{number}" for number in range(LANES)]
        return {camera: await open_lane(manager, lots[number % LOTS], camera, entry=True) for number, camera in enumerate(cameras)}


def _push(camera: str, plate: str) -> bytes:
    return json.dumps(plate_alarm(camera, plate, datetime.now(UTC))).encode()


async def measure(local: Local) -> None:
    """Prints the figure."""
    secrets = await _cameras(local)
    heads = {
        camera: (
            b"POST /devices/plate HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nAuthorization: Basic "
            + base64.b64encode(f"{camera}:{secret}".encode())
            + b"\r\n"
        )
        for camera, secret in secrets.items()
    }
    cameras = list(secrets)
    counter = iter(range(10_000_000))

    postgres = await asyncpg.connect(local.postgres.url())
    await postgres.execute("CREATE TABLE IF NOT EXISTS bench_decisions (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, plate text)")
    # The peer publishes where nobody listens, as the one user that may publish what devices observe.
    environment = {
        "PEER_SUBJECT": f"device.{new_id()}.object.bench",
        "PEER_NATS": local.nats.url,
        "PEER_DATABASE_URL": local.postgres.url(),
        "PEER_NATS_USER": "ingest",
        "PEER_NATS_PASSWORD": local.secrets.password("ingest-nats"),
    }
    async with peer("chain", environment) as bare, Pool(local.ingest_url) as ours, Pool(bare) as theirs:

        async def decide(number: int) -> bool:
            camera = cameras[number % LANES]
            status, body = await ours.request(heads[camera], _push(camera, f"京{'ABCDEFGH'[number % 8]}{next(counter):05}"))
            return status == 200 and b'"ok"' in body

        async def chain(_number: int) -> bool:
            head = b"POST /decide HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            return (await theirs.request(head, b'{"plate": "bench"}'))[0] == 200

        await open_loop(decide, per_second=50, seconds=2)
        await open_loop(chain, per_second=50, seconds=2)
        own: list[Run] = []
        bare_runs: list[Run] = []
        for _ in range(ROUNDS):
            own.append(await open_loop(decide, per_second=PER_SECOND, seconds=ROUND_S))
            bare_runs.append(await open_loop(chain, per_second=PER_SECOND, seconds=ROUND_S))
    await postgres.close()
    p50, bare_p50 = median(run.percentile_ms(50) for run in own), median(run.percentile_ms(50) for run in bare_runs)
    report(
        "1 decision",
        load=f"{PER_SECOND} pushes/s open loop, {ROUNDS} x {ROUND_S} s, {LANES} lanes of {LOTS} lots",
        p50_ms=p50,
        p99_ms=median(run.percentile_ms(99) for run in own),
        wrong=sum(run.failures for run in own),
        bare_p50_ms=bare_p50,
        bare_p99_ms=median(run.percentile_ms(99) for run in bare_runs),
        ratio_p50=p50 / bare_p50,
        aim="ratio_p50 <= 2.5, p99 <= 50 ms",
    )
