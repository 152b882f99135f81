"""Builders for tests of workorders: a running service with a clock of the test's own, communities with residents, staff and technicians."""

import base64
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from google.protobuf.message import Message

from linli.identity.v1.events_pb2 import HouseholdChanged, StaffChanged
from linli.notification.v1.events_pb2 import Notified
from linli.workorders.v1 import workorders_pb2 as pb
from linli.workorders.v1.events_pb2 import TargetMissed, WorkOrderChanged
from servicekit.blobs import PATH, Tickets
from servicekit.households import is_resident
from servicekit.identifiers import new_id
from servicekit.staff import roles_of
from services.workorders.service import SERVICE
from tests.community import OwnCommunity, Town
from tests.support import Servers, TestClock, eventually, platform, principal

CONTRACT = pb.DESCRIPTOR.services_by_name["WorkOrdersService"]
KEY = base64.b64encode(bytes(range(32))).decode()
MANAGER = [
    "workorders.categories.write",
    "workorders.teams.write",
    "workorders.orders.read",
    "workorders.orders.triage",
    "workorders.orders.dispatch",
    "workorders.prices.write",
    "workorders.inspections.write",
    "workorders.figures.read",
]
TECHNICIAN = ["workorders.jobs.work"]
# Monday at ten in the morning in Shanghai.
MONDAY_10 = datetime(2026, 3, 2, 2, 0, tzinfo=UTC)
ROUND_THE_CLOCK = [pb.WorkingHours(weekday=weekday, from_minute=0, until_minute=1440) for weekday in range(1, 8)]
JPEG = b"\xff\xd8\xff\xe0" + bytes(100)
_numbers = itertools.count(1)


@dataclass(slots=True)
class WorkTown(Town):
    """A running workorders service, and the folder in which photos are."""

    blobs: Path


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody in a community, with what they may do there. Residents have a home."""

    community: "Community"
    account_id: UUID = field(default_factory=new_id)
    permissions: Sequence[str] = ()
    household_id: UUID = field(default_factory=new_id)
    building_id: UUID = field(default_factory=new_id)

    async def call(self, method: str, request: Message, **metadata: str) -> Any:
        """Calls a method as this person."""
        return await self.community.call(method, request, account_id=self.account_id, permissions=self.permissions, **metadata)

    async def report(self, category: str = "", **fields: Any) -> pb.Order:
        """Reports something in their home, unless the fields say otherwise: of a category by its id, or a new one for leaks."""
        if not category:
            category = await self.community.category()
        values: dict[str, Any] = {"title": "厨房漏水", "household_id": str(self.household_id)} | fields
        order: pb.Order = await self.call("ReportOrder", pb.ReportOrderRequest(category_id=category, **values))
        return order

    async def see(self, order: pb.Order) -> pb.Order:
        """An order as this person sees it now."""
        seen: pb.Order = await self.call("GetOrder", pb.GetOrderRequest(order_id=order.order_id))
        return seen

    async def accept(self, order: pb.Order) -> pb.Order:
        """Takes an order, as a technician."""
        accepted: pb.Order = await self.call("AcceptOrder", pb.AcceptOrderRequest(order_id=order.order_id))
        return accepted

    async def finish(self, order: pb.Order, cause: str = "seal_worn") -> pb.Order:
        """Takes an order to its end, from wherever it is with them."""
        if order.state == pb.ORDER_STATE_DISPATCHED:
            order = await self.accept(order)
        if order.state == pb.ORDER_STATE_ACCEPTED:
            order = await self.call("ArriveOnSite", pb.ArriveOnSiteRequest(order_id=order.order_id))
        done: pb.Order = await self.call(
            "CompleteOrder", pb.CompleteOrderRequest(order_id=order.order_id, cause=cause, resolution="换了密封圈")
        )
        return done

    async def notices(self) -> list[str]:
        """The kinds of what they were told, in order, without the service's name."""
        told = self.community.town.running.events(Notified)
        return [event.message.kind.removeprefix("workorders.") for event in told if event.message.account_id == str(self.account_id)]

    async def is_told(self, kind: str, times: int = 1) -> None:
        """Waits until they were told of something so often."""

        async def told() -> bool:
            return (await self.notices()).count(kind) >= times

        await eventually(told, f"somebody is told {kind}")


