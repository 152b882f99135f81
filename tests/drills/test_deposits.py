"""Every deposit comes three times, in any order, while processes and servers are killed: the ledger equals the model.

The model: each record counts once, for the resident whose card it was, a point for every whole hundred grams. `make drill` runs it with
two thousand deposits, `make test` with fewer.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from console.demonstration import Demonstration, DemonstrationBin
from console.simulator.bins import Bin
from console.up import Local, Options, local_platform
from linli.device.v1.events_pb2 import BinDeposited
from linli.identity.v1.events_pb2 import HouseholdChanged
from linli.points.v1 import points_pb2
from linli.waste.v1 import waste_pb2
from linli.waste.v1.events_pb2 import CATEGORY_RECYCLABLE, DepositCounted
from servicekit.events import envelope
from servicekit.identifiers import derived_id, new_id
from servicekit.times import to_timestamp
from services.points import reactions
from services.points.service import SERVICE as POINTS
from services.waste import deposit_operations
from services.waste.service import SERVICE as WASTE
from tests.drills.books import check_ledger
from tests.drills.killing import insist, killing, manager_again
from tests.journeys.people import Phone, Town
from tests.support import UNLIMITED, Platform, Servers, eventually, platform, principal

DEPOSITS = int(os.environ.get("LINLI_DRILL_DEPOSITS", "200"))
RESIDENTS = 20
BINS = 4
SENT = 3
SEND_EVERY_S = 0.05
KILL_EVERY_S = (1.0, 2.5)
GRAMS_PER_POINT = 100
CAPACITY_GRAMS = 2_000_000
COMPARTMENT = {"name": "recyclable", "category": "CATEGORY_RECYCLABLE", "capacity_grams": str(CAPACITY_GRAMS)}
RULE = {
    "rule_id": "waste.recyclable",
    "source": "SOURCE_WASTE_DEPOSIT",
    "category": "CATEGORY_RECYCLABLE",
    "beneficiary": "BENEFICIARY_RESIDENT",
    "points": "1",
    "per": str(GRAMS_PER_POINT),
    "text_zh": "投放可回收物",
    "text_en": "Recycling",
}
TERMS = {"years_kept": 1, "grant_points_max": "0", "gift_daily_points_max": "0", "gift_monthly_points_max": "0", "hold_hours": 24}


def points_of(grams: list[int]) -> int:
    """What the model gives for deposits."""
    return sum(each // GRAMS_PER_POINT for each in grams)


def shares(total: int) -> list[tuple[int, int]]:
    """Deposits: whose, and how many grams; little enough that nobody asks questions."""
    chance = random.Random(11)
    return [(number % RESIDENTS, chance.randint(60, min(2000, 55_000 * RESIDENTS // total))) for number in range(total)]


# With everything killed at random.


@dataclass(slots=True)
class Sorting:
    """The residents by their cards, and the bins."""

    accounts: dict[str, str]
    bins: list[Bin]


async def make_residents(manager: Phone) -> dict[str, str]:
    """Households of one, each with a card. Returns the accounts by card."""
    building = await manager.call("POST", "/v1/buildings", {"name": "drill"})
    accounts = {}
    for number in range(RESIDENTS):
        unit = {"label": f"{number}", "exclusive_area_cm2": "500000"}
        made = await manager.call("POST", f"/v1/buildings/{building['building_id']}/units", unit)
        home = await manager.call("POST", "/v1/households", {"unit_id": made["unit_id"]})
        member = {"phone": f"1377000{number:04}", "name": f"drill {number}", "kind": "MEMBER_KIND_OWNER"}
        household = await manager.call("POST", f"/v1/households/{home['household_id']}/members", member)
        accounts[f"DRILL{number:04}"] = household["members"][0]["account"]["account_id"]
    for card, account_id in accounts.items():

        async def register(card: str = card, account_id: str = account_id) -> Any:
            answer = await manager.request("POST", "/v1/waste/cards", {"card_number": card, "account_id": account_id})
            return True if answer.is_success else None  # until waste has heard who lives here

        await insist(f"{card} is registered", register)
    return accounts


async def make_bins(manager: Phone, plan: Demonstration) -> list[Bin]:
    """Bins of the drill's own."""
    bins = []
    for number in range(BINS):
        device_id = f"drill-bin-{number}"
        body = {"device_id": device_id, "name": device_id, "kind": "DEVICE_KIND_BIN"}
        secret = (await manager.call("POST", "/v1/devices", body))["secret"]
        entered = {"name": device_id, "device_id": device_id, "place": {"latitude": 31.2, "longitude": 121.4}}
        made = await manager.call("POST", "/v1/waste/bins", {**entered, "compartments": [COMPARTMENT]})
        described = DemonstrationBin(
            bin_id=made["bin_id"], name=device_id, device_id=device_id, capacity_grams={"recyclable": CAPACITY_GRAMS}
        )
        bins.append(Bin(plan.mqtt_host, plan.mqtt_port, described, secret, {"recyclable": 0}))
    return bins


