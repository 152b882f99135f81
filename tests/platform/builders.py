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


async def _statement(_community: "Community") -> dict[str, Any]:
    """One that can be read, of days that have entries."""
    today = datetime.now(UTC).date()
    return {"format": "STATEMENT_FORMAT_CSV", "from_day": today.isoformat(), "until_day": (today + timedelta(days=1)).isoformat()}


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


BUILDERS: Mapping[str, Builder] = {
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
}
