"""Somebody climbs over the wall in front of a camera: one alarm, one work order, and a guard who goes there."""

import asyncio
import base64
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tests.journeys.people import ALL_IN_ONE, Phone, Town
from tests.support import eventually

FRAMES = 10_000
# As many as one request may hold.
BATCH = 100
AT_ONCE = 4
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(500)).decode()
FRAME_S = 0.04


def frame(camera: str, number: int, at: datetime, *, picture: bool) -> dict[str, Any]:
    """What the box saw in one picture of a camera."""
    said = {"id": f"frame-{number}", "camera": camera, "kind": "intrusion", "track": "p7", "confidence": 0.9, "at": at.isoformat()}
    return {**said, "pictures": [PNG]} if picture else said


async def observe(town: Town, frames: list[dict[str, Any]]) -> None:
    """The box tells what it saw, again when the network fails."""
    watch = town.demonstration.watch
    assert watch is not None
    auth = httpx.BasicAuth(watch.box_id, town.demonstration.secrets[watch.box_id])
    answer = await town.client.post(f"{town.demonstration.ingest_url}/devices/observations", json={"observations": frames}, auth=auth)
    assert (answer.status_code, answer.json()) == (200, {"accepted": len(frames)}), answer.text


async def alarms_of(manager: Phone, camera: str) -> list[Any]:
    """The camera's alarms, newest first."""
    return await manager.rows(f"/v1/alarms?source_id={camera}", "alarms")


async def orders_of(manager: Phone, alarm_id: str) -> list[Any]:
    """The work orders that an alarm became."""
    return [order for order in await manager.rows("/v1/work-orders?kind=ORDER_KIND_ALARM", "orders") if order["origin_id"] == alarm_id]


@ALL_IN_ONE
async def test_ten_thousand_frames_of_an_intruder_are_one_alarm_and_one_order_that_a_guard_ends(town: Town) -> None:
    plan = town.demonstration
    assert plan.watch is not None
    camera = plan.watch.camera_ids[0]
    guard_plan = next(each for each in plan.technicians if each.name == "保安小李")
    manager, guard = await town.manager(), await town.staff(guard_plan.phone)
    began = datetime.now(UTC) - timedelta(seconds=FRAMES * FRAME_S)
    frames = [frame(camera, number, began + timedelta(seconds=number * FRAME_S), picture=number < 5) for number in range(FRAMES)]

    async with guard.listening() as told:
        await observe(town, frames[:10])

        async def seen() -> Any:
            found = await alarms_of(manager, camera)
            return found[0] if found and found[0]["work_order_id"] else None

        alarm = await eventually(seen, "an alarm with its work order", every_s=0.1)
        assert (alarm["kind"], alarm["severity"], alarm["state"]) == ("intrusion", "SEVERITY_CRITICAL", "ALARM_STATE_RAISED")
        path = f"/v1/work-orders/{alarm['work_order_id']}"
        await told.hears(f"/v1/alarms/{alarm['alarm_id']}", "access.alarm_raised")
        job = next(each for each in (await guard.call("GET", "/v1/me/jobs"))["jobs"] if each["order_id"] == alarm["work_order_id"])
        assert (job["kind"], job["origin"], job["origin_id"]) == ("ORDER_KIND_ALARM", "access", alarm["alarm_id"])
        await guard.call("POST", f"{path}:accept", {})

        # The rest comes late, out of order, and some of it twice.
        rest = [*frames[10:], *frames[::20]]
        random.Random(3).shuffle(rest)
        places = asyncio.Semaphore(AT_ONCE)

        async def send(batch: list[dict[str, Any]]) -> None:
            async with places:
                await observe(town, batch)

        await asyncio.gather(*(send(rest[start : start + BATCH]) for start in range(0, len(rest), BATCH)))

        async def counted() -> bool:
            found = await alarms_of(manager, camera)
            return [int(each["observations"]) for each in found] == [FRAMES]

        await eventually(counted, "every frame is counted once, in one alarm", every_s=0.2, deadline_s=30)
        looked = await guard.call("GET", f"/v1/alarms/{alarm['alarm_id']}")
        assert len(looked["picture_urls"]) >= 1
        picture = await town.client.get(str(httpx.URL(plan.gateway_url).join(looked["picture_urls"][0])))
        assert picture.content == base64.b64decode(PNG)

        await guard.call("POST", f"{path}:arrive", {})
        await guard.call("POST", f"{path}:complete", {"cause": "trespasser", "resolution": "已带离并登记"})

        async def closed() -> Any:
            found = await manager.call("GET", f"/v1/alarms/{alarm['alarm_id']}")
            return found if found["state"] == "ALARM_STATE_CLOSED" else None

        ended = await eventually(closed, "the alarm is over", every_s=0.1)
        assert (ended["cause"], ended["false_alarm"], ended["observations"]) == ("trespasser", False, str(FRAMES))
        assert ended["acknowledged_by_account_id"] == guard_plan.account_id
        # What was seen before comes once more, and changes nothing; something else that comes last shows that it has come through.
        await observe(town, [*frames[-BATCH + 1 :], {**frames[-1], "id": "last", "kind": "loitering"}])

        async def came_through() -> bool:
            return [each["kind"] for each in await alarms_of(manager, camera)] == ["loitering", "intrusion"]

        await eventually(came_through, "a second alarm of another kind", every_s=0.1)
        assert told.of(f"/v1/alarms/{alarm['alarm_id']}") == ["access.alarm_raised"]
    assert [order["state"] for order in await orders_of(manager, alarm["alarm_id"])] == ["ORDER_STATE_DONE"]