@asynccontextmanager
async def sorting(manager: Phone, plan: Demonstration) -> AsyncIterator[Sorting]:
    """Rules, residents and bins, connected."""
    # Bins tell the time in whole seconds. The demonstration's own rules may have begun in this one.
    begin = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
    rules = {"effective_from": begin.isoformat(), "rules": [RULE], "terms": TERMS, "changes_zh": "演练"}
    await manager.call("POST", "/v1/points/rules", rules)
    started = Sorting(await make_residents(manager), await make_bins(manager, plan))
    tasks = [asyncio.create_task(each.run()) for each in started.bins]

    async def are_in_force() -> bool:
        return datetime.now(UTC) >= begin

    try:
        await eventually(are_in_force, "the drill's rules are in force")
        yield started
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def bring(started: Sorting) -> dict[str, list[int]]:
    """All deposits, each three times, shuffled for each bin. Returns the grams by account; ends when the broker has stored them."""
    brought: dict[str, list[int]] = {account_id: [] for account_id in started.accounts.values()}
    records: list[list[bytes]] = [[] for _ in started.bins]
    cards = list(started.accounts)
    for number, (resident, grams) in enumerate(shares(DEPOSITS)):
        records[number % BINS].append(started.bins[number % BINS].weigh(cards[resident], "recyclable", grams))
        brought[started.accounts[cards[resident]]].append(grams)
    chance = random.Random(13)

    async def send(sender: Bin, own: list[bytes]) -> None:
        again = own * SENT
        chance.shuffle(again)
        for record in again:
            await sender.send(record)
            await asyncio.sleep(SEND_EVERY_S)

    await asyncio.gather(*(send(sender, own) for sender, own in zip(started.bins, records, strict=True)))
    return brought


async def check_points(local: Local, town: Town, brought: dict[str, list[int]]) -> None:
    """Every resident has what the model says, and the ledger is whole."""
    manager = await manager_again(town)
    expected = {account_id: points_of(grams) for account_id, grams in brought.items()}

    async def settled() -> bool:
        try:
            answers = [await manager.call("GET", f"/v1/points/residents/{account_id}") for account_id in expected]
        except (httpx.HTTPError, AssertionError):
            return False
        found.update({answer["account_id"]: int(answer["points"]) for answer in answers})
        return found == expected

    found: dict[str, int] = {}
    await eventually(settled, "every resident has what the model says", deadline_s=90)
    await check_ledger(local.postgres.url("linli_points"))


@pytest.mark.timeout(600)
async def test_every_deposit_is_paid_once_whatever_is_sent_again_and_whoever_is_killed(tmp_path: Path) -> None:
    options = Options(folder=tmp_path, separate=True, settings=UNLIMITED)
    async with local_platform(options) as local, httpx.AsyncClient(trust_env=False, timeout=10) as client:
        plan = local.demonstration
        assert isinstance(plan, Demonstration)
        town = Town(plan, tmp_path, client)
        async with sorting(await town.manager(), plan) as started:
            async with killing(local, KILL_EVERY_S) as kills:
                brought = await bring(started)
            print("killed:", kills)
            assert sum(kills.values()) >= DEPOSITS // 100
            await check_points(local, town, brought)


# Without one of the defences.


@dataclass(slots=True)
class Count:
    """Waste and points, one bin, and residents."""

    running: Platform
    community_id: UUID
    accounts: dict[str, UUID]
    staff: Any

    async def deliver(self, message: Any, event_id: str) -> None:
        """Delivers an event once more, as a broker may that has lost what it knew of duplicates."""
        body = envelope(message, self.community_id, event_id=event_id, occurred_at=datetime.now(UTC))
        headers = {**body.headers("drill"), "Nats-Msg-Id": str(new_id())}
        await self.running.host.running[0].publisher.send(body.subject, body.body, headers)

    async def points(self) -> dict[UUID, int]:
        """What each resident has."""
        answers = {}
        for account_id in self.accounts.values():
            request = points_pb2.GetResidentPointsRequest(account_id=str(account_id))
            answers[account_id] = (await self.staff.call("linli.points.v1.PointsService/GetResidentPoints", request)).points
        return answers


@asynccontextmanager
async def count(servers: Servers) -> AsyncIterator[Count]:
    """A community that has begun to sort."""
    permissions = ("points.rules.write", "points.residents.read", "waste.bins.write", "waste.cards.write")
    settings = {"LINLI_WASTE_CODE_KEY": "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="}
    async with platform(servers, WASTE, POINTS, settings=settings) as running:
        somebody = principal(*permissions, modules=("points", "waste"))
        staff = running.caller(somebody)
        accounts = {f"DRILL{number:04}": new_id() for number in range(RESIDENTS)}
        drill = Count(running, somebody.community_id, accounts, staff)
        household = HouseholdChanged(
            household_id=str(new_id()), building_id=str(new_id()), account_ids=[str(each) for each in accounts.values()]
        )
        await running.publish(household, somebody.community_id, version=1)
        await publish_rules(staff)
        compartment = waste_pb2.Compartment(name="recyclable", category=CATEGORY_RECYCLABLE, capacity_grams=CAPACITY_GRAMS)
        place = waste_pb2.Place(latitude=31.2, longitude=121.4)
        entered = waste_pb2.CreateBinRequest(name="drill", device_id="drill-bin", place=place, compartments=[compartment])
        await staff.call("linli.waste.v1.WasteService/CreateBin", entered)
        for card, account_id in accounts.items():
            await eventually(partial(registered, staff, card, account_id))
        yield drill


