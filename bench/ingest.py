"""Figure 2, first half: readings accepted durably through HTTP in batches of 100, against a message each by pipelined nats-py."""

import asyncio
import base64
import itertools
import time
from statistics import median

import httpx
import nats

from bench.measure import report
from console.load.http import Connection
from console.seed import Api
from console.up import Local
from linli.device.v1.events_pb2 import Reading, ReadingBatch
from servicekit.identifiers import new_id

BATCH = 100
CONNECTIONS = 16
ROUND_S = 5.0
ROUNDS = 3
IN_FLIGHT = 4096


_PLACEHOLDER = b"0123456789abcdef"


def batch(device: str) -> bytes:
    """A batch of readings as an edge box sends it, with a placeholder for its id."""
    now = time.time_ns() // 1000
    readings = [Reading(metric="co_ppm", at_us=now + i, value=9.5 + i, sequence=i) for i in range(BATCH)]
    return ReadingBatch(device_id=device, batch_id=_PLACEHOLDER.decode(), readings=readings).SerializeToString()


async def measure(local: Local) -> None:
    """Prints the figure."""
    plan = local.demonstration
    assert plan is not None
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        body = {"community_id": plan.community_id, "phone": plan.manager_phone, "password": plan.manager_password}
        manager = await Api(client, local.gateway_url).signed_in("/v1/sign-in/password", body)
        boxes = []
        for number in range(CONNECTIONS):
            box = f"bench-box-{number}"
            made = await manager.call("POST", "/v1/devices", {"device_id": box, "name": box, "kind": "DEVICE_KIND_EDGE_BOX"})
            boxes.append((box, made["secret"]))
    own, peer = [], []
    for _ in range(ROUNDS):
        own.append(await _through_http(local, boxes))
        peer.append(await _one_by_one(local, plan.community_id))
    rate, peer_rate = median(own), median(peer)
    report(
        "2 ingest",
        load=f"HTTP batches of {BATCH}, {CONNECTIONS} connections, {ROUNDS} x {ROUND_S} s",
        readings_per_second=rate,
        peer_readings_per_second=peer_rate,
        peer=f"nats-py, a message for each reading, {IN_FLIGHT} in flight",
        ratio=rate / peer_rate,
        aim="ratio >= 3",
    )


async def _through_http(local: Local, boxes: list[tuple[str, str]]) -> float:
    host, _, port = local.ingest_url.removeprefix("http://").partition(":")
    end = time.perf_counter() + ROUND_S
    accepted = 0
    numbers = itertools.count(time.time_ns())

    async def box(device: str, secret: str) -> None:
        nonlocal accepted
        token = base64.b64encode(f"{device}:{secret}".encode())
        head = b"POST /devices/readings HTTP/1.1\r\nHost: bench\r\nContent-Type: application/x-protobuf\r\n"
        head += b"Authorization: Basic " + token + b"\r\n"
        connection = Connection(host, int(port))
        # Made beforehand, all but the id: what the box spends is not what ingest spends.
        body = batch(device)
        while time.perf_counter() < end:
            status, answer = await connection.request(head, body.replace(_PLACEHOLDER, b"%016x" % next(numbers)))
            assert status < 300, (status, answer)
            accepted += BATCH
        connection.close()

    started = time.perf_counter()
    await asyncio.gather(*(box(*known) for known in boxes))
    return accepted / (time.perf_counter() - started)


async def _one_by_one(local: Local, community: str) -> float:
    """What the client library does at its best: acks pipelined, a message for each reading."""
    password = local.secrets.password("ingest-nats")
    client = await nats.connect(local.nats.url, user="ingest", password=password, inbox_prefix=b"_INBOX.ingest")
    stream = client.jetstream(publish_async_max_pending=IN_FLIGHT)
    subject = f"device.{community}.object.bench-{new_id()}"
    body = Reading(metric="co_ppm", at_us=time.time_ns() // 1000, value=9.5, sequence=1).SerializeToString()
    end, sent = time.perf_counter() + ROUND_S, 0
    started = time.perf_counter()
    while time.perf_counter() < end:
        for _ in range(256):
            await stream.publish_async(subject, body)
        sent += 256
    await stream.publish_async_completed()
    seconds = time.perf_counter() - started
    await client.close()
    return sent / seconds
