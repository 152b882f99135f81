"""Every method, called from another community: nothing of this one is seen, changed or given away."""

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.message import Message

from linli.workorders.v1 import workorders_pb2 as pb
from servicekit.errors import Conflict, Denied, NotFound, Unauthenticated
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from tests.workorders.arrange import CONTRACT, MANAGER, MONDAY_10, TECHNICIAN, Community, Person

pytestmark = pytest.mark.asyncio(loop_scope="module")
# Methods that answer every community, each with its own.
ANSWERED = {
    "CreateCategory",
    "CreatePhotoUpload",
    "CreateTeam",
    "DownloadOrderFigures",
    "GetOrderFigures",
    "GetService",
    "SetBuildingPosition",
    "SetPrice",
    "SetService",
} | {method.name for method in CONTRACT.methods if method.name.startswith("List") and "order_id" not in method.input_type.fields_by_name}
# Methods that anybody who is signed in may call, and then finds only what is theirs.
SIGNED_IN = {method.name for method in CONTRACT.methods if "order_id" in method.input_type.fields_by_name} | {
    "ListCategories",
    "GetService",
    "ReportOrder",
    "ListMyOrders",
    "ListPublicOrders",
    "CreatePhotoUpload",
    "ListPrices",
}


async def settled(community: Community) -> dict[str, Message]:
    """A community with one of everything, and a request for each method that names it."""
    manager, reporter, plumber = community.manager, await community.resident(), await community.technician()
    category = await community.category("leak", skill="plumbing")
    price = pb.SetPriceRequest(code="seal", name_zh="密封圈", name_en="Seal", unit=pb.PRICE_UNIT_PIECE, price_fen=1500, in_use=True)
    await manager.call("SetPrice", price)
    original = await reporter.report(category)
    order = await plumber.accept(await reporter.report(category, visibility=pb.VISIBILITY_NEIGHBOURS, photo_ids=[]))
    items = [pb.QuoteItem(code="seal", quantity_hundredths=100)]
    quote = await plumber.call("QuoteOrder", pb.QuoteOrderRequest(order_id=order.order_id, items=items))
    plan = pb.CreateInspectionRequest(
        name="电梯", category_id=category, starts_at="2026-03-03T09:00", recurrence="FREQ=DAILY", checklist=["门"]
    )
    inspection = await manager.call("CreateInspection", plan)
    photo_id = await community.photo(reporter)
    named: dict[str, Any] = {"order_id": order.order_id}
    days: dict[str, Any] = {"from_day": "2026-03-01", "until_day": "2026-03-03", "by": pb.FIGURES_BY_CATEGORY}
    answer = named | {"quote_id": quote.quote_id}
    visit: dict[str, Any] = {
        name: to_timestamp(MONDAY_10 + timedelta(hours=hours)) for name, hours in (("visit_from", 1), ("visit_until", 2))
    }
    position = {"latitude": 31.2, "longitude": 121.5}
    return {
        "CreateCategory": pb.CreateCategoryRequest(code="walls", name_zh="墙", name_en="Walls", kind=pb.ORDER_KIND_REPAIR),
        "UpdateCategory": pb.UpdateCategoryRequest(category_id=category, name_en="Other"),
        "ListCategories": pb.ListCategoriesRequest(),
        "SetService": pb.SetServiceRequest(escalation_roles=["foreman"], offer_s=60, reopen_days=3),
        "GetService": pb.GetServiceRequest(),
        "CreateTeam": pb.CreateTeamRequest(name="walls"),
        "ListTeams": pb.ListTeamsRequest(),
        "SetTechnician": pb.SetTechnicianRequest(account_id=str(new_id()), name="A", team_id=community.team_id, skills=["a"], in_use=True),
        "ListTechnicians": pb.ListTechniciansRequest(),
        "ReportMyPosition": pb.ReportMyPositionRequest(**position),
        "SetBuildingPosition": pb.SetBuildingPositionRequest(building_id=str(reporter.building_id), **position),
        "ReportOrder": pb.ReportOrderRequest(category_id=category, title="漏水"),
        "GetOrder": pb.GetOrderRequest(**named),
        "ListOrderSteps": pb.ListOrderStepsRequest(**named),
        "ListMyOrders": pb.ListMyOrdersRequest(),
        "ListPublicOrders": pb.ListPublicOrdersRequest(),
        "ListOrders": pb.ListOrdersRequest(category_id=category),
        "ListMyJobs": pb.ListMyJobsRequest(),
        "ListOpenJobs": pb.ListOpenJobsRequest(),
        "CreatePhotoUpload": pb.CreatePhotoUploadRequest(bytes=100),
        "AttachPhoto": pb.AttachPhotoRequest(photo_id=photo_id, **named),
        "CommentOrder": pb.CommentOrderRequest(text="你好", **named),
        "TriageOrder": pb.TriageOrderRequest(note="看过", **named),
        "DispatchOrder": pb.DispatchOrderRequest(technician_account_id=str(plumber.account_id), **named),
        "ListCandidates": pb.ListCandidatesRequest(**named),
        "AcceptOrder": pb.AcceptOrderRequest(**named),
        "PassOnOrder": pb.PassOnOrderRequest(reason="太远", **named),
        "PlanVisit": pb.PlanVisitRequest(**named, **visit),
        "ArriveOnSite": pb.ArriveOnSiteRequest(**named),
        "PauseOrder": pb.PauseOrderRequest(waits_for=pb.WAITS_FOR_PART, reason="等配件", **named),
        "ResumeOrder": pb.ResumeOrderRequest(**named),
        "CompleteOrder": pb.CompleteOrderRequest(cause="x", resolution="好了", **named),
        "ConfirmOrder": pb.ConfirmOrderRequest(**named),
        "ReopenOrder": pb.ReopenOrderRequest(reason="没好", **named),
        "CancelOrder": pb.CancelOrderRequest(reason="不要了", **named),
        "RateOrder": pb.RateOrderRequest(stars=5, **named),
        "FollowUpOrder": pb.FollowUpOrderRequest(note="满意", **named),
        "ListSimilarOrders": pb.ListSimilarOrdersRequest(**named),
        "LinkDuplicate": pb.LinkDuplicateRequest(original_order_id=original.order_id, **named),
        "UnlinkDuplicate": pb.UnlinkDuplicateRequest(**named),
        "SetPrice": price,
        "ListPrices": pb.ListPricesRequest(),
        "QuoteOrder": pb.QuoteOrderRequest(items=items, **named),
        "ListQuotes": pb.ListQuotesRequest(**named),
        "AgreeToQuote": pb.AgreeToQuoteRequest(**answer),
        "RefuseQuote": pb.RefuseQuoteRequest(**answer),
        "CreateInspection": plan,
        "EndInspection": pb.EndInspectionRequest(inspection_id=inspection.inspection_id),
        "ListInspections": pb.ListInspectionsRequest(),
        "GetOrderFigures": pb.GetOrderFiguresRequest(**days),
        "DownloadOrderFigures": pb.DownloadOrderFiguresRequest(**days),
    }


