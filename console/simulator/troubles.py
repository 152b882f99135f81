"""What breaks, and who sees to it: residents report repairs, technicians do them, and somebody climbs over the wall now and then.

Nobody remembers anything: everybody looks at their own list every few seconds and does what comes next, so that work goes on after a pause.
Orders that others have reported are theirs to do.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import httpx

from console.demonstration import DemonstrationResident
from console.simulator.town import Phone, Town, pay, say, troubled

_LOOK_S = 4.0
# How likely somebody does the next thing whenever they look.
_READY = 0.25
# Of so many urgent orders, one is left lying until its promise is missed; and of so many that were done, one was not done well.
_FORGOTTEN_OF, _BOTCHED_OF = 20, 25
_FIRST_INTRUDER_S, _INTRUDERS_EVERY_S = 40.0, 240.0
_FRAMES = (5, 30)
_FRAME_S = 0.5
# The smallest picture there is.
_PICTURE: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that breaks: its category, what was found and done, and what that takes: price codes with hundredths of a unit."""

    category: str
    cause: str
    resolution: str
    items: tuple[tuple[str, int], ...] = ()


TROUBLES: Final = {
    "厨房水管漏水": Trouble("water.leak", "worn_pipe", "更换水管与角阀", (("labour", 100), ("pipe.ppr20", 250), ("valve.angle", 100))),
    "卫生间地漏堵塞": Trouble("water.drain", "blocked", "已疏通", (("visit", 100),)),
    "厨房龙头关不紧": Trouble("water.tap", "worn_tap", "更换龙头", (("labour", 50), ("tap.kitchen", 100))),
    "家中突然停电": Trouble("power.outage", "tripped_breaker", "排除短路，恢复供电"),
    "楼道灯不亮": Trouble("power.light", "worn_lamp", "更换灯具"),
    "电梯异响": Trouble("lift.broken", "worn_guide", "已润滑导轨并试运行"),
    "门锁打不开": Trouble("door", "worn_lock", "更换锁芯", (("visit", 100), ("lock.core", 100))),
    "楼道有积水": Trouble("cleaning", "spill", "已清理"),
}
# What is found where a camera saw somebody, and elsewhere: the cause, and what is written.
_SOMEBODY = "有人"
_MENDED = ("mended", "已处理")
_FINDINGS = [
    ("courier", "外卖员翻越围栏，已劝离"),
    ("child_at_play", "儿童捡球，已送回"),
    ("false_alarm", "树影晃动"),
    ("intruder", "陌生人员，已带离并登记"),
]


def begin_work(town: Town) -> list[Coroutine[Any, Any, None]]:
    """What has to run for orders to be worked on: everybody with their phone, and the manager who watches."""
    plan = town.demonstration
    if not plan.technicians:
        return []
    return [
        *(_work(town, town.staff(each.phone), each.name) for each in plan.technicians),
        *(_follow_up(town, town.resident(each.phone), each.name) for each in town.neighbours()),
        _watch(town.manager()),
    ]


async def make_trouble(town: Town, orders_per_hour: int, minutes: float) -> None:
    """Lets things break for a number of minutes, or with 0 until it is cancelled."""
    if not orders_per_hour or not town.demonstration.technicians:
        return
    end = time.monotonic() + minutes * 60 if minutes else float("inf")
    intruders = asyncio.create_task(_intrude(town))
    try:
        while time.monotonic() < end:
            resident = town.chance.choice(town.neighbours())
            with troubled(resident.name):
                await _report(town, town.resident(resident.phone), resident)
            await asyncio.sleep(town.chance.expovariate(orders_per_hour / 3600))
    finally:
        intruders.cancel()


async def _report(town: Town, phone: Phone, resident: DemonstrationResident) -> None:
    title = town.chance.choice(list(TROUBLES))
    categories = (await phone.request("GET", "/v1/work-order-categories")).json()["categories"]
    body = {
        "category_id": next(each["category_id"] for each in categories if each["code"] == TROUBLES[title].category),
        "title": title,
        "household_id": resident.household_id,
        "contact_phone": resident.phone,
    }
    order = (await phone.request("POST", "/v1/work-orders", body)).json()
    say("order_reported", number=int(order["number"]), title=title, who=resident.name)


# Technicians and guards.


async def _work(town: Town, phone: Phone, name: str) -> None:
    while True:
        with troubled(name):
            for path in ("/v1/me/jobs?page_size=50", "/v1/jobs:open?page_size=50"):
                for job in (await phone.request("GET", path)).json()["jobs"]:
                    if (job["kind"] == "ORDER_KIND_ALARM" or job["title"] in TROUBLES) and town.chance.random() < _READY:
                        await _go_on(town, phone, name, job)
        await asyncio.sleep(_LOOK_S)


