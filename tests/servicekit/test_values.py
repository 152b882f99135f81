"""What crosses borders as a value: errors, events, settings, instants, page tokens."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import grpc
import msgspec
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from servicekit.config import DatabaseSettings, ProcessSettings, SettingsError, address_of, load
from servicekit.errors import (
    FAMILY,
    Exhausted,
    FieldViolation,
    Internal,
    Invalid,
    NotFound,
    ServiceError,
    Unavailable,
    from_status,
    to_status,
)
from servicekit.events import envelope, event_type, received
from servicekit.identifiers import derived_id, new_id, parse_id
from servicekit.paging import PAGE_SIZE, PAGE_SIZE_MAX, page
from servicekit.rpc import is_read, snake_case
from servicekit.texts import text
from servicekit.times import to_datetime, to_day, to_timestamp, zone
from tests.servicekit.toy import TOY, Rattled, Spoken, Whispered, kind

COMMUNITY = uuid.UUID("018f0000-0000-7000-8000-000000000001")
NOW = datetime(2026, 1, 5, 8, 30, 0, 123456, tzinfo=UTC)

# Errors


@pytest.mark.parametrize("error", FAMILY)
def test_an_error_crosses_grpc_whole(error: type[ServiceError]) -> None:
    fields = [FieldViolation("a[0].b", "c", "d")]
    raised = error("a.code", "中文", "English", details={"x": "y"}, fields=fields, retry_after_s=3)
    back = from_status(raised.status, to_status(raised))
    assert type(back) is error
    assert (back.code, back.zh, back.en, back.details, back.fields, back.retry_after_s) == (
        "a.code",
        "中文",
        "English",
        {"x": "y"},
        tuple(fields),
        3,
    )


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Unavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Exhausted),
        (grpc.StatusCode.UNIMPLEMENTED, NotFound),
        (grpc.StatusCode.UNKNOWN, Internal),
    ],
)
def test_an_error_of_grpc_itself_becomes_one_of_the_family(code: grpc.StatusCode, error: type[ServiceError]) -> None:
    assert type(from_status(code, None)) is error


# Events


def test_an_event_travels_under_a_subject_that_says_what_it_is_and_whose() -> None:
    assert event_type(Spoken).subject(Spoken(word_id="w"), COMMUNITY) == f"linli.toy.Spoken.{COMMUNITY}"
    assert event_type(Whispered).subject(Whispered(word_id="w", account_id="a"), COMMUNITY) == f"linli.toy.Whispered.{COMMUNITY}.a"
    assert event_type(Rattled).subject(Rattled(device_id="d"), COMMUNITY) == f"device.{COMMUNITY}.toy.d"


def test_an_event_comes_out_of_its_envelope_as_it_went_in() -> None:
    sent = envelope(Spoken(word_id="京A12345", word="门"), COMMUNITY, event_id="e1", occurred_at=NOW, version=7)
    got = received(sent.headers("toy"), sent.body, Spoken)
    assert (got.event_id, got.community_id, got.aggregate, got.version, got.occurred_at) == ("e1", COMMUNITY, "京A12345", 7, NOW)
    assert got.message == Spoken(word_id="京A12345", word="门")


@pytest.mark.parametrize(
    "damage",
    [{"ce-id": None}, {"ce-community": "x"}, {"ce-time": "yesterday"}, {"ce-time": "2026-01-05T08:30:00"}, {"ce-sequence": "x"}],
    ids=["no id", "no community", "no time", "no time zone", "no version"],
)
def test_an_envelope_that_is_damaged_is_not_opened(damage: dict[str, str | None]) -> None:
    sent = envelope(Spoken(word_id="w"), COMMUNITY, event_id="e1", occurred_at=NOW)
    headers = {name: value for name, value in {**sent.headers("toy"), **damage}.items() if value is not None}
    with pytest.raises(ValueError, match="unreadable event"):
        received(headers, sent.body, Spoken)


@given(st.text(max_size=40), st.text(max_size=40))
def test_whatever_names_an_event_is_refused_or_fits_a_subject_and_a_header(aggregate: str, account: str) -> None:
    try:
        made = envelope(Whispered(word_id=aggregate, account_id=account), COMMUNITY, event_id="e", occurred_at=NOW)
    except ValueError:
        return
    assert not any(character.isspace() or character in "*>\0" for character in made.subject)
    assert "" not in made.subject.split(".")
    assert not any(character in value for value in made.headers("toy").values() for character in "\r\n\0")


def test_a_message_that_is_no_event_is_refused() -> None:
    with pytest.raises(TypeError, match="is no event"):
        event_type(kind("Said"))


# Methods


def test_a_method_is_named_after_its_contract_and_reads_when_its_verb_is_get() -> None:
    assert [snake_case(name) for name in ("Say", "CountWords", "GetV2Lot")] == ["say", "count_words", "get_v2_lot"]
    assert TOY.api is not None
    assert [method.name for method in TOY.api.contract.methods if is_read(method)] == ["CountWords"]


# Settings


class Own(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a service."""

    days: Annotated[int, msgspec.Meta(ge=1)] = 7
    secret: str = ""


