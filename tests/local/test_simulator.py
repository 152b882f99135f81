"""The simulated bin, on a broker that goes away, and what the live table makes of what the simulator tells."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats as client
from rich.console import Console

from console.demonstration import DemonstrationBin
from console.live import Figures
from console.simulator.bins import Bin, drifting_clock
from infra.local.nats import NatsServer
from tests.support import eventually

Start = Callable[..., NatsServer]
PLAN = DemonstrationBin("bin-id", "bin-1", "1号楼分类箱", {"kitchen": 10_000})


async def stored(server: NatsServer) -> list[dict[str, Any]]:
    connection = await client.connect(server.url, allow_reconnect=False)
    stream = connection.jetstream()
    kept = (await stream.stream_info("bins")).state.messages
    messages = [await stream.get_msg("bins", number) for number in range(1, kept + 1)]
    await connection.close()
    return [json.loads(message.data or b"") for message in messages if message.subject == "devices.bin-1.deposit"]


async def test_a_bin_sends_again_what_a_broker_that_died_had_not_stored(tmp_path: Path, nats: Start) -> None:
    server = nats(tmp_path, mqtt_port=0)
    connection = await client.connect(server.url)
    await connection.jetstream().add_stream(name="bins", subjects=["devices.>"])
    await connection.close()
    place = Bin(server.host, server.mqtt_port or 0, PLAN, "secret", {"kitchen": 1000}, drifting_clock(90, 0))
    running = asyncio.create_task(place.run())
    await place.send(place.weigh("0800000011", "kitchen", 500))
    await eventually(lambda: stored(server), "the first record is in the stream")

    server.kill()
    late = [asyncio.create_task(place.send(place.weigh("", "kitchen", grams))) for grams in (700, 800)]
    _done, waiting = await asyncio.wait(late, timeout=0.5)
    assert len(waiting) == 2
    server.restart()
    await asyncio.wait_for(asyncio.gather(*late), 60)

    records = {record["id"]: record for record in await stored(server)}
    assert [record["grams"] for record in records.values()] == [500, 700, 800]
    assert [record["fill"] for record in records.values()] == [0.15, 0.22, 0.3]
    assert [record.get("card") for record in records.values()] == ["0800000011", None, None]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def shown(figures: Figures, happened: list[dict[str, Any]]) -> str:
    """What a terminal of 140 columns shows after this."""
    for event in happened:
        figures.take(json.dumps({"at": "2026-01-05T07:31:09+00:00", **event}))
    console = Console(width=140)
    with console.capture() as captured:
        console.print(figures.render())
    return captured.get()


def test_deposits_and_points_are_shown_as_they_happen() -> None:
    figures = Figures()
    text = shown(
        figures,
        [
            {"kind": "deposit", "bin": "1号楼分类箱", "who": "陈一", "category": "kitchen", "grams": 840},
            {"kind": "deposit", "bin": "1号楼分类箱", "who": "", "category": "other", "grams": 660},
            {"kind": "points", "resident": "陈一", "change": 4, "points": 12, "text": "Kitchen waste sorted"},
            {"kind": "points", "resident": "陈一", "change": -10, "points": 2, "text": "A cup of coffee"},
        ],
    )
    assert figures.counts["deposit"] == 2
    assert (figures.grams, figures.points_earned, figures.points_lost) == (1500, 4, 10)
    assert "陈一  +4 points (Kitchen waste sorted), now 12" in text
    assert "somebody  brings 0.66 kg of other to 1号楼分类箱" in text


def test_doors_alarms_and_orders_are_shown_as_they_happen() -> None:
    figures = Figures()
    door = {"kind": "door", "door": "东门人行门", "offline": False, "visitor": False, "opened": True, "reason": ""}
    order = {"number": 7, "title": "厨房水管漏水", "who": "水电工老徐"}
    text = shown(
        figures,
        [
            {**door, "who": "陈一", "credential": "card", "offline": True},
            {**door, "who": "王四的客人", "credential": "code", "visitor": True},
            {**door, "who": "", "credential": "card", "opened": False, "reason": "unknown"},
            {"kind": "alarm", "alarm": "intrusion", "severity": "SEVERITY_CRITICAL", "text": "Intrusion: 东围墙摄像机"},
            {"kind": "order_accepted", **order, "in_time": True},
            {"kind": "order_accepted", **order, "number": 8, "in_time": False},
            {"kind": "order_paid", **order, "who": "钱八", "fen": 11625},
            {"kind": "orders_open", "open": 3},
        ],
    )
    assert (figures.refused, figures.opened_offline, figures.visits) == (1, 1, 1)
    assert (figures.answered_in_time, figures.orders_fen, figures.orders_open) == (1, 11625, 3)
    assert "东门人行门  opens for 陈一, card, offline" in text
    assert "东门人行门  stays shut (unknown) for somebody, card" in text
    assert "alarm  Intrusion: 东围墙摄像机" in text
    assert "水电工老徐  accepts #8 厨房水管漏水, too late" in text
    assert "116.25" in text
