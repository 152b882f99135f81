"""What residents have, how it came, and the statement of it that they take away."""

import csv
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ledger import reading
from linli.points.v1 import points_pb2 as pb
from servicekit.errors import Denied, Invalid, NotFound
from servicekit.identifiers import new_id
from tests.community import Town
from tests.points.arrange import Community
from tests.points.paper import printed
from tests.points.shop import Resident, guest, item, pick_up, resident

pytestmark = pytest.mark.asyncio(loop_scope="module")
PDF, CSV = pb.STATEMENT_FORMAT_PDF, pb.STATEMENT_FORMAT_CSV
SHANGHAI = ZoneInfo("Asia/Shanghai")


async def download(who: Resident, from_day: str, until_day: str, statement_format: Any) -> tuple[str, bytes]:
    request = pb.DownloadMyStatementRequest(from_day=from_day, until_day=until_day, format=statement_format)
    body = await who.call("DownloadMyStatement", request)
    return body.content_type, body.data


async def test_entries_are_numbered_without_a_gap_and_listed_newest_first(community: Community) -> None:
    await community.publish_rules()
    who = await resident(community)
    for points in (10, 20, 30):
        await community.give(who.account_id, points)
    await pick_up(community, (await who.redeem(await item(community, points=25))).pickup_code)
    first = await who.call("ListMyEntries", pb.ListMyEntriesRequest(page_size=3))
    rest = await who.call("ListMyEntries", pb.ListMyEntriesRequest(page_token=first.next_page_token))
    entries = [*first.entries, *rest.entries]
    assert rest.next_page_token == ""
    assert [entry.number for entry in entries] == [4, 3, 2, 1]
    assert [entry.change for entry in entries] == [-25, 30, 20, 10]
    assert [entry.points - entry.change for entry in entries] == [entry.previous_points for entry in entries] == [60, 30, 10, 0]
    assert [entry.kind for entry in entries] == ["redemption", "grant", "grant", "grant"]
    with pytest.raises(Invalid):
        await who.call("ListMyEntries", pb.ListMyEntriesRequest(page_token="x"))


async def test_the_counter_sees_a_residents_points_and_entries_and_nobody_elses_do(points: Town, community: Community) -> None:
    await community.publish_rules()
    who, stranger = await resident(community, 40), await resident(Community(points))
    seen = await community.points_of(who.account_id)
    assert seen == await who.points()
    assert [entry.change for entry in await community.entries(who.account_id)] == [40]
    for account_id in (stranger.account_id, new_id()):
        with pytest.raises(NotFound):
            await community.points_of(account_id)
        with pytest.raises(NotFound):
            await community.entries(account_id)
    with pytest.raises(Denied):
        await stranger.call("GetResidentPoints", pb.GetResidentPointsRequest(account_id=str(who.account_id)))


async def test_a_guest_has_nothing_and_may_see_that(community: Community) -> None:
    who = guest(community)
    assert await who.points() == pb.Points(account_id=str(who.account_id))
    assert list(await who.entries()) == []
    content_type, data = await download(who, "2026-03-01", "2026-03-31", CSV)
    assert (content_type, len(data.decode("utf-8-sig").splitlines())) == ("text/csv; charset=utf-8", 3)


async def test_who_has_moved_out_keeps_what_they_had(community: Community) -> None:
    await community.publish_rules()
    who = await resident(community, 40)
    await community.household(household_id=who.household_id)
    assert (await who.points()).points == (await community.points_of(who.account_id)).points == 40


async def test_points_say_what_of_them_expires_next(community: Community) -> None:
    await community.publish_rules(years_kept=1)
    who = await resident(community, 40)
    await who.redeem(await item(community, points=15))
    points = await who.points()
    assert (points.expiring, points.expires_at.ToDatetime(UTC)) == (25, datetime(2027, 12, 31, 16, tzinfo=UTC))


async def test_a_statement_holds_the_days_of_the_communitys_calendar_and_no_more(community: Community) -> None:
    await community.publish_rules()
    clock = community.town.clock
    who = await resident(community)
    for day, points in ((1, 1), (2, 10), (3, 100), (4, 1000)):
        clock.now = datetime(2026, 3, 9 + day, tzinfo=SHANGHAI).astimezone(UTC)  # each day's first instant
        await community.give(who.account_id, points)
    _, data = await download(who, "2026-03-11", "2026-03-12", CSV)
    assert data.startswith(b"\xef\xbb\xbf")
    assert data.count(b"\r\n") == 5
    header, opening, *rows, closing = csv.reader(data.decode("utf-8-sig").splitlines())
    assert (header[-1], opening[-1], closing[-1]) == ("积分 Points", "1", "111")
    assert [(row[0], row[1], row[-2], row[-1]) for row in rows] == [
        ("2", "2026-03-11 00:00:00", "10", "11"),
        ("3", "2026-03-12 00:00:00", "100", "111"),
    ]
    assert all(len(row) == len(header) for row in (opening, *rows, closing))


async def test_the_pdf_says_the_same_in_chinese_and_english_and_again_in_the_same_bytes(community: Community) -> None:
    await community.publish_rules()
    who = await resident(community, 1000)
    await pick_up(community, (await who.redeem(await item(community, points=25), 2)).pickup_code)
    content_type, data = await download(who, "2026-03-01", "2026-03-31", PDF)
    assert (content_type, data[:5]) == ("application/pdf", b"%PDF-")
    texts = printed(data)
    for text in (
        "积分对账单",
        "Points statement",
        str(who.account_id),
        "兑换「现磨咖啡」 ×2",
        "Redeemed Coffee ×2",
        "-50",
        "+1,000",
        "950",
    ):
        assert text in texts
    assert texts[texts.index("期末 Closing") + 1] == "950"
    assert texts[-1] == "第 1 页，共 1 页"
    assert await download(who, "2026-03-01", "2026-03-31", PDF) == (content_type, data)


@pytest.mark.parametrize(
    ("from_day", "until_day", "code"),
    [
        ("2026-03-02", "2026-03-01", "points.statement_period"),
        ("2026-01-01", "2027-01-02", "points.statement_period"),
        ("2026-02-30", "2026-03-01", "request.invalid"),
        ("0000-00-00", "2026-03-01", "request.invalid"),
        ("1999-12-31", "2000-03-01", "request.invalid"),
        ("9999-12-31", "9999-12-31", "request.invalid"),
        ("2026-3-1", "2026-03-01", "request.invalid"),
        ("", "", "request.invalid"),
    ],
)
async def test_a_period_that_makes_no_sense_is_refused(community: Community, from_day: str, until_day: str, code: str) -> None:
    with pytest.raises(Invalid) as refused:
        await download(guest(community), from_day, until_day, CSV)
    assert refused.value.code == code


async def test_a_year_is_not_too_long_and_no_format_is_refused(community: Community) -> None:
    await download(guest(community), "2026-01-01", "2027-01-01", PDF)
    with pytest.raises(Invalid):
        await download(guest(community), "2026-01-01", "2026-01-01", pb.STATEMENT_FORMAT_UNSPECIFIED)


async def test_a_statement_with_too_many_entries_is_refused(community: Community, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "STATEMENT_ENTRIES_MAX", 2)
    await community.publish_rules()
    who = await resident(community)
    for _ in range(3):
        await community.give(who.account_id, 1)
    with pytest.raises(Invalid) as refused:
        await download(who, "2026-03-01", "2026-03-31", CSV)
    assert refused.value.code == "ledger.statement_too_long"
