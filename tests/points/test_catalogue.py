"""The catalogue: who sees what of it, and that its stock is never less than what is promised."""

import asyncio
from datetime import timedelta

import pytest

from linli.points.v1 import points_pb2 as pb
from servicekit.errors import Conflict, Denied, Invalid, NotFound, ServiceError
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from tests.community import Town
from tests.points.arrange import Community
from tests.points.shop import guest, item, resident, shelf

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_an_item_is_shown_as_it_was_created(community: Community) -> None:
    until = community.town.clock.now + timedelta(days=30)
    created = await item(
        community,
        stock=5,
        name_zh=" 洗车券 ",
        name_en="",
        description="两次\n周末除外",
        valid_until=until,
        per_resident_max=2,
        pickup_place="南门",
    )
    shown = await guest(community).call("GetItem", pb.GetItemRequest(item_id=created.item_id))
    assert shown == created
    assert (shown.name_zh, shown.description, shown.stock, shown.reserved, shown.listed) == ("洗车券", "两次\n周末除外", 5, 0, True)
    assert (shown.valid_from, shown.valid_until) == (to_timestamp(community.town.clock.now), to_timestamp(until))


async def test_residents_see_what_is_listed_and_valid_now_and_staff_all(points: Town, community: Community) -> None:
    now = community.town.clock.now
    shown = [(await item(community)).item_id for _ in range(3)]
    later = await item(community, valid_from=now + timedelta(hours=1))
    over = await item(community, valid_from=now - timedelta(hours=2), valid_until=now)
    unlisted = await item(community)
    await community.call("UpdateItem", pb.UpdateItemRequest(item_id=unlisted.item_id, listed=False))
    await item(Community(points))

    who = guest(community)
    first = await who.call("ListItems", pb.ListItemsRequest(page_size=2))
    rest = await who.call("ListItems", pb.ListItemsRequest(page_token=first.next_page_token))
    assert [row.item_id for row in [*first.items, *rest.items]] == shown[::-1]
    assert [row.stock for row in first.items] == [10, 10]
    everything = await community.call("ListItems", pb.ListItemsRequest(all=True))
    assert [row.item_id for row in everything.items] == [unlisted.item_id, over.item_id, later.item_id, *shown[::-1]]
    with pytest.raises(Denied):
        await who.call("ListItems", pb.ListItemsRequest(all=True))
    with pytest.raises(NotFound):
        await who.call("GetItem", pb.GetItemRequest(item_id=unlisted.item_id))
    assert not (await community.call("GetItem", pb.GetItemRequest(item_id=unlisted.item_id))).listed


async def test_only_what_is_given_changes(community: Community) -> None:
    coffee = await item(community, description="热")
    item_id = coffee.item_id
    changed = await community.call("UpdateItem", pb.UpdateItemRequest(item_id=item_id, points=50))
    assert (changed.points, changed.description, changed.listed, changed.name_zh) == (50, "热", True, "现磨咖啡")
    changed = await community.call("UpdateItem", pb.UpdateItemRequest(item_id=item_id, description="", listed=False))
    assert (changed.points, changed.description, changed.listed) == (50, "", False)
    until = to_timestamp(community.town.clock.now + timedelta(days=1))
    assert (await community.call("UpdateItem", pb.UpdateItemRequest(item_id=item_id, valid_until=until))).valid_until == until


async def test_stock_is_added_and_only_what_nobody_has_reserved_is_taken(community: Community) -> None:
    await community.publish_rules()
    coffee = await item(community, stock=0)
    assert await shelf(community, coffee) == (0, 0)

    async def adjust(change: int) -> pb.Item:
        request = pb.AdjustStockRequest(item_id=coffee.item_id, change=change, reason="盘点")
        return await community.call("AdjustStock", request)  # type: ignore[no-any-return]

    assert (await adjust(3)).stock == 3
    await (await resident(community, 60)).redeem(coffee, 2)
    with pytest.raises(Conflict) as refused:
        await adjust(-2)
    assert refused.value.code == "points.stock_insufficient"
    taken = await adjust(-1)
    assert (taken.stock, taken.reserved) == (0, 2)
    answers = await asyncio.gather(*(adjust(1) for _ in range(16)), *(adjust(-1) for _ in range(8)), return_exceptions=True)
    taken_away = sum(not isinstance(answer, BaseException) for answer in answers[16:])
    assert await shelf(community, coffee) == (16 - taken_away, 2)


@pytest.mark.parametrize(
    "fields",
    [
        {"points": 0},
        {"points": -1},
        {"points": 1_000_001},
        {"stock": -1},
        {"stock": 2**40},
        {"per_resident_max": -1},
        {"name_zh": ""},
        {"name_zh": "  "},
        {"name_zh": "咖\0啡"},
        {"pickup_place": "一号楼\n大厅"},
        {"name_en": "x" * 101},
    ],
)
async def test_an_item_that_makes_no_sense_is_refused(community: Community, fields: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        await item(community, **fields)  # type: ignore[arg-type]


async def test_an_item_ends_after_it_begins(community: Community) -> None:
    now = community.town.clock.now
    for times in ({"valid_until": now}, {"valid_from": now, "valid_until": now - timedelta(days=1)}):
        with pytest.raises(Invalid) as refused:
            await item(community, **times)  # type: ignore[arg-type]
        assert refused.value.code == "points.item_dates"
    coffee = await item(community)
    with pytest.raises(Invalid):
        await community.call("UpdateItem", pb.UpdateItemRequest(item_id=coffee.item_id, valid_until=to_timestamp(now)))


async def test_an_item_of_another_community_is_not_there(points: Town, community: Community) -> None:
    theirs = (await item(Community(points))).item_id
    for item_id in (theirs, str(new_id())):
        for method, request in {
            "GetItem": pb.GetItemRequest(item_id=item_id),
            "UpdateItem": pb.UpdateItemRequest(item_id=item_id, points=1),
            "AdjustStock": pb.AdjustStockRequest(item_id=item_id, change=1, reason="盘点"),
        }.items():
            with pytest.raises(NotFound) as refused:
                await community.call(method, request)
            assert refused.value.code == "points.item_not_found"


async def test_residents_do_not_change_the_catalogue(community: Community) -> None:
    who, coffee = await resident(community), await item(community)
    for method, request in {
        "CreateItem": pb.CreateItemRequest(name_zh="免费", points=1),
        "UpdateItem": pb.UpdateItemRequest(item_id=coffee.item_id, points=1),
        "AdjustStock": pb.AdjustStockRequest(item_id=coffee.item_id, change=1, reason="盘点"),
    }.items():
        with pytest.raises(ServiceError) as refused:
            await who.call(method, request)
        assert refused.value.code == "auth.permission_missing"
