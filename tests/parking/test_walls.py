"""Every method, called from another community: nothing of this one is seen, changed or given away."""

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from linli.parking.v1 import parking_pb2 as pb
from servicekit.errors import Denied, NotFound, Unauthenticated
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from tests.parking.arrange import CONTRACT, FIVE_AN_HOUR, MONDAY_9, CarPark, Community

pytestmark = pytest.mark.asyncio(loop_scope="module")
HOUSEHOLD = new_id()
RESIDENT = {HOUSEHOLD: ["parking.visitor_passes.write", "parking.visitor_passes.read", "parking.household_sessions.read"]}
YEAR = {"valid_from": to_timestamp(MONDAY_9), "valid_until": to_timestamp(MONDAY_9 + timedelta(days=6))}
# Methods that answer every community, each with its own.
ANSWERED = {
    "CreateLot",
    "ListLots",
    "ListSessions",
    "ListHouseholdSessions",
    "ListGateOpenings",
    "ListReviews",
    "CreateVisitorPass",
    "ListVisitorPasses",
}


class Settled:
    """A community with one of everything, and a request for each method that names it."""

    def __init__(self, park: CarPark) -> None:
        self.park = park

    async def requests(self) -> dict[str, Message]:
        park, call = self.park, self.park.community.call
        permit = await park.permit("京A00001")
        space = await call("CreateSpace", pb.CreateSpaceRequest(area_id=park.area_id, label="A-01"))
        await park.sees("east_in", "京A12345")
        await park.sees("east_out", "京A99999")
        await call("OpenGate", pb.OpenGateRequest(lane_id=park.lanes["west_in"].lane_id, reason="访客"))
        session, (review,) = await park.session("京A12345"), await park.reviews()
        denial = await call("DenyPlate", pb.DenyPlateRequest(lot_id=park.lot_id, plate="京A66666", reason="欠费"))
        visit = pb.CreateVisitorPassRequest(household_id=str(HOUSEHOLD), plate="京A77777", **YEAR)
        visitor_pass = await call("CreateVisitorPass", visit, household=RESIDENT)
        park.clock.advance(hours=1)
        lot, lane = park.lot_id, park.lanes["east_in"].lane_id
        rule: Any = pb.OFFLINE_RULE_OPEN
        space_id = space.space_id
        return {
            "CreateLot": pb.CreateLotRequest(name="walls"),
            "GetLot": pb.GetLotRequest(lot_id=lot),
            "ListLots": pb.ListLotsRequest(),
            "CreateArea": pb.CreateAreaRequest(lot_id=lot, name="B9", capacity=1),
            "CreateSpace": pb.CreateSpaceRequest(area_id=park.area_id, label="Z-01"),
            "ListSpaces": pb.ListSpacesRequest(area_id=park.area_id),
            "CreateLane": pb.CreateLaneRequest(
                lot_id=lot, name="n", direction=pb.DIRECTION_EXIT, camera_device_id=lot, gate_device_id=lot, offline_rule=rule
            ),
            "UpdateLane": pb.UpdateLaneRequest(lane_id=lane, offline_rule=rule, decision_limit_ms=100),
            "PublishTariff": pb.PublishTariffRequest(
                lot_id=lot, effective_from=to_timestamp(MONDAY_9 + timedelta(days=9)), rules=ParseDict(dict(FIVE_AN_HOUR), Struct())
            ),
            "ListTariffs": pb.ListTariffsRequest(lot_id=lot),
            "IssuePermit": pb.IssuePermitRequest(lot_id=lot, household_id=str(HOUSEHOLD), space_id=space_id, plates=["京A88888"], **YEAR),
            "RevokePermit": pb.RevokePermitRequest(permit_id=permit.permit_id),
            "ListPermits": pb.ListPermitsRequest(lot_id=lot),
            "CreateVisitorPass": visit,
            "RevokeVisitorPass": pb.RevokeVisitorPassRequest(household_id=str(HOUSEHOLD), visitor_pass_id=visitor_pass.visitor_pass_id),
            "ListVisitorPasses": pb.ListVisitorPassesRequest(household_id=str(HOUSEHOLD)),
            "DenyPlate": pb.DenyPlateRequest(lot_id=lot, plate="京A55555", reason="欠费"),
            "RemoveDenial": pb.RemoveDenialRequest(denial_id=denial.denial_id),
            "ListDenials": pb.ListDenialsRequest(lot_id=lot),
            "QuoteStay": pb.QuoteStayRequest(lot_id=lot, plate="京A12345"),
            "GetSession": pb.GetSessionRequest(session_id=session.session_id),
            "ListSessions": pb.ListSessionsRequest(lot_id=lot),
            "ListHouseholdSessions": pb.ListHouseholdSessionsRequest(household_id=str(HOUSEHOLD)),
            "OpenGate": pb.OpenGateRequest(lane_id=lane, reason="访客", plate="京A12345"),
            "ListGateOpenings": pb.ListGateOpeningsRequest(lane_id=lane),
            "ListReviews": pb.ListReviewsRequest(include_resolved=True),
            "ResolveReview": pb.ResolveReviewRequest(review_id=review.review_id, note="核实"),
            "GetOccupancy": pb.GetOccupancyRequest(lot_id=lot),
            "ListHourlyOccupancy": pb.ListHourlyOccupancyRequest(lot_id=lot, day="2026-03-02"),
            "ListDailyFigures": pb.ListDailyFiguresRequest(lot_id=lot, first_day="2026-03-02", last_day="2026-03-02"),
        }


