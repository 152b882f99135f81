"""A leak is reported and somebody comes in time; and one that nobody answers goes up the chain, once, whatever restarts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from linli.identity.v1.events_pb2 import HouseholdChanged, StaffChanged
from linli.workorders.v1.events_pb2 import TargetMissed
from servicekit.identifiers import new_id
from services.gateway.service import SERVICE as GATEWAY
from services.workorders.service import SERVICE as WORKORDERS
from tests.journeys.people import ALL_IN_ONE, Phone, Told, Town
from tests.support import UNLIMITED, Mint, Platform, Servers, TestClock, eventually, platform, principal

PHOTOS = (b"\xff\xd8\xff\xe0" + bytes(2000), b"\x89PNG\r\n\x1a\n" + bytes(3000))


async def upload(phone: Phone, content: bytes) -> str:
    """Sends a photo where the platform says. Returns its id."""
    asked = await phone.call("POST", "/v1/work-order-photos", {"bytes": str(len(content))})
    url = str(httpx.URL(phone.url).join(asked["url"]))
    answer = await phone.client.request(asked["method"], url, content=content, headers=asked["headers"])
    assert answer.is_success, answer.text
    return str(asked["photo_id"])


async def report_leak(phone: Phone, household_id: str, *photo_ids: str) -> Any:
    """Reports that water runs through the kitchen's ceiling."""
    categories = (await phone.call("GET", "/v1/work-order-categories"))["categories"]
    leak = next(each["category_id"] for each in categories if each["code"] == "water.leak")
    body = {
        "category_id": leak,
        "title": "厨房顶漏水",
        "household_id": household_id,
        "photo_ids": photo_ids,
        "contact_phone": "13800000011",
    }
    return await phone.call("POST", "/v1/work-orders", body, Idempotency_Key=str(new_id()))


async def actions(phone: Phone, path: str) -> list[str]:
    """What has happened to an order."""
    return [step["action"] for step in (await phone.call("GET", f"{path}/steps?page_size=100"))["steps"]]


