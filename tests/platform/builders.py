"""What a request needs that its contract does not tell, because only the state of things does.

Each builder makes what its endpoint uses up, so that a request works as often as it is prepared.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec

from console.seed import TARIFF
from linli.points.v1 import points_pb2
from tests.billing.world import MERCHANT
from tests.platform import doors, orders
from tests.platform.endpoints import NAMED, Raw, UnknownId, Values, Words, instant, leaves

if TYPE_CHECKING:
    from tests.platform.neighbourhood import Community

Builder = Callable[["Community"], Awaitable[dict[str, Any]]]

PASSWORD = "correct horse battery staple"
# What one resident may be granted in a day without a second person.
GRANT_POINTS_MAX = 100_000
# More than a compartment holds: somebody has to look at it.
_HEAVY_GRAMS = 1500


def rules(words: Words) -> Values:
    """Rules of points under which nobody but organisers and phones gives any, so that none come while somebody counts."""
    rule = points_pb2.Rule.DESCRIPTOR
    terms = {"grant_points_max": GRANT_POINTS_MAX, "gift_daily_points_max": 1000, "gift_monthly_points_max": 1000, "hold_hours": 720}
    return {
        "rules": [words.message(rule, rule_id=words.text(), source=source) for source in ("SOURCE_VOLUNTEERING", "SOURCE_WALKING")],
        "terms": terms,
    }


def _said(**values: Any) -> Builder:
    async def build(_community: "Community") -> dict[str, Any]:
        return values

    return build


def _fresh(maker: str, *names: str, **aliases: str) -> Builder:
    """What `maker` has just made: its answer's members of these names, or under another name."""

    async def build(community: "Community") -> dict[str, Any]:
        values = await community.prepare(NAMED[maker])
        answer = await community.town.call(maker, values, community.caller(NAMED[maker]))
        found = dict(leaves(answer))
        return {**{name: found[name] for name in names}, **{name: found[theirs] for name, theirs in aliases.items()}}

    return build


async def _device(community: "Community") -> dict[str, Any]:
    return {"device_id": (await community.new_device("DEVICE_KIND_PLATE_CAMERA"))["device"]["device_id"]}


async def _lane(community: "Community") -> dict[str, Any]:
    device = await _device(community)
    return {"camera_device_id": device["device_id"], "gate_device_id": device["device_id"]}


async def _code(community: "Community") -> dict[str, Any]:
    phone = community.words.phone()
    return {"phone": phone, "code": await community.town.send_code(community.community_id, phone)}


async def _sign_in(community: "Community") -> dict[str, Any]:
    return {"refresh_token": (await community.town.sign_in(community.community_id, community.words.phone()))["refresh_token"]}


async def _notification(community: "Community") -> dict[str, Any]:
    """What the provider has said of the payment that succeeded, once more."""
    payment = await community.do("billing.GetPayment")
    resource = {
        "merchant_id": MERCHANT,
        "out_trade_no": payment["payment_id"].replace("-", ""),
        "transaction_id": payment["provider_payment_id"],
        "amount_fen": int(payment["amount_fen"]),
        "success_time": payment["paid_at"],
    }
    body = msgspec.json.encode({"event_type": "TRANSACTION.SUCCESS", "resource": resource})
    return {"notification": Raw(body, community.town.provider.headers(body, datetime.now(UTC)))}


async def _tomorrow(_community: "Community") -> dict[str, Any]:
    return {"rules": TARIFF, "effective_from": instant(datetime.now(UTC) + timedelta(days=1))}


async def _name(community: "Community") -> dict[str, Any]:
    return {"name": community.words.text()}


async def _password(community: "Community") -> dict[str, Any]:
    return {"phone": community.phone, "password": PASSWORD}


async def _parked(community: "Community") -> dict[str, Any]:
    return {"plate": community.parked}


async def _new_device_id(community: "Community") -> dict[str, Any]:
    return {"device_id": f"device-{community.words.text()}"}


async def _review(community: "Community") -> dict[str, Any]:
    return {"review_id": await community.new_review()}


async def _readings(community: "Community") -> dict[str, Any]:
    return dict(community.examples["insights.ReadTelemetry"])


