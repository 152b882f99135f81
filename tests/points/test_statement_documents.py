"""Statements as they are written out: nothing is lost, nothing runs, every page is counted."""

import csv
from datetime import date, datetime
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from services.points.statement import Line, Statement, as_csv
from services.points.statement_pdf import as_pdf
from tests.points.paper import printed


def statement(*lines: Line) -> Statement:
    closing = lines[-1].points if lines else 0
    return Statement(UUID(int=1), "Asia/Shanghai", date(2026, 3, 1), date(2026, 3, 31), 0, closing, lines)


def line(text_zh: str, text_en: str = "", number: int = 1) -> Line:
    at = datetime(2026, 3, 2, 9, tzinfo=ZoneInfo("Asia/Shanghai"))
    return Line(number, at, at, text_zh, text_en, "gift", 0, 5, 5 * number)


def test_a_long_text_is_broken_into_lines_and_loses_nothing() -> None:
    zh, en = "愿你天天开心" * 10, "Wishing you every happiness on this day and on all the others " * 2
    texts = printed(as_pdf(statement(line(zh, en.strip()))))
    assert any("愿你天天开心" in text for text in texts)
    assert "".join(text for text in texts if set(text) <= set(zh)) == zh
    assert " ".join(text for text in texts if set(text.split()) <= set(en.split())) == en.strip()


def test_what_cannot_be_printed_is_marked() -> None:
    texts = printed(as_pdf(statement(line("生日快乐🎂(喜)\\"))))
    assert "生日快乐〓(喜)\\" in texts


def test_a_thousand_lines_go_over_pages_that_are_counted() -> None:
    texts = printed(as_pdf(statement(*(line("可回收物投放", "Recyclables", number) for number in range(1, 1001)))))
    assert texts.count("可回收物投放") == 1000
    footers = [text for text in texts if text.startswith("第 ")]
    assert footers == [f"第 {number} 页，共 {len(footers)} 页" for number in range(1, len(footers) + 1)]
    assert len(footers) > 30


@pytest.mark.parametrize("text", ['=HYPERLINK("x")', "+1", "-1", "@SUM(A1)", "\tx"])
def test_a_text_that_a_spreadsheet_would_run_is_made_harmless(text: str) -> None:
    rows = list(csv.reader(as_csv(statement(line("积分", text))).decode("utf-8-sig").splitlines()))
    assert rows[2][4] == "'" + text
