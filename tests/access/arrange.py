"""Builders for tests of access: a running service with a clock of the test's own, doors with terminals, people who live and work there."""

import base64
import itertools
import tempfile
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from google.protobuf.message import Message

from linli.access.v1 import access_pb2 as pb
from linli.device.v1 import events_pb2 as device
from linli.identity.v1.events_pb2 import HouseholdChanged, StaffChanged
from linli.notification.v1.events_pb2 import Notified
from linli.options.v1 import options_pb2
from linli.workorders.v1.events_pb2 import WorkOrderChanged
from servicekit.identifiers import new_id
from servicekit.timers import Due
from servicekit.times import to_timestamp
from services.access import snapshot_operations
from services.access.service import SERVICE
from tests.community import OwnCommunity, Town
from tests.support import Servers, TestClock, eventually, platform, principal

CONTRACT = pb.DESCRIPTOR.services_by_name["AccessService"]
# All that the contract names.
PERMISSIONS = sorted(
    {
        method.GetOptions().Extensions[options_pb2.authority].permission
        for method in CONTRACT.methods
        if method.GetOptions().Extensions[options_pb2.authority].permission
    }
)
KEY = base64.b64encode(bytes(range(32))).decode()
# Monday, 9:00 in Shanghai.
MONDAY_9 = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)
FACE, CODE, CARD, PIN, PHONE = (
    device.CREDENTIAL_KIND_FACE,
    device.CREDENTIAL_KIND_CODE,
    device.CREDENTIAL_KIND_CARD,
    device.CREDENTIAL_KIND_PIN,
    device.CREDENTIAL_KIND_PHONE,
)
ALL_KINDS = (FACE, CODE, CARD, PIN, PHONE)
_numbers = itertools.count(1)


def settings(blobs: str) -> dict[str, str]:
    """What the service is told. `blobs` is the folder of its blob store."""
    return {
        "LINLI_ACCESS_DOOR_KEY": KEY,
        "LINLI_ACCESS_MATCHING_KEY": KEY,
        "LINLI_ACCESS_DATA_KEYS": f"k1:{KEY}",
        "LINLI_ACCESS_BLOBS_URL": blobs,
        "LINLI_ACCESS_BLOB_TICKET_KEY": KEY,
    }


@dataclass(slots=True)
class Home:
    """A household. `people` are its accounts."""

    household_id: UUID
    building_id: UUID
    people: list[UUID]
    version: int = 1

    def event(self) -> HouseholdChanged:
        """What identity tells of it."""
        people = [str(account_id) for account_id in self.people]
        return HouseholdChanged(household_id=str(self.household_id), building_id=str(self.building_id), account_ids=people)


@dataclass(slots=True)
class Gate:
    """A door with a terminal on each side that was asked for."""

    door_id: str
    zone_id: str
    name: str
    entrance: str
    exit: str