async def everything(park: CarPark) -> list[str]:
    """All rows of the community, as text."""
    async with park.running.transaction("parking", park.community.community_id) as tx:
        names = await tx.fetch("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1")
        tables = [row[0] for row in names if row[0] not in ("schema_migrations", "outbox", "inbox", "idempotency_keys")]
        return [str(row) for table in tables for row in await tx.fetch(f'SELECT * FROM "{table}" ORDER BY 1, 2')]


async def call_as(community: Community, method: str, request: Message) -> Any:
    """Calls as somebody who may do everything there: staff, and a member of the household."""
    household = "household_id" in request.DESCRIPTOR.fields_by_name and method != "IssuePermit"
    return await community.call(method, request, **({"household": RESIDENT} if household else {}))


async def test_nothing_crosses_the_wall_between_communities(park: CarPark) -> None:
    requests = await Settled(park).requests()
    assert set(requests) == {method.name for method in CONTRACT.methods}
    before = await everything(park)
    stranger = Community(park.community.town)
    for method, request in sorted(requests.items(), key=lambda item: item[0].startswith("Create")):
        if method not in ANSWERED:
            with pytest.raises(NotFound):
                await call_as(stranger, method, request)
        else:
            answer = await call_as(stranger, method, request)
            if method.startswith("List"):
                assert answer == type(answer)(), method
    assert await everything(park) == before
    # The same requests are right where they belong.
    order = sorted(requests, key=lambda name: (not name.startswith(("Get", "List", "Quote")), name == "RemoveDenial"))
    for method in order:
        answer = await call_as(park.community, method, requests[method])
        if method.startswith("List") and method != "ListHouseholdSessions":
            assert answer != type(answer)(), method


async def test_who_is_not_signed_in_or_lacks_the_permission_is_turned_away_before_anything_is_looked_up(park: CarPark) -> None:
    requests = await Settled(park).requests()
    for method in CONTRACT.methods:
        request = requests[method.name]
        with pytest.raises(Unauthenticated):
            await park.running.caller().call(f"{CONTRACT.full_name}/{method.name}", request)
        if method.name not in ("GetLot", "ListLots", "ListTariffs", "QuoteStay", "GetOccupancy"):
            with pytest.raises((Denied, NotFound)) as error:
                await park.community.guest_calls(method.name, request)
            assert error.value.code.startswith("auth.")