async def _go_on(town: Town, phone: Phone, name: str, job: dict[str, Any]) -> None:
    """The next thing that a technician does for an order."""
    path, number = f"/v1/work-orders/{job['order_id']}", int(job["number"])
    told = {"number": number, "title": job["title"], "who": name}
    if job["state"] == "ORDER_STATE_DISPATCHED":
        forgotten = job["priority"] == "PRIORITY_URGENT" and number % _FORGOTTEN_OF == 0 and "response" not in job["missed"]
        if not forgotten and (await phone.request("POST", f"{path}:accept", {})).is_success:
            say("order_accepted", **told, in_time="response" not in job["missed"])
    elif job["state"] == "ORDER_STATE_ACCEPTED":
        await phone.request("POST", f"{path}:arrive", {})
    elif job["state"] == "ORDER_STATE_ON_SITE":
        trouble = TROUBLES.get(job["title"])
        quotes = (await phone.request("GET", f"{path}/quotes")).json()["quotes"] if trouble else []
        if trouble and trouble.items and not quotes:
            items = [{"code": code, "quantity_hundredths": quantity} for code, quantity in trouble.items]
            await phone.request("POST", f"{path}/quotes", {"items": items})
        elif not any(quote["state"] == "QUOTE_STATE_OPEN" for quote in quotes):
            cause, resolution = (trouble.cause, trouble.resolution) if trouble else _MENDED
            if job["title"].startswith(_SOMEBODY):
                cause, resolution = town.chance.choice(_FINDINGS)
            if (await phone.request("POST", f"{path}:complete", {"cause": cause, "resolution": resolution})).is_success:
                say("order_done", **told, cause=cause)


# Residents.


async def _follow_up(town: Town, phone: Phone, name: str) -> None:
    while True:
        with troubled(name):
            for order in (await phone.request("GET", "/v1/me/work-orders?page_size=20")).json()["orders"]:
                if order["title"] in TROUBLES and town.chance.random() < _READY:
                    await _answer(town, phone, name, order)
        await asyncio.sleep(_LOOK_S)


async def _answer(town: Town, phone: Phone, name: str, order: dict[str, Any]) -> None:
    """The next thing that a resident does about their order."""
    path, number = f"/v1/work-orders/{order['order_id']}", int(order["number"])
    if order["state"] == "ORDER_STATE_ON_SITE" and TROUBLES[order["title"]].items:
        for quote in (await phone.request("GET", f"{path}/quotes")).json()["quotes"]:
            if quote["state"] == "QUOTE_STATE_OPEN":
                await phone.request("POST", f"{path}/quotes/{quote['quote_id']}:agree", {})
    elif order["state"] == "ORDER_STATE_DONE" and order["charge_id"] and not order["paid"]:
        if await pay(town, phone, order["charge_id"]):
            say("order_paid", number=number, title=order["title"], who=name, fen=int(order["amount_fen"]))
    elif order["state"] == "ORDER_STATE_DONE" and not order["stars"]:
        stars = 2 if number % _BOTCHED_OF == 0 and not order["reopened"] else town.chance.choice((4, 5))
        if (await phone.request("POST", f"{path}:rate", {"stars": stars})).is_success:
            say("order_rated", number=number, title=order["title"], who=name, stars=stars)


# Cameras, and the manager who watches all of it.


async def _intrude(town: Town) -> None:
    """Now and then somebody is seen where nobody should be: many frames, one person."""
    wait_s = _FIRST_INTRUDER_S
    while town.demonstration.watch is not None:
        await asyncio.sleep(wait_s)
        wait_s = town.chance.expovariate(1 / _INTRUDERS_EVERY_S)
        camera, track = town.chance.choice(town.demonstration.watch.camera_ids), uuid.uuid4().hex
        for _ in range(town.chance.randint(*_FRAMES)):
            with contextlib.suppress(httpx.HTTPError):
                await observe(town, "intrusion", camera, track)
            await asyncio.sleep(_FRAME_S)


async def observe(town: Town, kind: str, camera: str, track: str) -> int:
    """Tells what the box saw in one frame; returns the HTTP status. Raises httpx.HTTPError."""
    plan = town.demonstration
    assert plan.watch is not None
    seen = {
        "id": uuid.uuid4().hex,
        "camera": camera,
        "kind": kind,
        "track": track,
        "confidence": round(town.chance.uniform(0.7, 0.99), 2),
        "at": datetime.now(UTC).isoformat(),
        "pictures": [_PICTURE],
    }
    auth = httpx.BasicAuth(plan.watch.box_id, plan.secrets[plan.watch.box_id])
    answer = await town.client.post(f"{plan.ingest_url}/devices/observations", json={"observations": [seen]}, auth=auth)
    return answer.status_code


async def _watch(manager: Phone) -> None:
    """Tells new alarms, and how many orders are open."""
    seen: set[str] | None = None
    told = -1
    while True:
        with troubled("manager"):
            alarms = (await manager.request("GET", "/v1/alarms?page_size=20")).json()["alarms"]
            # What was there before the simulation is not news.
            for alarm in reversed(alarms if seen is not None else []):
                if seen is not None and alarm["alarm_id"] not in seen:
                    say("alarm", alarm=alarm["kind"], severity=alarm["severity"], text=alarm["text_en"])
            seen = (seen or set()) | {alarm["alarm_id"] for alarm in alarms}
            orders = (await manager.request("GET", "/v1/work-orders?open_only=true&page_size=100")).json()["orders"]
            if len(orders) != told:
                told = len(orders)
                say("orders_open", open=told)
        await asyncio.sleep(_LOOK_S)
