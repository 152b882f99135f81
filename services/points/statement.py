"""A statement of somebody's points as it is handed out, and as CSV. As PDF it is in `statement_pdf.py`."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Line:
    """One entry. Instants are in the community's time zone; `points` is what there was after it."""

    number: int
    recorded_at: datetime
    occurred_at: datetime
    text_zh: str
    text_en: str
    rule_id: str
    rules_version: int
    change: int
    points: int


@dataclass(frozen=True, slots=True)
class Statement:
    """An account's lines of a period, both days included, oldest first, and what there was before and after them."""

    account_id: UUID
    time_zone: str
    from_day: date
    until_day: date
    opening: int
    closing: int
    lines: Sequence[Line]

    @property
    def received(self) -> int:
        """All that came in."""
        return sum(line.change for line in self.lines if line.change > 0)

    @property
    def spent(self) -> int:
        """All that went out."""
        return -sum(line.change for line in self.lines if line.change < 0)


_HEADER: Final = (
    "序号 Number",
    "记录时间 Recorded",
    "发生时间 Occurred",
    "说明",
    "Description",
    "规则 Rule",
    "规则版本 Version",
    "变动 Change",
    "积分 Points",
)
# What a spreadsheet would take for a formula. Neighbours write some of these texts.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def as_csv(statement: Statement) -> bytes:
    """The statement as CSV (RFC 4180), UTF-8 with a byte order mark so that spreadsheets read Chinese."""
    sheet = io.StringIO(newline="")
    writer = csv.writer(sheet)
    writer.writerow(_HEADER)
    writer.writerow(("", statement.from_day, "", "期初", "Opening", "", "", "", statement.opening))
    for line in statement.lines:
        writer.writerow(
            (
                line.number,
                f"{line.recorded_at:%Y-%m-%d %H:%M:%S}",
                f"{line.occurred_at:%Y-%m-%d %H:%M:%S}",
                _harmless(line.text_zh),
                _harmless(line.text_en),
                line.rule_id,
                line.rules_version or "",
                line.change,
                line.points,
            )
        )
    writer.writerow(("", statement.until_day, "", "期末", "Closing", "", "", "", statement.closing))
    return sheet.getvalue().encode("utf-8-sig")


def _harmless(text: str) -> str:
    return "'" + text if text.startswith(_FORMULA) else text
