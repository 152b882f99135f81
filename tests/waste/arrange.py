"""Builders for tests of waste: a running service with a clock of the test's own, communities with residents, and bins that send."""

import base64
import itertools
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from google.protobuf.message import Message

from linli.device.v1.events_pb2 import BinDeposited, BinReported
from linli.identity.v1.events_pb2 import HouseholdChanged
from linli.waste.v1 import events_pb2 as events
from linli.waste.v1 import waste_pb2 as pb
from servicekit.households import find_homes
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from services.waste.service import SERVICE
from tests.community import OwnCommunity, Town
from tests.support import Servers, TestClock, eventually, platform, principal

CONTRACT = pb.DESCRIPTOR.services_by_name["WasteService"]
CODE_KEY = base64.b64encode(bytes(range(32))).decode()
PERMISSIONS = [
    "waste.bins.write",
    "waste.bins.read",
    "waste.cards.write",
    "waste.cards.read",
    "waste.deposits.read",
    "waste.deposits.review",
    "waste.contamination.report",
    "waste.collections.write",
    "waste.collections.read",
    "waste.collections.record",
]
# Monday noon in Shanghai.
NOON = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)
COMPARTMENTS = {
    "recyclable": events.CATEGORY_RECYCLABLE,
    "kitchen": events.CATEGORY_KITCHEN,
    "hazardous": events.CATEGORY_HAZARDOUS,
    "other": events.CATEGORY_OTHER,
}
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Resident:
    """Somebody who lives in a community."""

    community: "Community"
    account_id: UUID
    household_id: UUID

    async def call(self, method: str, request: Message) -> Any:
        """Calls a method as somebody who is only signed in."""
        return await self.community.call(method, request, account_id=self.account_id, permissions=())

    async def card(self, number: str = "") -> str:
        """A new card of theirs."""
        number = number or f"CARD{next(_numbers):06d}"
        await self.community.call("RegisterCard", pb.RegisterCardRequest(card_number=number, account_id=str(self.account_id)))
        return number

    async def code(self) -> str:
        """What their phone shows now."""
        return str((await self.call("CreateIdentificationCode", pb.CreateIdentificationCodeRequest())).code)

    async def deposits(self) -> Sequence[pb.Deposit]:
        """What they see of their deposits."""
        return list((await self.call("ListMyDeposits", pb.ListMyDepositsRequest(page_size=100))).deposits)

    async def counted(self) -> list[events.DepositCounted]:
        """Deposits that were told to whoever awards for them."""
        told = self.community.town.running.events(events.DepositCounted)
        return [event.message for event in told if event.message.account_id == str(self.account_id)]


@dataclass(slots=True)
class Community(OwnCommunity):
    """A community, and somebody who may do everything with its bins."""

    contract = CONTRACT

    async def call(
        self, method: str, request: Message, *, account_id: UUID | None = None, permissions: Sequence[str] = PERMISSIONS, **metadata: str
    ) -> Any:
        """Calls a method as staff, or as whoever is named."""
        who = principal(*permissions, community_id=self.community_id, account_id=account_id or self.account_id, modules=["waste"])
        return await self.send(who, method, request, **metadata)

    async def resident(self) -> Resident:
        """Somebody who lives here, known to the service."""
        found = Resident(self, new_id(), new_id())
        await self.move(found, [found.account_id], version=1)
        return found

    async def move(self, resident: Resident, account_ids: Sequence[UUID], version: int) -> None:
        """Their household is now these accounts; returns when the service knows."""
        event = HouseholdChanged(
            household_id=str(resident.household_id),
            building_id=str(new_id()),
            account_ids=[str(account_id) for account_id in account_ids],
        )
        await self.publish(event, version=version)

        async def is_known() -> bool:
            async with self.town.running.transaction("waste", self.community_id) as tx:
                return (resident.account_id in await find_homes(tx, [resident.account_id])) == (resident.account_id in account_ids)

        await eventually(is_known, "the household is known")

    async def bin(self, *, building_id: UUID | None = None, capacity_grams: int = 100_000) -> "SmartBin":
        """A bin with the four compartments."""
        number = next(_numbers)
        request = pb.CreateBinRequest(
            name=f"bin {number:04d}",
            device_id=f"bin-{number}",
            building_id=str(building_id or ""),
            place=pb.Place(latitude=31.2, longitude=121.5),
            compartments=[
                pb.Compartment(name=name, category=category, capacity_grams=capacity_grams) for name, category in COMPARTMENTS.items()
            ],
        )
        created = await self.call("CreateBin", request)
        return SmartBin(self, created.bin_id, created.device_id)

    async def deposits(self, **only: Any) -> list[pb.Deposit]:
        """What staff see, newest first."""
        return list((await self.call("ListDeposits", pb.ListDepositsRequest(page_size=100, **only))).deposits)

    async def alarms(self) -> list[pb.BinAlarm]:
        """What is wrong with bins."""
        return list((await self.call("ListBinAlarms", pb.ListBinAlarmsRequest(open_only=True))).alarms)

    async def figures(self, from_month: str = "2026-03", until_month: str = "2026-03") -> pb.WasteFigures:
        """What was deposited."""
        request = pb.GetWasteFiguresRequest(from_month=from_month, until_month=until_month)
        figures: pb.WasteFigures = await self.call("GetWasteFigures", request, permissions=())
        return figures


