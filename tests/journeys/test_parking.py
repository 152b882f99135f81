"""A car comes in, parks, pays and leaves."""

import json
import random
from datetime import UTC, datetime
from typing import Any

import psutil

from tests.journeys.people import Town, Up
from tests.support import eventually


def new_plate() -> str:
    """A plate that no other test uses."""
    return f"京{random.choice('ABCDEFGHJK')}{random.randrange(100_000):05}"


def new_phone() -> str:
    """A phone that no other test uses."""
    return f"139{random.randrange(100_000_000):08}"


def test_no_process_of_the_platform_shows_a_secret_among_its_arguments(up: Up) -> None:
    secrets = [*json.loads((up.folder / "secrets.json").read_text()).values(), (up.folder / "postgres" / "password").read_text()]
    arguments = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    for program in ("console.main serve", "postgres", "nats-server", "sandbox_provider"):
        assert any(program in each for each in arguments), program
    assert [each for each in arguments if any(secret in each for secret in secrets)] == []


async def test_a_visitor_comes_in_pays_on_the_phone_and_leaves_within_grace(town: Town) -> None:
    plate, manager = new_plate(), await town.manager()
    assert (await town.push_camera(entry=True).push(plate, datetime.now(UTC))).opened
    stay = await town.session(manager, plate, "OPEN")

    phone = await town.visitor(new_phone())
    quote = await town.quote(phone, plate)
    assert int(quote["amount_fen"]) == 500
    assert sum(int(line["amount_fen"]) for line in quote["lines"]) == 500
    payment = await town.pay(phone, quote["charge_id"])
    assert int(payment["amount_fen"]) == 500

    lane = town.lane(entry=False, protocol="push")
    opened_before = len(town.gate(lane).opened)
    assert await wait_for_nothing_owed(town, plate)
    await town.push_camera(entry=False).push(plate, datetime.now(UTC))
    assert await town.gate(lane).opens_beyond(opened_before, within_s=3)
    ended = await town.session(manager, plate, "LEFT")
    assert ended["session_id"] == stay["session_id"]
    assert (ended["amount_fen"], ended["paid_fen"]) == ("500", "500")
    receipt = await phone.call("GET", f"/v1/payments/{payment['payment_id']}")
    assert receipt["provider_payment_id"]
    assert receipt["text"]


async def wait_for_nothing_owed(town: Town, plate: str) -> Any:
    """Waits until parking has heard of the payment."""
    phone = await town.visitor(new_phone())

    async def settled() -> bool:
        return int((await town.quote(phone, plate))["amount_fen"]) == 0

    return await eventually(settled, deadline_s=5)


async def test_a_resident_with_a_month_pass_comes_and_goes_for_free(town: Town) -> None:
    manager, plate = await town.manager(), "京B67890"
    entry, leave = town.lane(entry=True, protocol="viid"), town.lane(entry=False, protocol="viid")
    for lane, camera, state in (
        (entry, town.viid_camera(entry=True), "OPEN"),
        (leave, town.viid_camera(entry=False), "LEFT"),
    ):
        before = len(town.gate(lane).opened)
        assert await camera.register() == 0
        assert await camera.report(plate, datetime.now(UTC), random.randrange(100_000)) == 0
        assert await town.gate(lane).opens_beyond(before, within_s=3)
        session = await town.session(manager, plate, state)
    assert session["admission"] == "permit"
    assert session["amount_fen"] == "0"


async def test_an_unpaid_car_at_the_exit_is_let_out_by_its_payment_within_a_second(town: Town) -> None:
    plate, manager = new_plate(), await town.manager()
    await town.push_camera(entry=True).push(plate, datetime.now(UTC))
    await town.session(manager, plate, "OPEN")
    lane = town.lane(entry=False, protocol="push")
    before = len(town.gate(lane).opened)
    assert not (await town.push_camera(entry=False).push(plate, datetime.now(UTC))).opened
    assert len(town.gate(lane).opened) == before

    phone = await town.visitor(new_phone())
    await town.pay(phone, (await town.quote(phone, plate))["charge_id"])
    assert await town.gate(lane).opens_beyond(before, within_s=1)
    assert (await town.session(manager, plate, "LEFT"))["paid_fen"] == "500"


async def test_a_payment_does_not_open_for_a_car_that_has_left(town: Town) -> None:
    plate, other, manager = new_plate(), new_plate(), await town.manager()
    for car in (plate, other):
        await town.push_camera(entry=True).push(car, datetime.now(UTC))
        await town.session(manager, car, "OPEN")
    lane = town.lane(entry=False, protocol="push")
    before = len(town.gate(lane).opened)
    await town.push_camera(entry=False).push(plate, datetime.now(UTC))
    await town.push_camera(entry=False).push(other, datetime.now(UTC))

    phone = await town.visitor(new_phone())
    await town.pay(phone, (await town.quote(phone, plate))["charge_id"])
    await wait_for_nothing_owed(town, plate)
    assert len(town.gate(lane).opened) == before
    assert await town.session(manager, plate, "OPEN")


async def test_the_owner_is_told_live_and_after_a_pause(town: Town) -> None:
    phone = await town.visitor(town.demonstration.resident_phone)
    headers = {"Authorization": f"Bearer {phone.token}", "Accept-Language": "en"}
    url = f"{phone.url}/v1/me/notifications"

    async def next_notice(resume: str) -> tuple[str, str]:
        async with town.client.stream("GET", url, headers={**headers, **({"Last-Event-ID": resume} if resume else {})}) as stream:
            assert stream.status_code == 200
            if not resume:
                await town.push_camera(entry=True).push("京AD12345", datetime.now(UTC))
            identifier = ""
            async for line in stream.aiter_lines():
                if line.startswith("id:"):
                    identifier = line[3:].strip()
                elif line.startswith("data:") and identifier:
                    return identifier, line[5:].strip()
        raise AssertionError("the stream ended")

    identifier, first = await next_notice("")
    assert "parking.vehicle_entered" in first
    await town.push_camera(entry=False).push("京AD12345", datetime.now(UTC))
    later, second = await next_notice(identifier)
    assert later != identifier
    assert second != first
