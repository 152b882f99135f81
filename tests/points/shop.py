"""Builders for tests of spending: residents with points, items to redeem, clerks who hand them over."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from google.protobuf.message import Message

from linli.notification.v1.events_pb2 import Notified
from linli.points.v1 import points_pb2 as pb
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from tests.points.arrange import CONTRACT, Community
from tests.support import principal


@dataclass(frozen=True, slots=True)
class Resident:
    """Somebody who lives here, or with `household_id` None a guest."""

    community: Community
    account_id: UUID
    household_id: UUID | None

    async def call(self, method: str, request: Message, **metadata: str) -> Any:
        """Calls a method with what a resident may do."""
        household = {self.household_id: ["points.household.read"]} if self.household_id else {}
        who = principal(community_id=self.community.community_id, account_id=self.account_id, household=household, modules=["points"])
        return await self.community.town.running.caller(who).call(f"{CONTRACT.full_name}/{method}", request, **metadata)

    async def redeem(self, item: pb.Item, quantity: int = 1, household_id: UUID | None = None) -> pb.Redemption:
        """Reserves some of an item."""
        request = pb.RedeemRequest(item_id=item.item_id, quantity=quantity, household_id=str(household_id or ""))
        return await self.call("Redeem", request)  # type: ignore[no-any-return]

    async def give(self, points: int, to: "Resident | UUID", message: str = "") -> pb.Gift:
        """Gives points to a neighbour, or to a household by its id."""
        receiver = {"to_account_id": str(to.account_id)} if isinstance(to, Resident) else {"to_household_id": str(to)}
        return await self.call("GiftPoints", pb.GiftPointsRequest(points=points, message=message, **receiver))  # type: ignore[no-any-return]

    async def points(self) -> pb.Points:
        return await self.call("GetMyPoints", pb.GetMyPointsRequest())  # type: ignore[no-any-return]

    async def entries(self) -> Sequence[pb.Entry]:
        """The newest entries."""
        return (await self.call("ListMyEntries", pb.ListMyEntriesRequest(page_size=100))).entries  # type: ignore[no-any-return]

    async def told(self, kind: str) -> Notified:
        """What the resident is told of this kind; waits for it."""
        return (await self.community.notified(self.account_id, kind)).message


def guest(community: Community) -> Resident:
    """Somebody who is only signed in."""
    return Resident(community, new_id(), None)


async def resident(community: Community, points: int = 0, *, building_id: UUID | None = None) -> Resident:
    """Somebody who lives here alone, with points."""
    account_id = new_id()
    household_id = await community.household(account_id, building_id=building_id)
    return await _with_points(Resident(community, account_id, household_id), points)


async def family(community: Community, *points: int, building_id: UUID | None = None) -> list[Resident]:
    """People who live together, each with points."""
    account_ids = [new_id() for _ in points]
    household_id = await community.household(*account_ids, building_id=building_id)
    members = [Resident(community, account_id, household_id) for account_id in account_ids]
    return [await _with_points(member, theirs) for member, theirs in zip(members, points, strict=True)]


async def _with_points(who: Resident, points: int) -> Resident:
    if points:
        await who.community.give(who.account_id, points)
    return who


async def item(community: Community, stock: int = 10, points: int = 30, **fields: Any) -> pb.Item:
    """An item of the catalogue: a coffee for 30 points, unless said otherwise."""
    for name in ("valid_from", "valid_until"):
        if name in fields:
            fields[name] = to_timestamp(fields[name])
    fields.setdefault("name_zh", "现磨咖啡")
    fields.setdefault("name_en", "Coffee")
    return await community.call("CreateItem", pb.CreateItemRequest(stock=stock, points=points, **fields))  # type: ignore[no-any-return]


async def shelf(community: Community, of: pb.Item) -> tuple[int, int]:
    """How many of an item nobody has reserved, and how many are reserved."""
    found = await community.call("GetItem", pb.GetItemRequest(item_id=of.item_id))
    return found.stock, found.reserved


async def pick_up(community: Community, code: str) -> pb.Redemption:
    """A clerk scans a code."""
    return await community.call("ConfirmRedemption", pb.ConfirmRedemptionRequest(pickup_code=code))  # type: ignore[no-any-return]