async def publish_rules(staff: Any) -> None:
    rule = points_pb2.Rule(
        rule_id="waste.recyclable",
        source=points_pb2.SOURCE_WASTE_DEPOSIT,
        beneficiary=points_pb2.BENEFICIARY_RESIDENT,
        points=1,
        per=GRAMS_PER_POINT,
        text_zh="投放",
        text_en="Sorting",
    )
    request = points_pb2.PublishRulesRequest(
        effective_from=to_timestamp(datetime.now(UTC) - timedelta(seconds=30)),
        rules=[rule],
        terms=points_pb2.Terms(years_kept=1, hold_hours=24),
        changes_zh="演练",
    )
    await staff.call("linli.points.v1.PointsService/PublishRules", request)


async def registered(staff: Any, card: str, account_id: UUID) -> bool:
    try:
        await staff.call(
            "linli.waste.v1.WasteService/RegisterCard", waste_pb2.RegisterCardRequest(card_number=card, account_id=str(account_id))
        )
    except Exception:
        return False
    return True


async def bring_again_and_again(drill: Count, deposits: int) -> dict[UUID, int]:
    """Delivers every event of every deposit three times, shuffled, and returns what the model says."""
    chance = random.Random(17)
    now = to_timestamp(datetime.now(UTC))
    cards = list(drill.accounts)
    model: Counter[UUID] = Counter(dict.fromkeys(drill.accounts.values(), 0))
    messages = []
    for number, (resident, grams) in enumerate(shares(deposits)):
        model[drill.accounts[cards[resident]]] += points_of([grams])
        message = BinDeposited(
            device_id="drill-bin",
            record_id=f"record-{number}",
            card_number=cards[resident],
            compartment="recyclable",
            grams=grams,
            fill_permille=-1,
            occurred_at=now,
            received_at=now,
        )
        messages += [(message, str(derived_id("drill", str(number))))] * SENT
    chance.shuffle(messages)
    for message, event_id in messages:
        await drill.deliver(message, event_id)

    async def counted() -> bool:
        return len(drill.running.events(DepositCounted)) >= deposits

    await eventually(counted, "every deposit counts")
    again = [(event.message, event.event_id) for event in drill.running.events(DepositCounted)] * (SENT - 1)
    chance.shuffle(again)
    for counted_again, event_id in again:
        await drill.deliver(counted_again, event_id)
    return dict(model)


async def check_model(drill: Count, model: dict[UUID, int]) -> None:
    async def as_it_says() -> bool:
        return await drill.points() == model

    await eventually(as_it_says, "the ledger equals the model")
    last = await settle(drill)
    assert await drill.points() == {**model, last: model[last] + 1}
    await check_ledger(drill.running.database_urls["points"])


async def settle(drill: Count) -> UUID:
    """Returns when a deposit of one point that is brought last has come through, and so has everything before it. Says whose it is."""
    last = next(iter(drill.accounts.values()))
    before = (await drill.points())[last]
    deposit = DepositCounted(
        deposit_id=str(new_id()), revision=1, account_id=str(last), category=CATEGORY_RECYCLABLE, grams=GRAMS_PER_POINT
    )
    deposit.occurred_at.GetCurrentTime()
    await drill.deliver(deposit, str(new_id()))

    async def is_through() -> bool:
        return (await drill.points())[last] > before

    await eventually(is_through, "the last deposit is through")
    return last


async def test_every_deposit_counts_once_however_often_its_events_are_delivered(servers: Servers) -> None:
    async with count(servers) as drill:
        await check_model(drill, await bring_again_and_again(drill, 100))


async def test_the_drill_fails_without_the_key_that_makes_an_earning_idempotent(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reactions, "deposit_claim_id", lambda _deposit_id, _revision: new_id())
    await check_that_it_fails(servers)


async def test_the_drill_fails_without_what_waste_remembers_of_records(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    # Events that are taken in batches have no row each in the inbox: a record's own key is their inbox.
    monkeypatch.setattr(deposit_operations, "derived_id", lambda *_parts: new_id())
    await check_that_it_fails(servers)


async def check_that_it_fails(servers: Servers) -> None:
    async with count(servers) as drill:
        model = await bring_again_and_again(drill, 20)
        await settle(drill)
        found = await drill.points()
    assert sum(found.values()) > sum(model.values()) + 1
