"""How a community of a test comes by work orders in any state. The owner reports them; the manager, who lives there too, does the rest.

So the manager's own reports are few enough to be counted.
"""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.platform.endpoints import NAMED, Values, instant
from tests.platform.wire import Sent

if TYPE_CHECKING:
    from tests.platform.neighbourhood import Community

# What the price list holds for sure.
PRICE = "seal"
PICTURE = b"\xff\xd8\xff\xe0" + bytes(64)
# An offer that lapses while somebody counts would be a change that nobody made.
TERMS: Values = {"offer_s": 3600, "escalation_roles": ["property_manager"]}
_ALL_DAY = [{"weekday": weekday, "from_minute": 0, "until_minute": 1440} for weekday in range(1, 8)]


async def staff(community: "Community") -> None:
    """There are terms, a category, prices, and a team in which the manager works all day: whatever is reported is offered to them."""
    await community.do("workorders.SetService", **TERMS)
    above = (await community.do("workorders.CreateCategory"))["category_id"]
    community.chores = (await community.do("workorders.CreateCategory", parent_id=above, default_priority="PRIORITY_LOW"))["category_id"]
    await community.do("workorders.SetPrice", code=PRICE, price_fen=1990, in_use=True)
    await community.do("workorders.CreateTeam", foreman_account_id=community.manager_id)
    await community.do("workorders.SetTechnician", account_id=community.manager_id, shifts=_ALL_DAY, in_use=True)


async def furnish(community: "Community") -> None:
    """There is an order with everything that one can have, over and rated, and one for which somebody comes tomorrow."""
    words = community.words
    category, pictures = words.ids["category_id"], [await photo(community, community.owner)]
    order_id = await reported(community, category_id=category, photo_ids=pictures, contact_phone=words.phone())
    await take(community, order_id)
    await plan(community, order_id)
    await agree(community, order_id)
    charge_id = (await complete(community, order_id))["charge_id"]
    await community.do("workorders.RateOrder", order_id=order_id, stars=5, text=words.text())
    await community.at_last("billing.GetCharge", {"charge_id": charge_id})
    expected = await reported(community, category_id=category)
    await take(community, expected)
    await plan(community, expected)
    # Alarms have become orders before.
    words.ids |= {"order_id": order_id, "work_order_id": expected}


async def photo(community: "Community", token: str) -> str:
    """A photo that somebody has uploaded. Returns its id."""
    upload = await community.town.call("workorders.CreatePhotoUpload", {"bytes": len(PICTURE)}, token)
    answer = await community.town.send(Sent(upload["method"], upload["url"], PICTURE, upload["headers"]))
    assert answer.is_success, answer.text
    return str(upload["photo_id"])


async def reported(community: "Community", **more: Any) -> str:
    """A new order of the owner's home, offered to the manager; nothing of importance unless said otherwise. Returns its id."""
    given = {"category_id": community.chores, "household_id": community.words.id_for("household_id"), **more}
    values = community.words.request(NAMED["workorders.ReportOrder"], given)
    return str((await community.at_last("workorders.ReportOrder", values, community.owner))["order_id"])


async def take(community: "Community", order_id: str) -> None:
    """The manager accepts."""
    await community.do("workorders.AcceptOrder", order_id=order_id)


async def plan(community: "Community", order_id: str) -> None:
    """The manager comes tomorrow."""
    await community.do("workorders.PlanVisit", order_id=order_id, **visit())


def visit() -> Values:
    """An hour of tomorrow."""
    begins = datetime.now(UTC) + timedelta(days=1)
    return {"visit_from": instant(begins), "visit_until": instant(begins + timedelta(hours=1))}


async def quote(community: "Community", order_id: str) -> str:
    """A quote that waits for its answer. Returns its id."""
    return str((await community.do("workorders.QuoteOrder", order_id=order_id, items=items()))["quote_id"])


def items() -> list[Values]:
    """What is quoted."""
    return [{"code": PRICE, "quantity_hundredths": 150}]


async def agree(community: "Community", order_id: str) -> None:
    """The household agrees to a quote."""
    await community.do("workorders.AgreeToQuote", order_id=order_id, quote_id=await quote(community, order_id))


async def complete(community: "Community", order_id: str) -> Any:
    """The manager comes and does it."""
    await community.do("workorders.ArriveOnSite", order_id=order_id)
    return await community.do("workorders.CompleteOrder", order_id=order_id)


async def accepted(community: "Community") -> str:
    """A new order that the manager has accepted. Returns its id."""
    order_id = await reported(community)
    await take(community, order_id)
    return order_id


async def on_site(community: "Community") -> str:
    """One at which the manager is."""
    order_id = await accepted(community)
    await community.do("workorders.ArriveOnSite", order_id=order_id)
    return order_id


async def paused(community: "Community") -> str:
    """One that waits for a part."""
    order_id = await accepted(community)
    await community.do("workorders.PauseOrder", order_id=order_id)
    return order_id


async def done(community: "Community") -> str:
    """One that is done."""
    order_id = await accepted(community)
    await complete(community, order_id)
    return order_id


async def linked(community: "Community") -> str:
    """One that goes on with another."""
    order_id = await reported(community)
    await community.do("workorders.LinkDuplicate", order_id=order_id, original_order_id=await reported(community))
    return order_id