def test_a_setting_of_the_service_wins_over_the_shared_one_and_both_over_the_default() -> None:
    assert load(Own, "toy", {}).days == 7
    assert load(Own, "toy", {"LINLI_DAYS": "2"}).days == 2
    assert load(Own, "toy", {"LINLI_DAYS": "2", "LINLI_TOY_DAYS": "3"}).days == 3
    assert address_of("toy", ProcessSettings(service_address="{service}:1"), {}) == "toy:1"
    assert address_of("toy", ProcessSettings(), {"LINLI_TOY_ADDRESS": "there:2"}) == "there:2"


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("hush\n")
    assert load(Own, "toy", {"LINLI_TOY_SECRET_FILE": str(path)}).secret == "hush"
    path.write_bytes(b"\xff\xfe")
    for unreadable in (path, tmp_path / "gone"):
        with pytest.raises(SettingsError, match="LINLI_TOY_SECRET_FILE"):
            load(Own, "toy", {"LINLI_TOY_SECRET_FILE": str(unreadable)})


def test_a_folder_of_secrets_answers_what_neither_the_environment_nor_a_named_file_does(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (tmp_path / "named").write_text("named")
    (folder / "LINLI_TOY_SECRET").write_text("mounted\n")
    (folder / "LINLI_DAYS").write_text("2")
    mounted = {"LINLI_SECRETS_FOLDER": str(folder)}
    named = {**mounted, "LINLI_TOY_SECRET_FILE": str(tmp_path / "named")}
    assert load(Own, "toy", mounted) == Own(days=2, secret="mounted")
    assert load(Own, "toy", named).secret == "named"
    assert load(Own, "toy", {**named, "LINLI_TOY_SECRET": "said"}).secret == "said"
    assert load(Own, "toy", {**mounted, "LINLI_TOY_DAYS": "3"}).days == 3


@contextmanager
def somebody_elses(folder: Path) -> Iterator[None]:
    """A folder into which this process may not look for as long as the block; root may everywhere, and is nobody meanwhile."""
    folder.mkdir(mode=0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_folder_of_secrets_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="LINLI_SECRETS_FOLDER"):
        load(Own, "toy", {"LINLI_SECRETS_FOLDER": str(tmp_path / "gone")})
    with somebody_elses(tmp_path / "guarded"), pytest.raises(SettingsError, match="LINLI_SECRETS_FOLDER"):
        load(Own, "toy", {"LINLI_SECRETS_FOLDER": str(tmp_path / "guarded")})
    (tmp_path / "LINLI_TOY_SECRET").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="LINLI_TOY_SECRET"):
        load(Own, "toy", {"LINLI_SECRETS_FOLDER": str(tmp_path)})
    (tmp_path / "LINLI_TOY_SECRET").unlink()
    (tmp_path / "LINLI_TOY_DAYS").write_text("0")
    with pytest.raises(SettingsError, match="LINLI_TOY_DAYS is wrong"):
        load(Own, "toy", {"LINLI_SECRETS_FOLDER": str(tmp_path)})


@pytest.mark.parametrize("value", ["0", "x", "", "1.5"])
def test_a_wrong_setting_is_named_and_its_value_is_not(value: str) -> None:
    with pytest.raises(SettingsError, match="LINLI_TOY_DAYS is wrong") as refused:
        load(Own, "toy", {"LINLI_TOY_DAYS": value})
    assert f"'{value}'" not in str(refused.value)
    with pytest.raises(SettingsError, match="LINLI_TOY_DATABASE_URL is not set"):
        load(DatabaseSettings, "toy", {})