async def everything(community: Community) -> list[str]:
    """All rows of the community, as text."""
    async with community.town.running.transaction("workorders", community.community_id) as tx:
        names = await tx.fetch("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1")
        tables = [row[0] for row in names if row[0] not in ("schema_migrations", "outbox", "inbox", "idempotency_keys")]
        return [str(row) for table in tables for row in await tx.fetch(f'SELECT * FROM "{table}" ORDER BY 1, 2')]


async def test_nothing_crosses_the_wall_between_communities(community: Community) -> None:
    requests = await settled(community)
    assert set(requests) == {method.name for method in CONTRACT.methods}
    before = await everything(community)
    order_id = str(requests["GetOrder"]).split('"')[1]
    elsewhere = Community(community.town)
    resident = await elsewhere.resident()
    stranger = Person(elsewhere, resident.account_id, [*MANAGER, *TECHNICIAN])
    for method, request in sorted(requests.items(), key=lambda item: item[0].startswith(("Create", "Set"))):
        if method not in ANSWERED:
            # Where one is, only who is entered as a technician says: that is nobody else's secret.
            with pytest.raises(Denied if method == "ReportMyPosition" else NotFound):
                await stranger.call(method, request)
            continue
        answer = await stranger.call(method, request)
        if method.startswith("List") or "Figures" in method:
            assert not any(str(part) in str(answer) for part in (community.team_id, order_id, "leak")), method
    assert await everything(community) == before


async def test_who_is_not_signed_in_or_lacks_the_permission_is_turned_away_before_anything_is_looked_up(community: Community) -> None:
    requests, guest = await settled(community), Person(community)
    before = await everything(community)
    for method, request in requests.items():
        with pytest.raises(Unauthenticated):
            await community.town.running.caller().call(f"{CONTRACT.full_name}/{method}", request)
        if method not in SIGNED_IN:
            with pytest.raises(Denied) as denied:
                await guest.call(method, request)
            assert denied.value.code == "auth.permission_missing", method
        elif "order_id" in request.DESCRIPTOR.fields_by_name:
            with pytest.raises((NotFound, Denied, Conflict)):
                await guest.call(method, request)
    assert await everything(community) == before
