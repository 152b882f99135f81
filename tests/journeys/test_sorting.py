"""A resident sorts waste, is given points for it, and spends them; an inspector looks into the bin."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from console.simulator.bins import Bin
from tests.journeys.people import Phone, Town
from tests.support import eventually

# A phone that asks more often than this is asked to wait.
ASK_EVERY_S = 0.2

# People of the demonstration. One phone is sent one code a minute, so each test has residents of its own.
INSPECTOR_PHONE, NEIGHBOUR_PHONE, ANOTHER_PHONE = "13800000007", "13800000014", "13800000018"


@asynccontextmanager
async def working_bin(town: Town) -> AsyncIterator[Bin]:
    """The demonstration's first bin, connected."""
    plan = town.demonstration
    described = plan.bins[0]
    grams = dict.fromkeys(described.capacity_grams, 0)
    working = Bin(plan.mqtt_host, plan.mqtt_port, described, plan.secrets[described.device_id], grams)
    task = asyncio.create_task(working.run())
    try:
        yield working
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def points_of(phone: Phone) -> int:
    """What the resident has."""
    return int((await phone.call("GET", "/v1/me/points"))["points"])


async def worth(phone: Phone, rule_id: str, grams: int) -> int:
    """What the rules in force give for a deposit."""
    rules = (await phone.call("GET", "/v1/points/rules"))["rules"]
    rule = next(each for each in rules if each["rule_id"] == rule_id)
    return grams // int(rule["per"]) * int(rule["points"])


async def has(phone: Phone, points: int) -> None:
    async def as_many() -> bool:
        return await points_of(phone) == points

    await eventually(as_many, f"the resident has {points} points", every_s=ASK_EVERY_S)


async def deposit_of(phone: Phone, grams: int) -> Any:
    """The resident's deposit of this weight; waits for it."""

    async def find() -> Any:
        found = (await phone.call("GET", "/v1/me/waste/deposits"))["deposits"]
        return next((each for each in found if each["grams"] == str(grams)), None)

    return await eventually(find, f"a deposit of {grams} g", every_s=ASK_EVERY_S)


async def test_waste_becomes_points_points_a_coffee_and_contamination_takes_points_back(town: Town) -> None:
    manager, resident = await town.manager(), await town.visitor(town.demonstration.resident_phone)
    account_id = (await resident.call("GET", "/v1/me"))["account"]["account_id"]
    card = next(each.card_number for each in town.demonstration.residents if each.account_id == account_id)
    before = await points_of(resident)

    async with working_bin(town) as sorting:
        light, heavy = await worth(resident, "waste.recyclable", 1240), await worth(resident, "waste.recyclable", 2630)
        record = sorting.weigh(card, "recyclable", 1240)
        # The bin lost its connection, and sends again what it does not know to be stored.
        for again in (record, record, record):
            await sorting.send(again)
        await has(resident, before + light)
        await sorting.send(sorting.weigh(card, "recyclable", 2630))
        await has(resident, before + light + heavy)

    entry = (await resident.call("GET", "/v1/me/points/entries?page_size=1"))["entries"][0]
    assert (entry["change"], entry["rule_id"], entry["rules_version"]) == (str(heavy), "waste.recyclable", 1)

    items = (await resident.call("GET", "/v1/points/items"))["items"]
    coffee = next(item for item in items if item["name_en"] == "A cup of coffee")
    reserved = await resident.call(
        "POST", "/v1/me/points/redemptions", {"item_id": coffee["item_id"], "quantity": 1}, Idempotency_Key="coffee"
    )
    asked_again = await resident.call(
        "POST", "/v1/me/points/redemptions", {"item_id": coffee["item_id"], "quantity": 1}, Idempotency_Key="coffee"
    )
    assert asked_again == reserved
    assert (await resident.call("GET", "/v1/me/points"))["held"] == "10"
    handed_over = await manager.call("POST", "/v1/points/redemptions:confirm", {"pickup_code": reserved["pickup_code"]})
    assert handed_over["state"] == "REDEMPTION_STATE_PICKED_UP"
    assert await points_of(resident) == before + light + heavy - 10

    inspector = await town.visitor(INSPECTOR_PHONE)
    found = await deposit_of(resident, 2630)
    assert found["state"] == "DEPOSIT_STATE_COUNTED"
    reported = await inspector.call("POST", f"/v1/waste/deposits/{found['deposit_id']}:reportContamination", {"note": "混有厨余"})
    assert reported["state"] == "DEPOSIT_STATE_CONTAMINATED"
    await has(resident, before + light - 10)
    entry = (await resident.call("GET", "/v1/me/points/entries?page_size=1"))["entries"][0]
    assert (entry["kind"], entry["change"]) == ("reversal", str(-heavy))