# Identifiers, instants, pages


def test_identifiers_sort_by_when_they_were_made_and_derived_ones_stay_the_same() -> None:
    made = [new_id() for _ in range(100)]
    assert made == sorted(made)
    assert {identifier.version for identifier in made} == {7}
    assert derived_id("a", "b") == derived_id("a", "b") != derived_id("ab", "")
    assert parse_id("no id") is None


@given(st.integers(-(2**62), 2**62), st.integers(-(2**31), 2**31 - 1))
def test_a_timestamp_is_an_instant_of_our_time_or_the_callers_error(seconds: int, nanos: int) -> None:
    try:
        instant = to_datetime(Timestamp(seconds=seconds, nanos=nanos), "at")
    except Invalid:
        return
    assert 2000 <= instant.year < 2200
    assert instant.tzinfo is UTC


def test_an_instant_survives_its_timestamp_to_the_microsecond_in_any_zone() -> None:
    for instant in (NOW, NOW.astimezone(timezone(timedelta(hours=8)))):
        timestamp = to_timestamp(instant)
        assert timestamp is not None
        assert to_datetime(timestamp, "at") == instant
    assert to_timestamp(None) is None


@pytest.mark.parametrize("typed", ["", "today", "2026-02-30", "1999-12-31", "2200-01-01", "2026-01-05\0"])
def test_a_day_that_is_none_or_not_of_our_time_is_the_callers_error(typed: str) -> None:
    assert to_day("2024-02-29", "day") == date(2024, 2, 29)
    with pytest.raises(Invalid):
        to_day(typed, "day")


@pytest.mark.parametrize("typed", ["", " \n\u3000", "a\0b", "bell\x07", "c1\x9b"])
def test_a_text_without_anything_to_see_or_with_control_characters_is_the_callers_error(typed: str) -> None:
    assert text(" 东门　1号\n", "name") == "东门　1号"
    assert text("第一行\n第二行", "note", lines=True) == "第一行\n第二行"
    for wrong in (typed, "第一行\n第二行"):
        with pytest.raises(Invalid):
            text(wrong, "name")
    with pytest.raises(Invalid):
        text(typed, "note", lines=True)


@pytest.mark.parametrize("name", ["", "Nowhere", "../etc/passwd", "/etc/passwd", "Asia/Shanghai\0", "x" * 5000])
def test_a_time_zone_that_is_none_is_the_callers_error(name: str) -> None:
    with pytest.raises(Invalid):
        zone(name)


@dataclass(frozen=True, slots=True)
class ListNumbersRequest:
    """A list's request."""

    page_size: int = 0
    page_token: str = ""


async def numbers_after(numbers: int, after: int | None, limit: int) -> list[int]:
    """The rows of a list whose sort keys are themselves."""
    return list(range(numbers)[0 if after is None else after + 1 :][:limit])


async def test_pages_follow_each_other_without_gap_or_repetition() -> None:
    token, seen = "", list[int]()
    while True:
        shown, token = await page(ListNumbersRequest(page_token=token), int, partial(numbers_after, 45), lambda row: row)
        seen += shown
        if not token:
            break
    assert seen == list(range(45))


@pytest.mark.parametrize(
    ("asked", "answered"), [(-1, PAGE_SIZE), (0, PAGE_SIZE), (5, 5), (PAGE_SIZE_MAX, PAGE_SIZE_MAX), (10_000, PAGE_SIZE_MAX)]
)
async def test_a_page_is_as_long_as_asked_and_never_longer_than_the_limit(asked: int, answered: int) -> None:
    shown, token = await page(ListNumbersRequest(asked), int, partial(numbers_after, 45_000), lambda row: row)
    assert len(shown) == answered
    assert token


@given(st.one_of(st.text(max_size=30), st.binary(max_size=30).map(lambda raw: raw.hex())))
async def test_a_page_token_that_we_did_not_make_is_the_callers_error(token: str) -> None:
    async def fetch(after: tuple[datetime, uuid.UUID] | None, _limit: int) -> list[Any]:
        assert after is None
        return []

    with pytest.raises(Invalid) if token else nullcontext():
        await page(ListNumbersRequest(page_token=token), tuple[datetime, uuid.UUID], fetch, lambda row: row)
