"""What bins say, as ingest reads it: what is passed on as it is, what is mended, and what cannot be a deposit."""

import json
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from linli.device.v1.events_pb2 import BinDeposited, BinReported
from services.ingest.bins import COMPARTMENTS_MAX, read_deposit, read_status
from services.ingest.devices import Kind, KnownDevice
from services.ingest.documents import read_document
from services.ingest.loose import Unusable

BIN = KnownDevice("bin-1", uuid.UUID(int=1), Kind.BIN, False, b"", b"", None, None, None, None)
RECEIVED_AT = datetime(2026, 1, 5, 7, 31, 10, tzinfo=UTC)
DEPOSIT = {"id": "r1", "card": "0042", "compartment": "recyclable", "grams": 1240, "fill": 0.42, "at": "2026-01-05T07:31:09+08:00"}


def deposit(received_at: datetime = RECEIVED_AT, **changed: Any) -> BinDeposited:
    """What is passed on of a deposit; a value of None takes a field out."""
    return read(received_at, **changed)[1]


def event_id(received_at: datetime = RECEIVED_AT, **changed: Any) -> uuid.UUID:
    """The id of its event."""
    return read(received_at, **changed)[0]


def read(received_at: datetime, **changed: Any) -> tuple[uuid.UUID, BinDeposited]:
    said = {name: value for name, value in {**DEPOSIT, **changed}.items() if value is not None}
    return read_deposit(BIN, said, received_at)


def status(said: dict[str, Any]) -> BinReported:
    """What is passed on of a status."""
    return read_status(BIN, said, RECEIVED_AT)[1]


def instant(timestamp: Timestamp) -> datetime:
    return timestamp.ToDatetime(UTC)


def test_a_deposit_is_passed_on_as_the_bin_says_it() -> None:
    assert deposit(code="qr-1") == BinDeposited(
        device_id="bin-1",
        record_id="r1",
        card_number="0042",
        code="qr-1",
        compartment="recyclable",
        grams=1240,
        fill_permille=420,
        occurred_at=Timestamp(seconds=int(datetime(2026, 1, 4, 23, 31, 9, tzinfo=UTC).timestamp())),
        received_at=Timestamp(seconds=int(RECEIVED_AT.timestamp())),
    )


@pytest.mark.parametrize(
    ("changed", "grams", "fill"),
    [
        ({"grams": "1240", "fill": "0.42"}, 1240, 420),
        ({"grams": 1240.0}, 1240, 420),
        ({"grams": " 1240.6 "}, 1241, 420),
        ({"fill": None}, 1240, -1),
        ({"fill": "full"}, 1240, -1),
        ({"fill": -0.01}, 1240, 0),
        ({"fill": 1.02}, 1240, 1000),
        ({"fill": 42}, 1240, -1),
        ({"grams": 0}, 0, 420),
        ({"grams": -35}, -35, 420),
        ({"grams": 10**30}, 2**63 - 1, 420),
        ({"grams": -1e300}, -(2**63) + 1, 420),
    ],
)
def test_numbers_are_read_however_they_are_written_and_odd_ones_are_for_waste_to_judge(
    changed: dict[str, Any], grams: int, fill: int
) -> None:
    found = deposit(**changed)
    assert (found.grams, found.fill_permille) == (grams, fill)


def test_who_brought_it_and_which_compartment_may_be_unknown() -> None:
    found = deposit(card=None, compartment=None)
    assert (found.card_number, found.code, found.compartment) == ("", "", "")
    assert (deposit(card=42).card_number, deposit(compartment="紙類 ").compartment) == ("42", "紙類")


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2026-01-05T07:31:09", datetime(2026, 1, 4, 23, 31, 9, tzinfo=UTC)),  # The community's clock.
        ("20260105073109", datetime(2026, 1, 4, 23, 31, 9, tzinfo=UTC)),
        ("2026-01-06T07:31:09Z", datetime(2026, 1, 6, 7, 31, 9, tzinfo=UTC)),  # Tomorrow.
        ("1970-01-01T00:05:00+08:00", datetime(1969, 12, 31, 16, 5, tzinfo=UTC)),  # Never set: how wrong it is, is known.
        ("yesterday", None),
        ("9999-12-31T23:59:59-12:00", None),
        (None, None),
    ],
)
def test_the_time_is_the_bins_and_absent_when_it_says_none(at: str | None, expected: datetime | None) -> None:
    found = deposit(at=at)
    # Ours in its place would be another one each time that the record is sent, and would be taken for the bin's clock.
    assert (instant(found.occurred_at) if found.HasField("occurred_at") else None) == expected
    assert instant(found.received_at) == RECEIVED_AT


