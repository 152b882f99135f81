"""The methods of linli.points.v1.PointsService by which people earn: contributions, travel, and corrections of both."""

from dataclasses import replace
from uuid import UUID

from linli.points.v1 import points_pb2 as pb
from servicekit.database import Transaction
from servicekit.identifiers import derived_id
from servicekit.texts import text
from servicekit.times import to_datetime
from services.points import contribution_operations, correction_operations, travel_operations
from services.points.earning import Claim, Reason
from services.points.rule_rpc import SOURCES
from services.points.store import Earning
from services.points.travel import Trip


async def confirm_contributions(tx: Transaction, request: pb.ConfirmContributionsRequest) -> pb.ConfirmContributionsResponse:
    """An organiser confirms what people did."""
    claims = [_contribution(tx, each, f"contributions[{index}]") for index, each in enumerate(request.contributions)]
    earnings = await contribution_operations.confirm_contributions(tx, claims)
    return pb.ConfirmContributionsResponse(earnings=[_earning(earning) for earning in earnings])


def _contribution(tx: Transaction, contribution: pb.Contribution, field: str) -> Claim:
    contribution_id = str(UUID(contribution.contribution_id))
    return Claim(
        community_id=tx.community_id,
        claim_id=derived_id("points.contribution", str(tx.community_id), contribution_id),
        source=SOURCES[contribution.source],
        source_id=contribution_id,
        account_id=UUID(contribution.account_id),
        measure=contribution.measure,
        occurred_at=to_datetime(contribution.occurred_at, f"{field}.occurred_at"),
        title=text(contribution.title, f"{field}.title"),
    )


async def report_travel(tx: Transaction, request: pb.ReportTravelRequest) -> pb.ReportTravelResponse:
    """The caller's phone reports walks and rides."""
    trips = [
        Trip(
            trip_id=UUID(trip.trip_id),
            source=SOURCES[trip.source],
            started_at=to_datetime(trip.started_at, f"trips[{index}].started_at"),
            ended_at=to_datetime(trip.ended_at, f"trips[{index}].ended_at"),
            distance_m=trip.distance_m,
            steps=trip.steps,
            device=trip.device,
        )
        for index, trip in enumerate(request.trips)
    ]
    earnings = await travel_operations.report_travel(tx, trips)
    return pb.ReportTravelResponse(earnings=[_earning(earning) for earning in earnings])


async def correct_earning(tx: Transaction, request: pb.CorrectEarningRequest) -> pb.Correction:
    """Takes back what was earned, and applies the rule to the measure that is right."""
    reason = text(request.reason, "reason")
    correction = await correction_operations.correct_earning(tx, UUID(request.transfer_id), reason, request.measure)
    return pb.Correction(
        reversal_id=str(correction.reversal_id),
        taken_back=correction.taken_back,
        owed=correction.owed,
        earning=None if correction.earning is None else _earning(correction.earning),
    )


def _earning(earning: Earning) -> pb.Earning:
    if earning.is_taken_back:
        earning = replace(earning, points=0, reason=Reason.WITHDRAWN)
    text_zh, text_en = earning.reason.texts if earning.reason else (earning.text_zh, earning.text_en)
    return pb.Earning(
        source_id=earning.claim.source_id,
        transfer_id=str(earning.transfer_id) if earning.points else "",
        points=earning.points,
        rule_id=earning.rule_id,
        rules_version=earning.rules_version,
        reason=earning.reason,
        text_zh=text_zh,
        text_en=text_en,
    )
