"""The methods of linli.workorders.v1.WorkOrdersService about figures."""

from datetime import timedelta

from google.api.httpbody_pb2 import HttpBody

from linli.workorders.v1 import workorders_pb2 as pb
from servicekit import communities
from servicekit.database import Transaction
from servicekit.errors import FieldViolation, Invalid
from servicekit.texts import in_callers_language
from servicekit.times import span, to_day
from services.workorders import figures_store
from services.workorders.figures import DAYS_MAX, Figures, table


async def get_order_figures(tx: Transaction, request: pb.GetOrderFiguresRequest) -> pb.OrderFigures:
    """How well promises are kept."""
    return pb.OrderFigures(groups=[_message(group) for group in await _figures(tx, request)])


async def download_order_figures(tx: Transaction, request: pb.DownloadOrderFiguresRequest) -> HttpBody:
    """The same as CSV."""
    return HttpBody(content_type="text/csv; charset=utf-8", data=table(await _figures(tx, request)))


async def _figures(tx: Transaction, request: pb.GetOrderFiguresRequest | pb.DownloadOrderFiguresRequest) -> list[Figures]:
    """Raises Invalid for days that are none, are in no order, or too many."""
    first, last = to_day(request.from_day, "from_day"), to_day(request.until_day, "until_day")
    if not first <= last < first + timedelta(days=DAYS_MAX):
        field = FieldViolation("until_day", "workorders.days", f"must be at most {DAYS_MAX - 1} days after from_day, and not before it")
        zh, en = f"起止日期无效，一次最多查询 {DAYS_MAX} 天", f"Ask for at most {DAYS_MAX} days, the first one first"
        raise Invalid("workorders.days", zh, en, fields=[field])
    zone = await communities.find_time_zone(tx)
    start, end = span(first, last, zone)
    if request.by == pb.FIGURES_BY_TEAM:
        return await figures_store.by_team(tx, start, end)
    return await figures_store.by_category(tx, start, end)


def _message(group: Figures) -> pb.GroupFigures:
    return pb.GroupFigures(
        group_id=str(group.group_id or ""),
        name=in_callers_language(group.name_zh, group.name_en),
        reported=group.reported,
        response_s_p50=group.response_s_p50,
        response_s_p90=group.response_s_p90,
        done_s_p50=group.done_s_p50,
        done_s_p90=group.done_s_p90,
        response_within_permille=group.response_within_permille,
        on_site_within_permille=group.on_site_within_permille,
        done_within_permille=group.done_within_permille,
        open=group.open,
        oldest_open_s=group.oldest_open_s,
        reopened_permille=group.reopened_permille,
        stars_hundredths=group.stars_hundredths,
    )
