"""Lots, tariffs, figures, and sessions that nobody saw end."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from linli.identity.v1.events_pb2 import CommunityChanged
from linli.parking.v1 import parking_pb2 as pb
from servicekit.database import PLATFORM
from servicekit.errors import Conflict, Invalid, NotFound
from servicekit.identifiers import new_id
from services.parking import operations
from tests.parking.arrange import FIVE_AN_HOUR, MONDAY_9, CarPark, Community
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_lot_is_listed_with_its_areas_and_lanes(park: CarPark) -> None:
    lot = await park.community.guest_calls("GetLot", pb.GetLotRequest(lot_id=park.lot_id))
    assert [area.name for area in lot.areas] == ["B1"]
    assert [lane.name for lane in lot.lanes] == ["east_in", "east_out", "west_in", "west_out"]
    assert {lane.decision_limit_ms for lane in lot.lanes} == {2000}
    listed = await park.community.guest_calls("ListLots", pb.ListLotsRequest())
    assert list(listed.lots) == [lot]


async def test_lists_go_on_page_by_page(community: Community) -> None:
    created = [(await community.lot(tariff=None)).lot_id for _ in range(3)]
    seen, token = [], ""
    for size in (2, 1):
        listed = await community.call("ListLots", pb.ListLotsRequest(page_size=size, page_token=token))
        seen += [lot.lot_id for lot in listed.lots]
        token = listed.next_page_token
    assert (seen, token) == (created, "")
    with pytest.raises(Invalid):
        await community.call("ListLots", pb.ListLotsRequest(page_token="hello"))


async def test_spaces_are_listed_by_label(park: CarPark) -> None:
    for label in ("B-02", "A-01", "A-03"):
        await park.community.call("CreateSpace", pb.CreateSpaceRequest(area_id=park.area_id, label=label))
    first = await park.community.call("ListSpaces", pb.ListSpacesRequest(area_id=park.area_id, page_size=2))
    rest = await park.community.call("ListSpaces", pb.ListSpacesRequest(area_id=park.area_id, page_token=first.next_page_token))
    assert [space.label for space in [*first.spaces, *rest.spaces]] == ["A-01", "A-03", "B-02"]


async def test_names_labels_and_cameras_are_used_once(park: CarPark) -> None:
    lot = await park.community.call("GetLot", pb.GetLotRequest(lot_id=park.lot_id))
    await park.community.call("CreateSpace", pb.CreateSpaceRequest(area_id=park.area_id, label="A-01"))
    camera = park.lanes["east_in"].camera_device_id
    rule: Any = pb.OFFLINE_RULE_OPEN
    again = {
        "CreateLot": pb.CreateLotRequest(name=lot.name),
        "CreateArea": pb.CreateAreaRequest(lot_id=park.lot_id, name=" B1 ", capacity=1),
        "CreateSpace": pb.CreateSpaceRequest(area_id=park.area_id, label="A-01"),
        "CreateLane": pb.CreateLaneRequest(
            lot_id=park.lot_id, name="new", direction=pb.DIRECTION_EXIT, camera_device_id=camera, gate_device_id="g", offline_rule=rule
        ),
    }
    for method, request in again.items():
        with pytest.raises(Conflict):
            await park.community.call(method, request)
    for method, wrong in {
        "CreateLot": pb.CreateLotRequest(name="a\0b"),
        "CreateArea": pb.CreateAreaRequest(lot_id=park.lot_id, name="\x07", capacity=1),
        "CreateSpace": pb.CreateSpaceRequest(area_id=park.area_id, label="   "),
    }.items():
        with pytest.raises(Invalid) as error:
            await park.community.call(method, wrong)
        assert error.value.fields[0].code == "text"


# Tariffs.


async def test_a_tariff_is_given_back_as_it_was_published(park: CarPark) -> None:
    changed = {**FIVE_AN_HOUR, "grace_minutes": 20}
    published = await park.publish_tariff(changed, park.clock.now + timedelta(days=1))
    assert published.version == 2
    listed = await park.community.guest_calls("ListTariffs", pb.ListTariffsRequest(lot_id=park.lot_id))
    assert [tariff.version for tariff in listed.tariffs] == [2, 1]
    assert listed.tariffs[0].rules["grace_minutes"] == 20
    assert listed.tariffs[0].rules == published.rules
    assert listed.tariffs[1].rules["bands"][0]["rates"][0]["increment_amount"] == 500


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"bands": []}, "rules.bands"),
        ({"grace_minutes": 1.5}, "rules.grace_minutes"),
        ({"grace_minutes": float("nan")}, "rules.grace_minutes"),
        ({"free": {"minutes": "30", "kind": "all_or_nothing"}}, "rules.free.minutes"),
        (
            {"bands": [{"name": "x", "rates": [{"rate_unit": "hour", "increment_duration": 1, "increment_amount": -5}]}]},
            "rules.bands[0].rates[0].increment_amount",
        ),
        ({"colour": "blue"}, "rules.colour"),
        ({"version": 7}, "rules.version"),
        ({"effective_from": "2026-01-01T00:00:00+08:00"}, "rules.effective_from"),
        ({"name": "a\0b"}, "rules.name"),
        ({"effective_until": "2020-01-01T00:00:00+08:00"}, "rules.effective_until"),
    ],
)
async def test_what_is_wrong_with_a_tariff_is_said_with_its_path(park: CarPark, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as error:
        await park.publish_tariff({**FIVE_AN_HOUR, **changes}, park.clock.now + timedelta(days=1))
    assert error.value.code == "parking.tariff_invalid"
    assert field in [violation.field for violation in error.value.fields]


async def test_a_price_that_was_shown_is_never_changed(park: CarPark) -> None:
    with pytest.raises(Conflict) as error:
        await park.publish_tariff(FIVE_AN_HOUR, park.clock.now - timedelta(seconds=1))
    assert error.value.code == "parking.tariff_in_the_past"


async def test_parking_is_free_where_no_tariff_was_in_force(community: Community) -> None:
    park = await community.lot(tariff=None)
    await park.sees("east_in", "京A12345")
    park.clock.advance(days=2)
    assert (await park.quote("京A12345")).amount_fen == 0
    assert (await park.sees("east_out", "京A12345")).opened


# Figures.


async def test_occupancy_by_hour_is_that_of_the_communitys_day(park: CarPark) -> None:
    for minutes, lane, plate in [
        (30, "east_in", "京A00001"),
        (20, "west_in", "京A00002"),
        (15, "east_out", "京A00001"),
        (5, "east_in", "京A00001"),
        (60, "east_in", "京A00001"),
    ]:
        park.clock.advance(minutes=minutes)
        await park.sees(lane, plate)
    occupancy = await park.community.guest_calls("GetOccupancy", pb.GetOccupancyRequest(lot_id=park.lot_id))
    assert (occupancy.capacity, occupancy.inside) == (100, 2)
    request = pb.ListHourlyOccupancyRequest(lot_id=park.lot_id, day="2026-03-02")
    hours = (await park.community.call("ListHourlyOccupancy", request)).hours
    # It is 11:10 in Shanghai.
    assert [(hour.hour, hour.inside) for hour in hours] == [(hour, 0) for hour in range(9)] + [(9, 2), (10, 2)]
    request.day = "2026-03-03"
    assert (await park.community.call("ListHourlyOccupancy", request)).hours == []


async def test_a_community_elsewhere_has_its_own_days(park: CarPark) -> None:
    for zone, version in (("Asia/Urumqi", 5), ("Europe/Berlin", 4)):
        event = CommunityChanged(community_id=str(park.community.community_id), name="x", time_zone=zone)
        await park.community.publish(event, version=version)

    async def known() -> bool:
        async with park.running.transaction("parking", park.community.community_id) as tx:
            return bool(await tx.fetchval("SELECT time_zone = 'Asia/Urumqi' FROM known_communities"))

    await eventually(known)
    park.clock.now = datetime(2026, 3, 2, 17, 0, tzinfo=UTC)  # 23:00 in Ürümqi, past midnight in Shanghai
    await park.sees("east_in", "京A12345")
    request = pb.ListDailyFiguresRequest(lot_id=park.lot_id, first_day="2026-03-02", last_day="2026-03-03")
    days = (await park.community.call("ListDailyFigures", request)).days
    assert [(day.day, day.entries) for day in days] == [("2026-03-02", 1), ("2026-03-03", 0)]


async def test_the_days_figures_are_entries_exits_turnover_and_revenue(community: Community) -> None:
    park = await community.lot(capacity=4)
    for plate in ("京A00001", "京A00002", "京A00003"):
        await park.sees("east_in", plate)
        park.clock.advance(minutes=1)
    park.clock.advance(minutes=60)
    payments = []
    for plate in ("京A00001", "京A00002"):
        quote = await park.quote(plate)
        payments.append(await park.pay(quote.session_id, quote.charge_id, quote.amount_fen))
        assert (await park.sees("east_out", plate)).opened
        park.clock.advance(minutes=1)
    park.clock.advance(days=1)
    await park.refund(payments[0], 300)

    async def refunded() -> bool:
        return (await park.session("京A00001")).paid_fen == 700

    await eventually(refunded)
    request = pb.ListDailyFiguresRequest(lot_id=park.lot_id, first_day="2026-03-01", last_day="2026-03-03")
    days = (await community.call("ListDailyFigures", request)).days
    figures = [(day.day, day.entries, day.exits, day.turnover_percent, day.revenue_fen) for day in days]
    assert figures == [("2026-03-01", 0, 0, 0, 0), ("2026-03-02", 3, 2, 50, 2000), ("2026-03-03", 0, 0, 0, -300)]


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("2026-03-02", "2026-03-01"),
        ("2026-01-01", "2026-04-04"),
        ("2026-02-30", "2026-03-01"),
        ("0001-01-01", "0001-01-01"),
        ("9999-12-31", "9999-12-31"),
    ],
)
async def test_days_that_are_none_or_too_many_are_refused(park: CarPark, first: str, last: str) -> None:
    with pytest.raises(Invalid):
        await park.community.call("ListDailyFigures", pb.ListDailyFiguresRequest(lot_id=park.lot_id, first_day=first, last_day=last))
    assert (
        len(
            (
                await park.community.call(
                    "ListDailyFigures", pb.ListDailyFiguresRequest(lot_id=park.lot_id, first_day="2026-01-01", last_day="2026-04-03")
                )
            ).days
        )
        == 93
    )


async def test_what_is_not_there_is_not_found(park: CarPark) -> None:
    nothing = str(new_id())
    for method, request in {
        "GetLot": pb.GetLotRequest(lot_id=nothing),
        "GetSession": pb.GetSessionRequest(session_id=nothing),
        "GetOccupancy": pb.GetOccupancyRequest(lot_id=nothing),
        "CreateSpace": pb.CreateSpaceRequest(area_id=nothing, label="x"),
        "RevokePermit": pb.RevokePermitRequest(permit_id=nothing),
    }.items():
        with pytest.raises(NotFound):
            await park.community.call(method, request)


# Cars that nobody saw leave.


async def test_a_session_of_a_month_is_closed_as_missed_and_reviewed(park: CarPark) -> None:
    await park.sees("east_in", "京A00001")
    park.clock.advance(days=29)
    await park.sees("east_in", "京A00002")
    park.clock.advance(days=1, seconds=1)
    await close_abandoned(park)
    assert [session.state for session in await park.sessions()] == [pb.SESSION_STATE_EXIT_MISSED, pb.SESSION_STATE_OPEN]
    assert await park.inside() == 1
    assert [review.kind for review in await park.reviews()] == ["exit_missed"]
    # What becomes known later puts it right.
    left_at = MONDAY_9 + timedelta(days=29, hours=5)
    late = await park.sees("east_out", "京A00001", occurred_at=left_at)
    assert late.reason == "late_read"
    await close_abandoned(park)
    assert await park.inside() == 1


async def close_abandoned(park: CarPark) -> None:
    async with park.running.transaction("parking", PLATFORM) as tx:
        await operations.close_abandoned_sessions(tx)
