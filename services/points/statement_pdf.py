"""A statement of points as PDF, A4, in Chinese and English.

Chinese is set in STSong-Light, one of the fonts that every reader of PDF brings or replaces by its own (ISO 32000-1 §9.7.3, character
collection Adobe-GB1), so no font is shipped and a statement is small: docs/adr/0043.
"""

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Final

from reportlab.lib.pagesizes import A4
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas

from services.points.statement import Line, Statement

_CHINESE: Final = "STSong-Light"
_LATIN: Final = "Helvetica"
# In points of 1/72 inch.
_WIDTH, _HEIGHT = A4
_MARGIN: Final = 48
_TEXT_X: Final = _MARGIN + 150
_CHANGE_X: Final = _WIDTH - _MARGIN - 70
_POINTS_X: Final = _WIDTH - _MARGIN
_TEXT_WIDTH: Final = _CHANGE_X - 55 - _TEXT_X
_SIZE: Final = 9
_LEADING: Final = 12
_GAP: Final = 6
_TOP: Final = _HEIGHT - _MARGIN - 20
_FIRST_TOP: Final = _HEIGHT - 200
_BOTTOM: Final = _MARGIN + 24
# The sign in print for a character that cannot be set.
_UNPRINTABLE: Final = "〓"

pdfmetrics.registerFont(UnicodeCIDFont(_CHINESE))


@dataclass(frozen=True, slots=True)
class _Row:
    line: Line
    texts: Sequence[tuple[str, str]]
    """Each printed line of the description, and its font."""

    @property
    def height(self) -> int:
        return len(self.texts) * _LEADING + _GAP


def as_pdf(statement: Statement) -> bytes:
    """The statement as PDF. The same statement is the same bytes. Takes about a second for ten thousand lines: not for the event loop."""
    pages = _paginate([_row(line) for line in statement.lines])
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=A4, invariant=1, lang="zh-CN")
    canvas.setTitle(f"积分对账单 Points statement {statement.from_day} – {statement.until_day}")
    for number, rows in enumerate(pages, 1):
        if number == 1:
            _draw_summary(canvas, statement)
        _draw_rows(canvas, _FIRST_TOP if number == 1 else _TOP, rows)
        _draw(canvas, _WIDTH / 2 - 30, _MARGIN - 10, f"第 {number} 页，共 {len(pages)} 页", _CHINESE, 8)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _row(line: Line) -> _Row:
    texts = [(part, _CHINESE) for part in _wrap(line.text_zh, _CHINESE)]
    if line.text_en != line.text_zh:
        # Names within an English text may be Chinese.
        font = _LATIN if line.text_en.isascii() else _CHINESE
        texts += [(part, font) for part in _wrap(line.text_en, font)]
    return _Row(line, texts or [("", _LATIN)])


def _wrap(text: str, font: str) -> list[str]:
    """The text in lines that fit: broken after a blank where there is one, as Chinese may be anywhere else."""
    text = "".join(character if character <= "\uffff" else _UNPRINTABLE for character in text)
    lines = []
    while text:
        length = bisect_right(list(accumulate(_width(character, font) for character in text)), _TEXT_WIDTH)
        if length < len(text):
            length = text.rfind(" ", 1, length + 1) + 1 or length
        lines.append(text[:length].rstrip())
        text = text[length:]
    return lines


@lru_cache(maxsize=10_000)
def _width(character: str, font: str) -> float:
    width: float = pdfmetrics.stringWidth(character, font, _SIZE)
    return width


def _paginate(rows: Sequence[_Row]) -> list[list[_Row]]:
    pages: list[list[_Row]] = [[]]
    left = _FIRST_TOP - _BOTTOM
    for row in rows:
        if row.height > left:
            pages.append([])
            left = _TOP - _BOTTOM
        pages[-1].append(row)
        left -= row.height
    return pages


def _draw_summary(canvas: Canvas, statement: Statement) -> None:
    top = _HEIGHT - _MARGIN
    _draw(canvas, _MARGIN, top - 10, "积分对账单", _CHINESE, 18)
    _draw(canvas, _MARGIN + 100, top - 10, "Points statement", _LATIN, 14)
    facts = (
        ("账户 Account", str(statement.account_id)),
        ("期间 Period", f"{statement.from_day} – {statement.until_day} ({statement.time_zone})"),
        ("期初 Opening", f"{statement.opening:,}"),
        ("收入 Received", f"{statement.received:,}"),
        ("支出 Spent", f"{statement.spent:,}"),
        ("期末 Closing", f"{statement.closing:,}"),
    )
    for place, (name, value) in enumerate(facts):
        y = top - 36 - place * 15
        _draw(canvas, _MARGIN, y, name, _CHINESE, 10)
        _draw(canvas, _MARGIN + 90, y, value, _LATIN, 10)


def _draw_rows(canvas: Canvas, top: float, rows: Sequence[_Row]) -> None:
    _draw(canvas, _MARGIN, top + 8, "序号 No.", _CHINESE, 8)
    _draw(canvas, _MARGIN + 48, top + 8, "时间 Recorded", _CHINESE, 8)
    _draw(canvas, _TEXT_X, top + 8, "说明 Description", _CHINESE, 8)
    canvas.drawRightString(_CHANGE_X, top + 8, "变动 Change")
    canvas.drawRightString(_POINTS_X, top + 8, "积分 Points")
    canvas.line(_MARGIN, top + 3, _WIDTH - _MARGIN, top + 3)
    y = top - _LEADING + 2
    for row in rows:
        _draw(canvas, _MARGIN, y, str(row.line.number), _LATIN, _SIZE)
        canvas.drawString(_MARGIN + 48, y, f"{row.line.recorded_at:%Y-%m-%d %H:%M}")
        canvas.drawRightString(_CHANGE_X, y, f"{row.line.change:+,}")
        canvas.drawRightString(_POINTS_X, y, f"{row.line.points:,}")
        for place, (text, font) in enumerate(row.texts):
            _draw(canvas, _TEXT_X, y - place * _LEADING, text, font, _SIZE)
        y -= row.height


def _draw(canvas: Canvas, x: float, y: float, text: str, font: str, size: int) -> None:
    canvas.setFont(font, size)
    canvas.drawString(x, y, text)
