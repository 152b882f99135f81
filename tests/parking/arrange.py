"""Builders for tests of parking: a running service with a clock of the test's own, car parks, and cameras that read plates."""

import base64
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from linli.billing.v1.events_pb2 import ChargeRaised, PaymentRefunded, PaymentSucceeded
from linli.device.v1.events_pb2 import PlateRead
from linli.parking.v1 import parking_pb2 as pb
from linli.parking.v1.events_pb2 import GateOpenRequested, VehicleHeld
from servicekit.events import Received
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from services.parking.service import SERVICE
from tests.community import OwnCommunity, Town
from tests.support import Platform, Servers, TestClock, eventually, platform, principal

CONTRACT = pb.DESCRIPTOR.services_by_name["ParkingService"]
GATE_KEY = base64.b64encode(bytes(range(32))).decode()
PERMISSIONS = [
    "parking.lots.write",
    "parking.lots.read",
    "parking.tariffs.write",
    "parking.permits.write",
    "parking.permits.read",
    "parking.denials.write",
    "parking.denials.read",
    "parking.sessions.read",
    "parking.gates.open",
    "parking.gates.read",
    "parking.reviews.read",
    "parking.reviews.write",
    "parking.figures.read",
]
# Monday, 9:00 in Shanghai.
MONDAY_9 = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)
# Thirty minutes free; then 5 yuan for each started hour from the arrival, 15 minutes to leave after paying.
FIVE_AN_HOUR: Mapping[str, Any] = {
    "name": "临停",
    "rate_unit_period": "stay",
    "free": {"minutes": 30, "kind": "all_or_nothing"},
    "grace_minutes": 15,
    "bands": [{"name": "全天", "rates": [{"rate_unit": "hour", "increment_duration": 1, "increment_amount": 500}]}],
}
_numbers = itertools.count(1)


@dataclass(slots=True)
class Answer:
    """What a lane answered to one read."""

    event: Received[Any]

    @property
    def opened(self) -> bool:
        return isinstance(self.event.message, GateOpenRequested)

    @property
    def reason(self) -> str:
        """Why the car is held; empty when the gate opens."""
        return "" if self.opened else str(self.event.message.reason)

    @property
    def amount_due_fen(self) -> int:
        return 0 if self.opened else int(self.event.message.amount_due_fen)


@dataclass(slots=True)
class Community(OwnCommunity):
    """A community, and somebody who may do everything in its car parks."""

    contract = CONTRACT

    async def call(self, method: str, request: Message, *permissions: str, **who: Any) -> Any:
        """Calls a method as staff; with `permissions` or anything else about the caller, as somebody with only those."""
        who.setdefault("account_id", self.account_id)
        granted = permissions if permissions or "household" in who else PERMISSIONS
        return await self.send(principal(*granted, community_id=self.community_id, **who), method, request)

    async def guest_calls(self, method: str, request: Message) -> Any:
        """Calls a method as somebody who is only signed in."""
        return await self.send(principal(community_id=self.community_id), method, request)

    async def lot(
        self,
        capacity: int = 100,
        *,
        tariff: Mapping[str, Any] | None = FIVE_AN_HOUR,
        admits_temporary: bool = True,
        full_lot_admits_permits: bool = False,
        opens_offline: bool = False,
    ) -> "CarPark":
        """A car park with two entrances and two exits; its tariff has been in force for long."""
        number = next(_numbers)
        request = pb.CreateLotRequest(
            name=f"地库{number}", admits_temporary=admits_temporary, full_lot_admits_permits=full_lot_admits_permits
        )
        lot = await self.call("CreateLot", request)
        area = await self.call("CreateArea", pb.CreateAreaRequest(lot_id=lot.lot_id, name="B1", capacity=capacity))
        lanes = {}
        for name in ("east_in", "west_in", "east_out", "west_out"):
            created = pb.CreateLaneRequest(
                lot_id=lot.lot_id,
                name=name,
                direction=pb.DIRECTION_ENTRY if name.endswith("in") else pb.DIRECTION_EXIT,
                camera_device_id=f"camera-{number}-{name}",
                gate_device_id=f"gate-{number}-{name}",
                offline_rule=pb.OFFLINE_RULE_OPEN if opens_offline else pb.OFFLINE_RULE_STAY_SHUT,
            )
            lanes[name] = await self.call("CreateLane", created)
        park = CarPark(self, lot.lot_id, area.area_id, lanes)
        if tariff is not None:
            await park.publish_tariff(tariff, MONDAY_9 - timedelta(days=60))
        return park


