"""The methods of linli.points.v1.PointsService about leaderboards."""

from datetime import date, timedelta
from typing import Final
from uuid import UUID

from linli.points.v1 import points_pb2 as pb
from servicekit import households
from servicekit.communities import find_time_zone
from servicekit.database import Transaction
from servicekit.texts import text
from servicekit.times import to_day
from services.points import leaderboard_store

_RANKS_MAX: Final = 50


async def get_leaderboard(tx: Transaction, request: pb.GetLeaderboardRequest) -> pb.Leaderboard:
    """Who earned most in a month: the buildings, or the residents of one."""
    today = tx.now.astimezone(await find_time_zone(tx)).date()
    since = to_day(f"{request.month}-01", "month") if request.month else today.replace(day=1)
    until = _first_of_next_month(since)
    account_id = tx.caller.account_id
    if request.building_id:
        members = await households.list_members(tx, UUID(request.building_id))
        residents = await leaderboard_store.rank_residents(tx, members, since, until, _RANKS_MAX)
        ranks = [pb.Rank(rank=row.rank, nickname=row.nickname, mine=row.subject_id == account_id, points=row.points) for row in residents]
    else:
        home = (await households.find_homes(tx, [account_id])).get(account_id)
        ranks = [
            pb.Rank(
                rank=row.rank,
                building_id=str(row.subject_id),
                mine=home is not None and row.subject_id == home.building_id,
                points=row.points,
            )
            for row in await leaderboard_store.rank_buildings(tx, since, until, _RANKS_MAX)
        ]
    return pb.Leaderboard(month=f"{since:%Y-%m}", ranks=ranks)


def _first_of_next_month(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1)


async def update_my_points_preferences(tx: Transaction, request: pb.UpdateMyPointsPreferencesRequest) -> pb.PointsPreferences:
    """Sets how the caller appears on leaderboards, or that they do not."""
    nickname = text(request.nickname, "nickname") if request.nickname else ""
    preferences = await leaderboard_store.save_preferences(
        tx,
        request.on_leaderboards if request.HasField("on_leaderboards") else None,
        nickname if request.HasField("nickname") else None,
    )
    return pb.PointsPreferences(on_leaderboards=preferences.on_leaderboards, nickname=preferences.nickname)