async def _rules(community: "Community") -> dict[str, Any]:
    return {"effective_from": instant(datetime.now(UTC) + timedelta(days=1)), **rules(community.words)}


async def _contribution(community: "Community") -> dict[str, Any]:
    return {"contributions": [community.words.message(points_pb2.Contribution.DESCRIPTOR, contribution_id=str(uuid4()))]}


async def _trip(community: "Community") -> dict[str, Any]:
    return {"trips": [community.new_trip()]}


async def _grant(_community: "Community") -> dict[str, Any]:
    return {"grant_id": str(uuid4())}


async def _grants(community: "Community") -> dict[str, Any]:
    return {"grants": [community.words.message(points_pb2.GrantPointsRequest.DESCRIPTOR, grant_id=str(uuid4()))]}


async def _waiting_grant(community: "Community") -> dict[str, Any]:
    return {"grant_id": await community.grant(community.words.id_for("account_id"), GRANT_POINTS_MAX + 1)}


async def _neighbour(community: "Community") -> dict[str, Any]:
    return {"to_account_id": community.words.id_for("account_id"), "points": 1}


async def _building(community: "Community") -> dict[str, Any]:
    return {"building_id": community.words.id_for("building_id")}


async def _nickname(community: "Community") -> dict[str, Any]:
    return {"nickname": community.words.text()}


async def _today(_community: "Community") -> dict[str, Any]:
    """Days on which something has happened, wherever it is that day already."""
    today = datetime.now(UTC).date()
    return {"from_day": today.isoformat(), "until_day": (today + timedelta(days=1)).isoformat()}


async def _statement(community: "Community") -> dict[str, Any]:
    """One that can be read."""
    return {"format": "STATEMENT_FORMAT_CSV", **await _today(community)}


async def _bin(community: "Community") -> dict[str, Any]:
    return {"device_id": (await community.new_device("DEVICE_KIND_BIN"))["device"]["device_id"]}


async def _deposit(community: "Community") -> dict[str, Any]:
    return {"deposit_id": await community.new_deposit()}


async def _heavy_deposit(community: "Community") -> dict[str, Any]:
    return {"deposit_id": await community.new_deposit(heavier_grams=_HEAVY_GRAMS), "accept": True}


async def _round(community: "Community") -> dict[str, Any]:
    return {"shift_start_minute": 20 * 60, "shift_end_minute": 22 * 60, "fixed_round_bin_ids": [community.words.id_for("bin_id")]}


async def _night(community: "Community") -> dict[str, Any]:
    """Today or tomorrow in every community, and not begun: it is later there, and trucks leave in the evening."""
    community.words.id_for("truck_id")
    return {"day": (datetime.now(UTC).date() + timedelta(days=1)).isoformat()}


async def _planned_night(community: "Community") -> dict[str, Any]:
    if "waste.PlanCollection" not in community.examples:
        raise UnknownId("day")
    return dict(community.examples["waste.PlanCollection"])


# Doors, and what is observed at them.


async def _terminal(community: "Community") -> dict[str, Any]:
    return {"device_id": (await community.new_device("DEVICE_KIND_TERMINAL"))["device"]["device_id"]}


async def _building_zone(community: "Community") -> dict[str, Any]:
    return {"kind": "ZONE_KIND_BUILDING", **await _building(community)}


async def _neighbour_in(community: "Community") -> dict[str, Any]:
    return {"account_id": community.words.id_for("account_id")}


async def _face(community: "Community") -> dict[str, Any]:
    """A face that is kept here, too, with both consents."""
    for kind in ("CONSENT_KIND_FACE_ON_TERMINALS", "CONSENT_KIND_FACE_ON_SERVER"):
        await doors.consent(community, kind, community.manager_id)
    return {"template": "dGVtcGxhdGU="}


async def _to_consent(community: "Community") -> dict[str, Any]:
    """What somebody is asked who has consented to nothing yet. Access has heard of them when they have consented to something else."""
    account_id = await doors.newcomer(community)
    await doors.consent(community, "CONSENT_KIND_CARE_ACTIVITY", account_id)
    kind = "CONSENT_KIND_CARE_LOCATION"
    return {"kind": kind, "text_version": await doors.newest_text(community, kind), "account_id": account_id}