@dataclass(slots=True)
class Community(OwnCommunity):
    """A community, and somebody who may do everything with its doors."""

    contract = CONTRACT

    async def call(self, method: str, request: Message, *permissions: str, **who: Any) -> Any:
        """Calls a method as somebody who may do everything; with `permissions`, as somebody with only those."""
        who.setdefault("account_id", self.account_id)
        return await self.send(principal(*(permissions or PERMISSIONS), community_id=self.community_id, **who), method, request)

    async def call_as(self, account_id: UUID, method: str, request: Message, home: Home | None = None, **metadata: str) -> Any:
        """Calls a method as somebody who is signed in, and a member of a household."""
        household = {home.household_id: ["access.visitors.read", "access.visitors.write"]} if home else {}
        who = principal(community_id=self.community_id, account_id=account_id, household=household)
        return await self.send(who, method, request, **metadata)

    async def call_without_token(self, method: str, request: Message) -> Any:
        """Calls a method as somebody whom nobody knows."""
        return await self.send(None, method, request)

    async def deliver(self, event: Message, **envelope: Any) -> None:
        """Publishes another service's event, and waits until each who hears it once has."""
        heard = {each.name for each in SERVICE.consumes if each.event.message is type(event) and each.mode == "once"}
        event_id = await self.publish(event, **envelope)

        async def is_heard() -> bool:
            return bool(await self.value("SELECT count(*) FROM inbox WHERE event_id = $1", event_id) == len(heard))

        await eventually(is_heard, f"{type(event).__name__} to be heard by {heard}")

    # People.

    async def home(self, people: int = 1, building_id: UUID | None = None) -> Home:
        """A household that has moved in."""
        home = Home(new_id(), building_id or new_id(), [new_id() for _ in range(people)])
        await self.tell(home)
        return home

    async def tell(self, home: Home) -> None:
        """Publishes a household as it is, as its next version, and waits until it is known."""
        home.version += 1
        await self.deliver(home.event(), version=home.version)

    async def employ(self, *roles: str, account_id: UUID | None = None, version: int = 1) -> UUID:
        """Somebody who works here; without roles, somebody who does not any more."""
        account_id = account_id or new_id()
        await self.deliver(StaffChanged(account_id=str(account_id), roles=roles), version=version)
        return account_id

    async def work_order(
        self, order_id: UUID | None = None, *, visit: tuple[datetime, datetime] | None = None, closed: bool = False, version: int = 1
    ) -> UUID:
        """A work order, whose visit may be agreed."""
        order_id = order_id or new_id()
        begins, ends = visit or (None, None)
        event = WorkOrderChanged(
            order_id=str(order_id),
            state="done" if closed else "accepted",
            closed=closed,
            visit_from=to_timestamp(begins),
            visit_until=to_timestamp(ends),
        )
        await self.deliver(event, version=version)
        return order_id

    # Doors.

    async def zone(self, kind: Any = pb.ZONE_KIND_COMMUNITY, building_id: UUID | None = None, name: str = "") -> str:
        """A zone; one of a building when that is named."""
        if building_id is not None:
            kind = pb.ZONE_KIND_BUILDING
        request = pb.CreateZoneRequest(name=name or f"区域{next(_numbers)}", kind=kind, building_id=str(building_id or ""))
        return str((await self.call("CreateZone", request)).zone_id)

    async def door(
        self,
        zone_id: str = "",
        *,
        kinds: Collection[Any] = ALL_KINDS,
        kind: Any = pb.DOOR_KIND_COMMUNITY_GATE,
        anti_passback: Any = pb.ANTI_PASSBACK_OFF,
        has_exit: bool = False,
    ) -> Gate:
        """A door with a terminal that lets in, and one that lets out when asked for; into the community unless a zone is named.

        Returns when the terminals are to know all that they are to know.
        """
        zone_id, number = zone_id or await self.zone(), next(_numbers)
        request = pb.CreateDoorRequest(zone_id=zone_id, name=f"门{number}", kind=kind, credential_kinds=kinds, anti_passback=anti_passback)
        door = await self.call("CreateDoor", request)
        gate = Gate(door.door_id, zone_id, door.name, f"terminal-{number}-in", f"terminal-{number}-out" if has_exit else "")
        await self.terminal(gate.door_id, gate.entrance, pb.DIRECTION_IN)
        if has_exit:
            await self.terminal(gate.door_id, gate.exit, pb.DIRECTION_OUT)
        await self.settle()
        return gate

    async def terminal(self, door_id: str, device_id: str, direction: Any) -> pb.Terminal:
        """Puts a terminal at a door."""
        request = pb.AddTerminalRequest(door_id=door_id, device_id=device_id, direction=direction)
        return await self.call("AddTerminal", request)  # type: ignore[no-any-return]

    async def settle(self) -> None:
        """Has everybody's entries worked out anew after a change of doors or rules, without waiting for the timer that does it."""
        sql = "DELETE FROM timers WHERE community_id = $1 AND kind = $2 RETURNING name"
        while True:
            async with self.running.transaction("access", self.community_id) as tx:
                due = await tx.fetch(sql, self.community_id, snapshot_operations.REFRESH)
                for row in due:
                    await snapshot_operations.refresh_more(tx, Due(snapshot_operations.REFRESH, self.community_id, row["name"], tx.now))
            if not due:
                return

    async def knows(self, device_id: str, subject_id: UUID | str) -> bool:
        """Whether a terminal is to know a subject."""
        sql = "SELECT EXISTS (SELECT FROM terminal_entries WHERE device_id = $1 AND subject_id = $2 AND body IS NOT NULL)"
        return bool(await self.value(sql, device_id, UUID(str(subject_id))))

    async def reports(self, device_id: str, version: int, *, after: timedelta = timedelta(0)) -> None:
        """A terminal says what it has."""
        now = to_timestamp(self.clock.now + after)
        await self.publish(device.TerminalReported(device_id=device_id, snapshot_version=version, occurred_at=now, received_at=now))

    async def wanted_version(self, device_id: str) -> int:
        """The newest version of what a terminal is to know."""
        return int(await self.value("SELECT wanted_version FROM terminals WHERE device_id = $1", device_id))

    async def value(self, sql: str, *arguments: object) -> Any:
        """What a statement says of the community's rows."""
        async with self.running.transaction("access", self.community_id) as tx:
            return await tx.fetchval(sql, *arguments)

    async def told(self, account_id: UUID, kind: str) -> Notified:
        """What somebody was told; waits for it."""
        event = await self.running.event(Notified, lambda each: each.message.account_id == str(account_id) and each.message.kind == kind)
        return event.message

    # What people have.

    async def consent(self, account_id: UUID, *kinds: Any) -> Sequence[pb.Consent]:
        """Somebody consents to the newest text of each kind, which is published when there is none."""
        texts = {text.kind: text.version for text in (await self.call("ListConsentTexts", pb.ListConsentTextsRequest())).texts}
        given = []
        for kind in kinds:
            if kind not in texts:
                text = pb.PublishConsentTextRequest(kind=kind, text_zh="本人同意按本说明处理我的个人信息，并知悉可随时撤回。")
                texts[kind] = (await self.call("PublishConsentText", text)).version
            given.append(await self.call_as(account_id, "GiveConsent", pb.GiveConsentRequest(kind=kind, text_version=texts[kind])))
        return given

    async def card(self, account_id: UUID, number: str = "") -> pb.Credential:
        """Gives somebody a card."""
        request = pb.IssueCardRequest(account_id=str(account_id), card_number=number or f"04A1B2{next(_numbers):06X}")
        return await self.call("IssueCard", request)  # type: ignore[no-any-return]

    async def invite(self, home: Home, *, days: int = 1, one_time: bool = False, plate: str = "", kind: Any = pb.PASS_KIND_VISIT) -> Any:
        """A household invites somebody from now on."""
        request = pb.InviteVisitorRequest(
            household_id=str(home.household_id),
            kind=kind,
            visitor_name="李雷",
            plate=plate,
            valid_from=to_timestamp(self.clock.now),
            valid_until=to_timestamp(self.clock.now + (timedelta(days=days) if kind == pb.PASS_KIND_VISIT else timedelta(hours=1))),
            one_time=one_time,
        )
        return await self.call_as(home.people[0], "InviteVisitor", request, home)

    async def confirm(self, link: str, **changed: str) -> pb.InvitationView:
        """The visitor accepts."""
        return await self.call_without_token("ConfirmInvitation", pb.ConfirmInvitationRequest(link=link, **changed))  # type: ignore[no-any-return]


@asynccontextmanager
async def town(servers: Servers, **more: str) -> AsyncIterator[Town]:
    """A running access service; its clock stands at Monday, nine in the morning."""
    clock = TestClock(MONDAY_9)
    with tempfile.TemporaryDirectory() as folder:
        values = {**settings(folder), **{f"LINLI_ACCESS_{name.upper()}": value for name, value in more.items()}}
        async with platform(servers, SERVICE, clock=clock, settings=values) as running:
            yield Town(running, clock)