@dataclass(slots=True)
class Community(OwnCommunity):
    """A community, and the manager, who may do everything but work."""

    town: WorkTown
    team_id: str = ""

    contract = CONTRACT

    @property
    def manager(self) -> Person:
        return Person(self, self.account_id, MANAGER)

    async def call(
        self, method: str, request: Message, *, account_id: UUID | None = None, permissions: Sequence[str] = MANAGER, **metadata: str
    ) -> Any:
        """Calls a method as the manager, or as whoever is named."""
        who = principal(*permissions, community_id=self.community_id, account_id=account_id or self.account_id, modules=["workorders"])
        return await self.send(who, method, request, **metadata)

    async def changed(self, order: pb.Order, state: str) -> WorkOrderChanged:
        """What other services hear of an order in a state; waits for it."""
        return (await self.event(WorkOrderChanged, order_id=order.order_id, state=state)).message

    def missed(self, order: pb.Order) -> list[tuple[str, int, str]]:
        """The promises of an order that were told to be missed: which, the step of the chain, and whom it told."""
        told = self.town.running.events(TargetMissed)
        return [(e.message.target, e.message.level, e.message.role) for e in told if e.message.order_id == order.order_id]

    async def order_of(self, origin: str, origin_id: str) -> WorkOrderChanged:
        """The first that is heard of the order of an alarm."""
        return (await self.event(WorkOrderChanged, origin=origin, origin_id=origin_id)).message

    async def steps(self, order: pb.Order) -> list[pb.OrderStep]:
        """What happened to an order."""
        request = pb.ListOrderStepsRequest(order_id=order.order_id, page_size=100)
        return list((await self.call("ListOrderSteps", request)).steps)

    async def actions(self, order: pb.Order) -> list[str]:
        """The actions of an order's steps."""
        return [step.action for step in await self.steps(order)]

    async def category(self, code: str = "", **fields: Any) -> str:
        """A new category for repairs, unless the fields say otherwise. Returns its id."""
        number = next(_numbers)
        values: dict[str, Any] = {"name_zh": f"类别 {number}", "name_en": f"Category {number}", "kind": pb.ORDER_KIND_REPAIR} | fields
        created = await self.call("CreateCategory", pb.CreateCategoryRequest(code=code or f"c{number}", **values))
        return str(created.category_id)

    async def terms(self, **fields: Any) -> None:
        """Sets the terms of service: round the clock, with the usual chain, unless the fields say otherwise."""
        values: dict[str, Any] = {
            "working_hours": ROUND_THE_CLOCK,
            "escalation_roles": ["foreman", "property_manager", "residents_committee_member"],
            "offer_s": 3600,
            "reopen_days": 7,
        }
        await self.call("SetService", pb.SetServiceRequest(**(values | fields)))

    async def resident(self, *, building_id: UUID | None = None, household_id: UUID | None = None, others: Sequence[Person] = ()) -> Person:
        """Somebody who lives here, known to the service; in a household with others, when they are named."""
        building = building_id or (others[0].building_id if others else new_id())
        person = Person(self, household_id=household_id or (others[0].household_id if others else new_id()), building_id=building)
        members = [person, *others]
        event = HouseholdChanged(
            household_id=str(person.household_id), building_id=str(building), account_ids=[str(each.account_id) for each in members]
        )
        await self.publish(event, version=len(members))

        async def is_known() -> bool:
            async with self.town.running.transaction("workorders", self.community_id) as tx:
                return await is_resident(tx, person.account_id)

        await eventually(is_known, "the household is known")
        return person

    async def staff(self, role: str, *permissions: str) -> Person:
        """Somebody who holds a role, known to the service."""
        person = Person(self, permissions=permissions)
        await self.publish(StaffChanged(account_id=str(person.account_id), roles=[role]), version=1)

        async def is_known() -> bool:
            async with self.town.running.transaction("workorders", self.community_id) as tx:
                return role in (await roles_of(tx, [person.account_id]))[person.account_id]

        await eventually(is_known, "the staff is known")
        return person

    async def technician(self, *skills: str, shifts: Sequence[pb.WorkingHours] = tuple(ROUND_THE_CLOCK), **fields: Any) -> Person:
        """A technician of the community's one team, always on shift unless told otherwise."""
        if not self.team_id:
            self.team_id = (await self.call("CreateTeam", pb.CreateTeamRequest(name=f"工程部 {next(_numbers)}"))).team_id
        person = Person(self, permissions=TECHNICIAN)
        values: dict[str, Any] = {"team_id": self.team_id, "skills": skills or ["plumbing"], "in_use": True} | fields
        await self.call(
            "SetTechnician",
            pb.SetTechnicianRequest(account_id=str(person.account_id), name=f"师傅 {next(_numbers)}", shifts=shifts, **values),
        )
        return person

    async def photo(self, person: Person, content: bytes | None = JPEG) -> str:
        """A photo that somebody has asked to send, and has sent unless its content is None. Returns its id."""
        asked = await person.call("CreatePhotoUpload", pb.CreatePhotoUploadRequest(bytes=len(content or JPEG)))
        if content is not None:
            self.store(asked, content)
        return str(asked.photo_id)

    def store(self, upload: pb.PhotoUpload, content: bytes) -> None:
        """Puts what a phone sends where the gateway would put it."""
        ticket = Tickets(base64.b64decode(KEY)).read(upload.url.removeprefix(PATH))
        assert ticket is not None
        path = self.town.blobs / ticket.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def promising(**minutes: Any) -> dict[str, Any]:
    """What a category promises for usual orders, round the clock unless told otherwise."""
    return {"targets": [pb.Targets(**({"priority": pb.PRIORITY_NORMAL, "round_the_clock": True} | minutes))]}


async def passes(community: Community, order: pb.Order, *, until: datetime, warned: int = 0, missed: int = 0) -> None:
    """Lets the clock go on until an instant, and waits until so many warnings and steps of the chain have happened in all."""
    community.clock.now = until

    async def happened() -> bool:
        actions = await community.actions(order)
        return (actions.count("warned"), actions.count("missed")) == (warned, missed)

    await eventually(happened, f"{warned} warnings and {missed} misses")


@asynccontextmanager
async def town(servers: Servers, blobs: Path, database_url: str = "", clock: TestClock | None = None) -> AsyncIterator[WorkTown]:
    """Workorders, running, on a Monday at ten; on a database that is there already, when it is named."""
    clock = clock or TestClock(MONDAY_10)
    values = {
        "LINLI_WORKORDERS_DATA_KEYS": f"k1:{KEY}",
        "LINLI_BLOBS_URL": str(blobs),
        "LINLI_BLOB_TICKET_KEY": KEY,
    } | ({"LINLI_WORKORDERS_DATABASE_URL": database_url} if database_url else {})
    async with platform(servers, SERVICE, clock=clock, settings=values, keep_streams=bool(database_url)) as running:
        yield WorkTown(running, clock, blobs)