async def _consent(community: "Community") -> dict[str, Any]:
    return {"consent_id": await doors.consent(community, "CONSENT_KIND_CARE_LOCATION", await doors.newcomer(community))}


async def _pin(community: "Community") -> dict[str, Any]:
    """Takes the place of another."""
    await community.do("access.SetMyPin", pin="314159")
    return {"pin": "271828"}


async def _accepted_link(community: "Community") -> dict[str, Any]:
    invited = await _fresh("access.InviteVisitor", "link")(community)
    await community.do("access.ConfirmInvitation", **invited)
    return invited


async def _alarm(community: "Community") -> dict[str, Any]:
    return {"alarm_id": await doors.new_alarm(community)}


async def _alarm_and_cause(community: "Community") -> dict[str, Any]:
    return {**await _alarm(community), "cause": "cat"}


async def _camera(community: "Community") -> dict[str, Any]:
    return {"source_id": doors.new_camera(community)}


async def _maintenance(community: "Community") -> dict[str, Any]:
    """In a zone in which nothing else happens."""
    zone = await _fresh("access.CreateZone", "zone_id")(community)
    return {**zone, "ends_at": instant(datetime.now(UTC) + timedelta(hours=1))}


# Work orders.


def _order(make: Callable[["Community"], Awaitable[str]], **more: Any) -> Builder:
    async def build(community: "Community") -> dict[str, Any]:
        return {"order_id": await make(community), **more}

    return build


async def _own_category(community: "Community") -> dict[str, Any]:
    """What the manager reports and what the builders use up are of two categories."""
    return {"category_id": community.words.id_for("category_id")}


async def _photo(community: "Community") -> dict[str, Any]:
    return {"order_id": await orders.reported(community), "photo_id": await orders.photo(community, community.manager)}


async def _visit(community: "Community") -> dict[str, Any]:
    return {"order_id": await orders.accepted(community), **orders.visit()}


async def _quoted(community: "Community") -> dict[str, Any]:
    order_id = await orders.accepted(community)
    return {"order_id": order_id, "quote_id": await orders.quote(community, order_id)}


async def _duplicate(community: "Community") -> dict[str, Any]:
    return {"order_id": await orders.reported(community), "original_order_id": await orders.reported(community)}


async def _every_day(_community: "Community") -> dict[str, Any]:
    return {"starts_at": f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%dT09:00}", "recurrence": "FREQ=DAILY"}