async def test_a_resident_identifies_by_code_or_by_standing_at_the_bin(town: Town) -> None:
    resident = await town.visitor(NEIGHBOUR_PHONE)
    described = town.demonstration.bins[0]
    before = await points_of(resident)
    async with working_bin(town) as sorting:
        code = (await resident.call("POST", "/v1/me/waste/codes", {}))["code"]
        record = {**json.loads(sorting.weigh("", "kitchen", 800)), "code": code}
        await sorting.send(json.dumps(record).encode())
        by_code = await worth(resident, "waste.kitchen", 800)
        await has(resident, before + by_code)
        await resident.call("POST", f"/v1/me/waste/bins/{described.bin_id}:approach", {})
        await sorting.send(sorting.weigh("", "kitchen", 1000))
        await has(resident, before + by_code + await worth(resident, "waste.kitchen", 1000))


async def test_tonights_rounds_are_planned_and_compared_with_the_fixed_ones(town: Town) -> None:
    manager = await town.manager()
    async with working_bin(town) as sorting:
        for _ in range(6):
            await sorting.send(sorting.weigh("", "recyclable", 3500))

        async def is_nearly_full() -> bool:
            found = await manager.call("GET", f"/v1/waste/bins/{sorting.plan.bin_id}")
            levels = {each["name"]: int(each["fill_permille"]) for each in found["compartments"]}
            return levels["recyclable"] >= 800

        await eventually(is_nearly_full, "the bin is nearly full", every_s=ASK_EVERY_S)
    plan = await manager.call("POST", "/v1/waste/collection-plans", {})
    stops = [stop["bin_id"] for each in plan["rounds"] for stop in each["stops"]]
    assert sorting.plan.bin_id in stops
    assert int(plan["planned"]["distance_m"]) <= int(plan["fixed"]["distance_m"])
    assert plan["planned"]["emptyings"] <= plan["fixed"]["emptyings"]
    assert await manager.call("GET", f"/v1/waste/collection-plans/{plan['day']}") == plan


async def test_figures_and_statements_can_be_downloaded(town: Town) -> None:
    manager, resident = await town.manager(), await town.visitor(ANOTHER_PHONE)
    today = datetime.now(UTC) + timedelta(hours=8)
    period = f"from_month={today:%Y-%m}&until_month={today:%Y-%m}"
    figures = await manager.call("GET", f"/v1/waste/figures?{period}")
    table = await manager.request("GET", f"/v1/waste/figures.csv?{period}")
    assert table.headers["content-type"].startswith("text/csv")
    assert f"{today:%Y-%m}" in table.text
    assert figures["months"][0]["month"] == f"{today:%Y-%m}"
    days = f"from_day={today:%Y-%m-%d}&until_day={today:%Y-%m-%d}"
    for statement_format, kind in (("PDF", "application/pdf"), ("CSV", "text/csv")):
        answer = await resident.request("GET", f"/v1/me/points/statement?{days}&format=STATEMENT_FORMAT_{statement_format}")
        assert answer.is_success, answer.text
        assert answer.headers["content-type"].startswith(kind)