@dataclass(slots=True)
class SmartBin:
    """A bin that sends as ingest publishes it. `device_id` need not be registered."""

    community: Community
    bin_id: str
    device_id: str
    # How far its clock is ahead.
    ahead: timedelta = timedelta()
    _records: Iterator[int] = field(default_factory=itertools.count)

    async def look(self) -> pb.Bin:
        """What is known of it."""
        found: pb.Bin = await self.community.call("GetBin", pb.GetBinRequest(bin_id=self.bin_id))
        return found

    async def compartment(self, name: str) -> pb.Compartment:
        """What is known of one of its compartments."""
        return next(each for each in (await self.look()).compartments if each.name == name)

    def weighing(
        self,
        grams: int = 1240,
        compartment: str = "recyclable",
        *,
        record_id: str = "",
        card: str = "",
        code: str = "",
        fill: int = -1,
        at: datetime | None = None,
        late: timedelta = timedelta(),
    ) -> BinDeposited:
        """What it sends of a deposit that was made at `at`, now by default, and is received `late`."""
        at = at or self.community.clock.now
        return BinDeposited(
            device_id=self.device_id,
            record_id=record_id or f"r{next(self._records)}",
            card_number=card,
            code=code,
            compartment=compartment,
            grams=grams,
            fill_permille=fill,
            occurred_at=to_timestamp(at + self.ahead),
            received_at=to_timestamp(max(at, self.community.clock.now) + late),
        )

    async def weighs(self, grams: int = 1240, compartment: str = "recyclable", **said: Any) -> pb.Deposit:
        """Weighs a deposit. Returns what staff see of it."""
        return await self.sends(self.weighing(grams, compartment, **said))

    async def sends(self, deposit: BinDeposited) -> pb.Deposit:
        """Sends a deposit that is new. Returns what staff see of it."""
        before = {each.deposit_id for each in await self.community.deposits()}
        await self.community.publish(deposit)

        async def find() -> pb.Deposit | None:
            return next((each for each in await self.community.deposits() if each.deposit_id not in before), None)

        found = await eventually(find, f"{deposit.record_id} is kept")
        assert found is not None
        return found

    async def reports(self, fill: Mapping[str, int] | None = None, *, smoke: bool = False, temperature_c: int | None = None) -> None:
        """Reports now, and returns when that is known."""
        now = self.community.clock.now
        report = BinReported(
            device_id=self.device_id,
            fill_permille=fill or {},
            smoke=smoke,
            temperature_c=temperature_c,
            occurred_at=to_timestamp(now + self.ahead),
            received_at=to_timestamp(now),
        )
        await self.community.publish(report)

        async def is_heard() -> bool:
            return bool((await self.look()).last_heard_at.ToDatetime(UTC) >= now)

        await eventually(is_heard, "the report is heard")


@asynccontextmanager
async def town(servers: Servers) -> AsyncIterator[Town]:
    """A running waste service."""
    clock = TestClock(NOON)
    async with platform(servers, SERVICE, clock=clock, settings={"LINLI_WASTE_CODE_KEY": CODE_KEY}) as running:
        yield Town(running, clock)