@ALL_IN_ONE
async def test_a_leak_is_reported_with_photos_answered_in_time_quoted_repaired_paid_and_rated(town: Town) -> None:
    plan = town.demonstration
    home = next(each for each in plan.residents if each.phone == plan.resident_phone).household_id
    plumber_plan = plan.technicians[0]
    manager, resident, plumber = await town.manager(), await town.visitor(plan.resident_phone), await town.staff(plumber_plan.phone)
    async with resident.listening() as told, plumber.listening() as plumber_told:
        photo_ids = [await upload(resident, content) for content in PHOTOS]
        order = await report_leak(resident, home, *photo_ids)
        path = f"/v1/work-orders/{order['order_id']}"
        promised = datetime.fromisoformat(order["response_due_at"]) - datetime.fromisoformat(order["reported_at"])
        assert (order["state"], promised) == ("ORDER_STATE_DISPATCHED", timedelta(minutes=15))

        jobs = (await plumber.call("GET", "/v1/me/jobs", Accept_Language="en"))["jobs"]
        job = next(each for each in jobs if each["order_id"] == order["order_id"])
        assert "plumbing" in job["dispatch_reason"]
        shown = [(await town.client.get(str(httpx.URL(plan.gateway_url).join(photo["url"])))).content for photo in job["photos"]]
        assert shown == list(PHOTOS)

        accepted = await plumber.call("POST", f"{path}:accept", {})
        assert (accepted["state"], accepted["technician_account_id"]) == ("ORDER_STATE_ACCEPTED", plumber_plan.account_id)
        await plumber.call("POST", f"{path}:arrive", {})
        # Two hours and a half at 60.00, a metre and a half of pipe at 12.50: 168.75.
        items = [{"code": "labour", "quantity_hundredths": 250}, {"code": "pipe.ppr20", "quantity_hundredths": 150}]
        quote = await plumber.call("POST", f"{path}/quotes", {"items": items})
        assert quote["total_fen"] == "16875"
        early = await plumber.request("POST", f"{path}:complete", {"cause": "worn_pipe", "resolution": "换了水管"})
        assert (early.status_code, early.json()["code"]) == (409, "workorders.quote_open")
        await resident.call("POST", f"{path}/quotes/{quote['quote_id']}:agree", {})
        done = await plumber.call("POST", f"{path}:complete", {"cause": "worn_pipe", "resolution": "换了水管"})
        assert (done["amount_fen"], done["paid"]) == ("16875", False)

        async def payable() -> Any:
            # Billing hears of the charge a moment later.
            return (await resident.request("GET", f"/v1/charges/{done['charge_id']}")).is_success

        await eventually(payable, "the charge is known", every_s=0.1)
        payment = await town.pay(resident, done["charge_id"])
        assert payment["amount_fen"] == "16875"

        async def paid() -> Any:
            return (await resident.call("GET", path))["paid"]

        await eventually(paid, "the order is paid", every_s=0.1)
        rated = await resident.call("POST", f"{path}:rate", {"stars": 5, "text": "很快"})
        assert (rated["stars"], rated["missed"], rated["reopened"]) == (5, [], 0)
        steps = ["offered", "accepted", "arrived", "quoted", "done", "paid"]
        await told.hears(path, *(f"workorders.{step}" for step in steps))
        await plumber_told.hears(path, *(f"workorders.{step}" for step in ("offered", "agreed", "paid", "rated")))
    happened = ["reported", "triaged", "offered", "accepted", "arrived", "quoted", "agreed", "done", "paid", "rated"]
    assert await actions(resident, path) == happened

    today = f"{datetime.now(UTC) + timedelta(hours=8):%Y-%m-%d}"
    figures = await manager.call("GET", f"/v1/work-order-figures?from_day={today}&until_day={today}&by=FIGURES_BY_CATEGORY")
    leaks = next(group for group in figures["groups"] if group["group_id"] == order["category_id"])
    assert (leaks["reported"], leaks["response_within_permille"], leaks["stars_hundredths"]) == ("1", 1000, 500)


# Nobody answers. The clock is the test's own, so the services run in this process, twice and once more on the same database.

REPORTED_AT = datetime(2026, 3, 2, 2, 0, tzinfo=UTC)
EVERY_DAY = [{"weekday": day, "from_minute": 0, "until_minute": 1440} for day in range(1, 8)]
CHAIN = ("foreman", "property_manager", "residents_committee_member")
# What the foreman is told while there is time.
WARNED = ("workorders.nobody_on_shift", "workorders.warned", "workorders.warned")
MAY = {
    "property_manager": ("workorders.categories.write", "workorders.orders.read"),
    "foreman": ("workorders.orders.read",),
    "residents_committee_member": ("workorders.orders.read",),
}