BUILDERS: Mapping[str, Builder] = {
    "access.AcknowledgeAlarm": _alarm,
    "access.AddTerminal": _terminal,
    "access.CloseAlarm": _alarm_and_cause,
    "access.ConfirmInvitation": _fresh("access.InviteVisitor", "link"),
    "access.CreateAccessRule": _neighbour_in,
    "access.CreateDoor": _said(credential_kinds=doors.EVERY_KIND),
    "access.CreateVisitorCode": _accepted_link,
    "access.CreateWatchPoint": _camera,
    "access.CreateZone": _building_zone,
    "access.EndAccessRule": _fresh("access.CreateAccessRule", "rule_id"),
    "access.EndMaintenance": _fresh("access.PlanMaintenance", "maintenance_id"),
    "access.EndPass": _fresh("access.InviteVisitor", "pass_id"),
    "access.EnrolMyFace": _face,
    "access.GetAlarmFigures": _today,
    "access.GetInvitation": _fresh("access.InviteVisitor", "link"),
    "access.GiveConsent": _to_consent,
    "access.PlanMaintenance": _maintenance,
    "access.RecordConsent": _to_consent,
    "access.RemoveTerminal": _fresh("access.AddTerminal", "device_id"),
    "access.RevokeCredential": _fresh("access.IssueCard", "credential_id"),
    "access.RevokeMyCredential": _fresh("access.SetMyPin", "credential_id"),
    "access.RevokePass": _fresh("access.InviteVisitor", "household_id", "pass_id"),
    "access.SetMyPin": _pin,
    "access.StartCare": doors.for_care,
    "access.StopCare": _fresh("access.StartCare", "care_plan_id"),
    "access.WithdrawConsent": _consent,
    "billing.ReceiveNotification": _notification,
    "identity.RefreshTokens": _sign_in,
    "identity.RemoveMember": _fresh("identity.AddMember", "account_id"),
    "identity.RemoveVehicle": _fresh("identity.RegisterVehicle", "vehicle_id"),
    "identity.RevokeRole": _fresh("identity.GrantRole", "role_grant_id"),
    "identity.SetPassword": _said(current_password=PASSWORD, new_password=PASSWORD),
    "identity.SignInWithCode": _code,
    "identity.SignInWithPassword": _password,
    "identity.SignOut": _sign_in,
    "identity.UpdateCommunity": _name,
    "ingest.DisableDevice": _device,
    "ingest.RegisterDevice": _new_device_id,
    "ingest.RotateSecret": _device,
    "insights.ReadTelemetry": _readings,
    "parking.CreateLane": _lane,
    "parking.IssuePermit": _fresh("parking.CreateSpace", "space_id"),
    "parking.PublishTariff": _tomorrow,
    "parking.QuoteStay": _parked,
    "parking.RemoveDenial": _fresh("parking.DenyPlate", "denial_id"),
    "parking.ResolveReview": _review,
    "parking.RevokePermit": _fresh("parking.IssuePermit", "permit_id"),
    "parking.RevokeVisitorPass": _fresh("parking.CreateVisitorPass", "visitor_pass_id"),
    "points.ApproveGrant": _waiting_grant,
    "points.CancelRedemption": _fresh("points.Redeem", "redemption_id"),
    "points.ConfirmContributions": _contribution,
    "points.ConfirmRedemption": _fresh("points.Redeem", "pickup_code"),
    "points.CorrectEarning": _fresh("points.ConfirmContributions", "transfer_id"),
    "points.CreateItem": _said(stock=100_000),
    "points.DownloadMyStatement": _statement,
    "points.GetLeaderboard": _building,
    "points.GiftPoints": _neighbour,
    "points.GrantPoints": _grant,
    "points.GrantPointsInBatch": _grants,
    "points.PublishRules": _rules,
    "points.RejectGrant": _waiting_grant,
    "points.ReportTravel": _trip,
    "points.SetPooling": _said(pools=True),
    "points.UpdateMyPointsPreferences": _nickname,
    "waste.CreateBin": _bin,
    "waste.CreateTruck": _round,
    "waste.GetCollectionPlan": _planned_night,
    "waste.PlanCollection": _night,
    "waste.ReportContamination": _deposit,
    "waste.ReviewDeposit": _heavy_deposit,
    "waste.RevokeCard": _fresh("waste.RegisterCard", "card_id"),
    "waste.WithdrawContamination": _fresh("waste.ReportContamination", "deposit_id"),
    "workorders.AcceptOrder": _order(orders.reported),
    "workorders.AgreeToQuote": _quoted,
    "workorders.ArriveOnSite": _order(orders.accepted),
    "workorders.AttachPhoto": _photo,
    "workorders.CancelOrder": _order(orders.reported),
    "workorders.CommentOrder": _order(orders.reported),
    "workorders.CompleteOrder": _order(orders.on_site),
    "workorders.ConfirmOrder": _order(orders.done),
    "workorders.CreateInspection": _every_day,
    "workorders.CreatePhotoUpload": _said(bytes=len(orders.PICTURE)),
    "workorders.DispatchOrder": _order(orders.reported),
    "workorders.DownloadOrderFigures": _today,
    "workorders.EndInspection": _fresh("workorders.CreateInspection", "inspection_id"),
    "workorders.FollowUpOrder": _order(orders.done),
    "workorders.GetOrderFigures": _today,
    "workorders.LinkDuplicate": _duplicate,
    "workorders.ListOrders": _own_category,
    "workorders.PassOnOrder": _order(orders.reported),
    "workorders.PauseOrder": _order(orders.accepted),
    "workorders.PlanVisit": _visit,
    "workorders.QuoteOrder": _order(orders.accepted, items=orders.items()),
    "workorders.RateOrder": _order(orders.done, stars=5),
    "workorders.RefuseQuote": _quoted,
    "workorders.ReopenOrder": _order(orders.done),
    "workorders.ResumeOrder": _order(orders.paused),
    "workorders.SetService": _said(**orders.TERMS),
    "workorders.TriageOrder": _order(orders.reported),
    "workorders.UnlinkDuplicate": _order(orders.linked),
}