@dataclass(slots=True)
class CarPark:
    """A car park; its lanes by name."""

    community: Community
    lot_id: str
    area_id: str
    lanes: dict[str, pb.Lane]

    @property
    def clock(self) -> TestClock:
        return self.community.town.clock

    @property
    def running(self) -> Platform:
        return self.community.town.running

    async def publish_tariff(self, rules: Mapping[str, Any], effective_from: datetime) -> Any:
        request = pb.PublishTariffRequest(
            lot_id=self.lot_id, effective_from=to_timestamp(effective_from), rules=ParseDict(dict(rules), Struct())
        )
        return await self.community.call("PublishTariff", request)

    def read(
        self, lane: str, plate: str, *, occurred_at: datetime | None = None, received_at: datetime | None = None, **fields: Any
    ) -> PlateRead:
        """A camera's record of a plate, made and received now unless said otherwise."""
        fields.setdefault("record_id", str(new_id()))
        received_at = received_at or self.clock.now
        occurred_at = occurred_at or received_at
        return PlateRead(
            device_id=self.lanes[lane].camera_device_id,
            plate=plate,
            occurred_at=to_timestamp(occurred_at),
            received_at=to_timestamp(received_at),
            **fields,
        )

    def answers(self) -> list[Answer]:
        """Every answer of this car park's lanes that goes to a camera, in order."""
        cameras = {lane.camera_device_id for lane in self.lanes.values()}
        events: list[Received[Any]] = [*self.running.events(GateOpenRequested), *self.running.events(VehicleHeld)]
        return [Answer(event) for event in events if event.message.camera_device_id in cameras]

    async def sees(self, lane: str, plate: str, **fields: Any) -> Answer:
        """A camera reads a plate; what its lane answered."""
        return await self.deliver(self.read(lane, plate, **fields))

    async def deliver(self, read: PlateRead, **envelope: Any) -> Answer:
        """Delivers a camera's record and waits for one more answer to it."""

        def mine() -> list[Answer]:
            return [answer for answer in self.answers() if answer.event.message.record_id == read.record_id]

        before = len(mine())
        await self.community.publish(read, **envelope)

        async def answered() -> bool:
            return len(mine()) > before

        await eventually(answered, "an answer to the camera")
        assert len(mine()) == before + 1
        return max(mine(), key=lambda answer: answer.event.event_id)

    async def sessions(self, plate: str = "", state: Any = 0) -> Sequence[pb.Session]:
        """The lot's sessions, oldest first."""
        request = pb.ListSessionsRequest(lot_id=self.lot_id, plate=plate, state=state, page_size=100)
        listed = (await self.community.call("ListSessions", request)).sessions
        return sorted(listed, key=lambda session: session.entered_at.ToDatetime())

    async def session(self, plate: str) -> pb.Session:
        """The plate's one session."""
        (only,) = await self.sessions(plate)
        return only

    async def reviews(self, include_resolved: bool = False) -> list[pb.Review]:
        """What a person must look at, oldest first."""
        request = pb.ListReviewsRequest(page_size=100, include_resolved=include_resolved)
        return list(reversed((await self.community.call("ListReviews", request)).reviews))

    async def inside(self) -> int:
        """How many cars are inside."""
        occupancy = await self.community.call("GetOccupancy", pb.GetOccupancyRequest(lot_id=self.lot_id))
        return int(occupancy.inside)

    async def quote(self, plate: str) -> pb.Quote:
        """What a guest is told that the car owes."""
        return await self.community.guest_calls("QuoteStay", pb.QuoteStayRequest(lot_id=self.lot_id, plate=plate))  # type: ignore[no-any-return]

    async def permit(self, *plates: str, label: str = "") -> pb.Permit:
        """A month pass for a space of its own, valid all year."""
        space = await self.community.call("CreateSpace", pb.CreateSpaceRequest(area_id=self.area_id, label=label or f"A{next(_numbers)}"))
        request = pb.IssuePermitRequest(
            lot_id=self.lot_id,
            household_id=str(new_id()),
            space_id=space.space_id,
            plates=plates,
            valid_from=to_timestamp(MONDAY_9 - timedelta(days=60)),
            valid_until=to_timestamp(MONDAY_9 + timedelta(days=300)),
        )
        return await self.community.call("IssuePermit", request)  # type: ignore[no-any-return]

    async def charge(self, session_id: str) -> ChargeRaised:
        """The newest charge of a session; waits for one."""

        async def find() -> ChargeRaised | None:
            charges = [event.message for event in self.running.events(ChargeRaised) if event.message.origin_id == session_id]
            return charges[-1] if charges else None

        found = await eventually(find, "a charge")
        assert found is not None
        return found

    def payment(self, session_id: str, charge_id: str, amount_fen: int, paid_at: datetime | None = None) -> PaymentSucceeded:
        """Billing's word that a charge is paid, now unless said otherwise."""
        return PaymentSucceeded(
            charge_id=charge_id,
            payment_id=str(new_id()),
            origin="parking",
            origin_id=session_id,
            amount_fen=amount_fen,
            paid_at=to_timestamp(paid_at or self.clock.now),
        )

    async def pay(self, session_id: str, charge_id: str, amount_fen: int, paid_at: datetime | None = None) -> PaymentSucceeded:
        """A charge is paid; returns when the session is credited."""
        before = (await self._session(session_id)).paid_fen
        payment = self.payment(session_id, charge_id, amount_fen, paid_at)
        await self.community.publish(payment)

        async def credited() -> bool:
            return (await self._session(session_id)).paid_fen == before + amount_fen

        await eventually(credited, "the payment in the session")
        return payment

    async def refund(self, payment: PaymentSucceeded, amount_fen: int, *, reopened_charge: bool = True) -> None:
        """A payment goes back."""
        refunded = PaymentRefunded(
            charge_id=payment.charge_id,
            payment_id=payment.payment_id,
            refund_id=str(new_id()),
            origin="parking",
            origin_id=payment.origin_id,
            amount_fen=amount_fen,
            reopened_charge=reopened_charge,
        )
        await self.community.publish(refunded, occurred_at=self.clock.now)

    async def _session(self, session_id: str) -> pb.Session:
        return await self.community.call("GetSession", pb.GetSessionRequest(session_id=session_id))  # type: ignore[no-any-return]


@asynccontextmanager
async def town(servers: Servers, **settings: str) -> AsyncIterator[Town]:
    """A running parking service; its clock stands at Monday, nine in the morning."""
    clock = TestClock(MONDAY_9)
    values = {"LINLI_PARKING_GATE_KEY": GATE_KEY, **{f"LINLI_PARKING_{name.upper()}": value for name, value in settings.items()}}
    async with platform(servers, SERVICE, clock=clock, settings=values) as running:
        yield Town(running, clock)