class Street:
    """A community whose work orders can be stopped and started again."""

    def __init__(self, servers: Servers, database_url: str, blobs: Path) -> None:
        self.clock = TestClock(REPORTED_AT)
        self.community_id, self.household_id = new_id(), new_id()
        self.accounts: dict[str, UUID] = {role: new_id() for role in (*CHAIN, "resident")}
        self._servers, self._mint = servers, Mint()
        self._settings = {
            "LINLI_WORKORDERS_DATABASE_URL": database_url,
            "LINLI_WORKORDERS_DATA_KEYS": "k1:QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=",
            "LINLI_BLOBS_URL": str(blobs),
            **UNLIMITED,
        }

    @asynccontextmanager
    async def open(self, *, again: bool = True) -> AsyncIterator[tuple[Platform, dict[str, Phone]]]:
        """The services, for as long as the block, and everybody's phones by role."""
        async with (
            platform(
                self._servers, GATEWAY, WORKORDERS, clock=self.clock, mint=self._mint, settings=self._settings, keep_streams=again
            ) as running,
            httpx.AsyncClient(trust_env=False, timeout=15.0) as client,
        ):
            phones = {}
            for role, account_id in self.accounts.items():
                who = principal(*MAY.get(role, ()), community_id=self.community_id, account_id=account_id)
                phones[role] = Phone(client, running.http_urls["gateway"], self._mint.token(who))
            yield running, phones

    async def move_in(self, running: Platform, phones: dict[str, Phone]) -> None:
        """Tells work orders who lives and works here, and what is promised: an answer within 15 minutes."""
        home = HouseholdChanged(
            household_id=str(self.household_id), building_id=str(new_id()), account_ids=[str(self.accounts["resident"])]
        )
        await running.publish(home, self.community_id, version=1)
        for role in CHAIN:
            await running.publish(StaffChanged(account_id=str(self.accounts[role]), roles=[role]), self.community_id, version=1)
        manager = phones["property_manager"]
        terms = {"working_hours": EVERY_DAY, "escalation_roles": CHAIN, "offer_s": 3600, "reopen_days": 7}
        await manager.call("PUT", "/v1/work-order-terms", terms)
        category = {"code": "water.leak", "name_zh": "漏水", "name_en": "A leak", "kind": "ORDER_KIND_REPAIR"}
        await manager.call("POST", "/v1/work-order-categories", category)

    async def leak(self, resident: Phone) -> str:
        """Reports a leak as soon as it is known who lives here. Returns the order's path."""

        async def report() -> Any:
            try:
                return await report_leak(resident, str(self.household_id))
            except AssertionError:
                return None

        return f"/v1/work-orders/{(await eventually(report))['order_id']}"


async def has_missed(phone: Phone, path: str, times: int) -> None:
    async def missed() -> bool:
        return (await actions(phone, path)).count("missed") == times

    await eventually(missed, f"{times} steps of the chain", every_s=0.05)


async def test_a_leak_that_nobody_answers_goes_up_the_chain_at_15_minutes_once_whatever_restarts(servers: Servers, tmp_path: Path) -> None:
    told: dict[str, Told] = {}
    async with servers.database(WORKORDERS) as database_url:
        street = Street(servers, database_url, tmp_path)
        async with street.open(again=False) as (running, phones):
            await street.move_in(running, phones)
            async with phones["foreman"].listening() as told["foreman"], phones["resident"].listening() as told["resident"]:
                path = await street.leak(phones["resident"])
                order = await phones["resident"].call("GET", path)
                assert datetime.fromisoformat(order["response_due_at"]) == REPORTED_AT + timedelta(minutes=15)
                street.clock.now = REPORTED_AT + timedelta(minutes=14, seconds=59)
                await told["foreman"].hears(path, *WARNED)

        # It is due while the service is down.
        street.clock.now = REPORTED_AT + timedelta(minutes=15)
        async with street.open() as (running, phones), phones["foreman"].listening(told["foreman"]):
            await has_missed(phones["foreman"], path, 1)
            await told["foreman"].hears(path, *WARNED, "workorders.missed")
            missed = await running.event(TargetMissed)
            assert (missed.message.target, missed.message.level, missed.message.role) == ("response", 1, "foreman")
            assert missed.message.due_at.ToDatetime(UTC) == REPORTED_AT + timedelta(minutes=15)

        # It was told; another start tells it no second time, and later the next in the chain.
        street.clock.now = REPORTED_AT + timedelta(minutes=23)
        async with street.open() as (running, phones), phones["foreman"].listening(told["foreman"]):
            await has_missed(phones["foreman"], path, 2)
            async with phones["resident"].listening(told["resident"]), phones["property_manager"].listening(Told(last_id="0")) as manager:
                await manager.hears(path, "workorders.missed")
                await told["resident"].hears(path, "workorders.opened", "workorders.late")
            assert [event.message.level for event in running.events(TargetMissed)] == [2]
        assert told["foreman"].of(path) == [*WARNED, "workorders.missed"]
