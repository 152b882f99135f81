"""How well promises are kept: figures of a group of orders, and their table. Pure."""

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Final
from uuid import UUID

DAYS_MAX: Final = 366
UNKNOWN: Final = -1


@dataclass(frozen=True, slots=True)
class Figures:
    """A category's or a team's figures. Times are seconds, shares thousandths, stars hundredths; -1 is not known.

    Shares are of the promises that are decided: kept, or missed. What is open is open now, whenever it was reported.
    """

    group_id: UUID | None
    name_zh: str
    name_en: str
    reported: int
    response_s_p50: int
    response_s_p90: int
    done_s_p50: int
    done_s_p90: int
    response_within_permille: int
    on_site_within_permille: int
    done_within_permille: int
    open: int
    oldest_open_s: int
    reopened_permille: int
    stars_hundredths: int


_HEADER: Final = (
    "编号 Id",
    "名称",
    "Name",
    "报单 Reported",
    "响应中位数 Response p50 (s)",
    "响应 90 分位 Response p90 (s)",
    "完成中位数 Done p50 (s)",
    "完成 90 分位 Done p90 (s)",
    "按时响应 Response within (‰)",
    "按时到场 On site within (‰)",
    "按时完成 Done within (‰)",
    "未完成 Open",
    "最久未完成 Oldest open (s)",
    "返工 Reopened (‰)",
    "评分 Stars (1/100)",
)
# What a spreadsheet would take for a formula. People choose these names.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def table(groups: Sequence[Figures]) -> bytes:
    """The figures as CSV (RFC 4180), UTF-8 with a byte order mark so that spreadsheets read Chinese. What is not known stays empty."""
    sheet = io.StringIO(newline="")
    writer = csv.writer(sheet)
    writer.writerow(_HEADER)
    for group in groups:
        group_id, name_zh, name_en, *numbers = astuple(group)
        writer.writerow([group_id or "", _harmless(name_zh), _harmless(name_en), *("" if n == UNKNOWN else n for n in numbers)])
    return sheet.getvalue().encode("utf-8-sig")


def _harmless(text: str) -> str:
    return "'" + text if text.startswith(_FORMULA) else text