def test_the_same_record_is_the_same_event_however_late_it_comes_and_other_content_is_another() -> None:
    later = RECEIVED_AT + timedelta(hours=3)
    assert event_id() == event_id(later) == event_id(grams="1240.0")
    assert event_id(at=None) == event_id(later, at=None)
    changes: list[dict[str, Any]] = [{"grams": 1241}, {"card": "0043"}, {"id": "r2"}, {"at": None}, {"fill": None}]
    changed = [event_id(**change) for change in changes]
    assert len({event_id(), *changed}) == 6


NO_DEPOSITS: list[dict[str, Any]] = [
    {"id": ""},
    {"id": None},
    {"id": True},
    {"id": "x" * 201},
    {"id": ["r1"]},
    {"grams": None},
    {"grams": "heavy"},
    {"grams": True},
    {"grams": {}},
    {"card": {"number": "0042"}},
    {"compartment": ["recyclable"]},
]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 3000, *(json.dumps({**DEPOSIT, **changed}).encode() for changed in NO_DEPOSITS)],
)
def test_what_cannot_be_a_deposit_is_unusable(body: bytes) -> None:
    with pytest.raises(Unusable):
        read_deposit(BIN, read_document(body), RECEIVED_AT)


def test_text_may_begin_with_a_byte_order_mark_end_with_a_nul_or_be_gb18030() -> None:
    body = json.dumps({**DEPOSIT, "compartment": "可回收物"}, ensure_ascii=False)
    for written in (b"\xef\xbb\xbf" + body.encode() + b"\0", body.encode("gb18030")):
        assert read_deposit(BIN, read_document(written), RECEIVED_AT)[1].compartment == "可回收物"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(["id", "card", "code", "compartment", "grams", "fill", "at", "smoke", "temperature_c"]), values))
def test_whatever_a_bin_says_is_read_or_unusable_and_never_breaks_anything(said: dict[str, Any]) -> None:
    with suppress(Unusable):
        _, found = read_deposit(BIN, said, RECEIVED_AT)
        assert found.record_id
        assert -1 <= found.fill_permille <= 1000
    assert read_status(BIN, said, RECEIVED_AT)[1].HasField("received_at")


def test_a_status_is_passed_on_with_what_can_be_read_of_it() -> None:
    found = status({"fill": {"recyclable": 0.42, "other": "0.9"}, "smoke": False, "temperature_c": 24, "at": "2026-01-05T15:31:09+08:00"})
    assert dict(found.fill_permille) == {"recyclable": 420, "other": 900}
    assert (found.smoke, found.temperature_c) == (False, 24)
    assert (instant(found.occurred_at), instant(found.received_at)) == (datetime(2026, 1, 5, 7, 31, 9, tzinfo=UTC), RECEIVED_AT)
    odd = status({"fill": {"recyclable": "?", "other": 0.5}, "smoke": "1", "temperature_c": "-3.6"})
    assert (dict(odd.fill_permille), odd.smoke, odd.temperature_c) == ({"other": 500}, True, -4)
    assert not odd.HasField("occurred_at")
    bare = status({"fill": [1, 2], "temperature_c": 1e9})
    assert (dict(bare.fill_permille), bare.smoke, bare.HasField("temperature_c")) == ({}, False, False)
    assert len(status({"fill": {str(number): 0.5 for number in range(100)}}).fill_permille) == COMPARTMENTS_MAX
