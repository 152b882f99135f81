"""What door terminals say, as ingest reads it: what is passed on to the byte, and what must never pass."""

import hashlib
import json
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linli.device.v1.events_pb2 import (
    CREDENTIAL_KIND_CARD,
    CREDENTIAL_KIND_CODE,
    CREDENTIAL_KIND_FACE,
    CREDENTIAL_KIND_PIN,
    CredentialPresented,
    JournalUploaded,
    TerminalReported,
)
from services.ingest.devices import Kind, KnownDevice
from services.ingest.documents import read_document
from services.ingest.loose import Unusable
from services.ingest.terminals import RECORD_BYTES_MAX, RECORDS_MAX, read_journal, read_presentation, read_report

TERMINAL = KnownDevice("terminal-1", uuid.UUID(int=1), Kind.TERMINAL, False, b"", b"", None, None, None, None)
RECEIVED_AT = datetime(2026, 1, 5, 7, 31, 10, tzinfo=UTC)
DIGEST = hashlib.sha256(b"a card").hexdigest()
SUBJECT = "0197f7a0-1b2c-7d3e-8f40-5a6b7c8d9e0f"
CODE = "AQGX96CyLT6PQFprfI2eDwGX96CyLT6PQFprfI2e_-"
PRESENTED = {"id": "p1", "kind": "code", "value": CODE, "at": "2026-01-05T15:31:09+08:00"}
JOURNAL = {"first": 101, "previous": "00" * 32, "records": ['{"sequence":101,"door":"开"}', '{"sequence": 102}']}


def presented(received_at: datetime = RECEIVED_AT, **changed: Any) -> CredentialPresented:
    return read_presentation(TERMINAL, said(PRESENTED, changed), received_at)[1]


def presented_id(received_at: datetime = RECEIVED_AT, **changed: Any) -> uuid.UUID:
    return read_presentation(TERMINAL, said(PRESENTED, changed), received_at)[0]


def uploaded(**changed: Any) -> JournalUploaded:
    return read_journal(TERMINAL, said(JOURNAL, changed), RECEIVED_AT)[1]


def reported(**told: Any) -> TerminalReported:
    return read_report(TERMINAL, told, RECEIVED_AT)[1]


def said(right: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """A message; a value of None takes a field out."""
    return {name: value for name, value in {**right, **changed}.items() if value is not None}


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("code", CODE, (CREDENTIAL_KIND_CODE, CODE)),
        ("code", f" {CODE}\r\n", (CREDENTIAL_KIND_CODE, CODE)),
        ("card", DIGEST, (CREDENTIAL_KIND_CARD, DIGEST)),
        ("pin", DIGEST.upper(), (CREDENTIAL_KIND_PIN, DIGEST)),
        ("face", SUBJECT.upper(), (CREDENTIAL_KIND_FACE, SUBJECT)),
    ],
)
def test_what_is_presented_is_passed_on_as_what_it_stands_for(kind: str, value: str, expected: tuple[int, str]) -> None:
    found = presented(kind=kind, value=value)
    assert (found.kind, found.value) == expected
    assert (found.device_id, found.presentation_id) == ("terminal-1", "p1")
    assert found.occurred_at.ToDatetime(UTC) == datetime(2026, 1, 5, 7, 31, 9, tzinfo=UTC)
    assert found.received_at.ToDatetime(UTC) == RECEIVED_AT


@pytest.mark.parametrize("kind", ["code", "card", "pin", "face"])
@pytest.mark.parametrize(
    "value",
    ["0012345678", 12345678, "123456", "310104199001011234", "9" * 64, "", None, True, ["0012345678"], {"number": "0012345678"}],
)
def test_neither_a_cards_number_nor_what_somebody_types_ever_passes(kind: str, value: Any) -> None:
    with pytest.raises(Unusable):
        presented(kind=kind, value=value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("card", "04A2B3C4D5"),
        ("card", f"{DIGEST}00"),
        ("card", f"sha256:{DIGEST}"),
        ("pin", DIGEST[:-1]),
        ("face", "31010419900101123X"),
        ("face", "张三"),
        ("face", SUBJECT.replace("-", "")),
        ("code", "x" * 401),
        ("code", f"{CODE}\0"),
        ("code", "１" * 40),
        ("code", f"{CODE}=="),
        ("code", "https://u.example/somebody-of-that-name"),
        ("phone", "13800000000"),
        ("", "x"),
        ([], "x"),
    ],
)
def test_what_is_not_of_its_kinds_form_is_unusable(kind: Any, value: str) -> None:
    with pytest.raises(Unusable):
        presented(kind=kind, value=value)


@pytest.mark.parametrize("changed", [{"id": None}, {"id": ""}, {"id": "x" * 201}, {"id": ["p1"]}, {"kind": None}, {"value": None}])
def test_a_presentation_without_what_it_needs_is_unusable(changed: dict[str, Any]) -> None:
    with pytest.raises(Unusable):
        presented(**changed)


def test_the_same_presentation_is_the_same_event_and_one_without_a_time_is_of_when_it_came() -> None:
    later = RECEIVED_AT + timedelta(seconds=3)
    assert presented_id() == presented_id(later)
    assert presented_id(at=None) == presented_id(later, at="never")
    assert len({presented_id(), presented_id(id="p2"), presented_id(at=None), presented_id(value=CODE[::-1])}) == 4
    assert presented(at=None).occurred_at == presented().received_at


def test_a_report_says_what_a_terminal_has() -> None:
    found = reported(snapshot=17, journal="4711", at="1970-01-01T00:05:00Z")
    assert (found.snapshot_version, found.journal_sequence) == (17, 4711)
    # A clock that was never set is known by what it says.
    assert found.occurred_at.ToDatetime(UTC) == datetime(1970, 1, 1, 0, 5, tzinfo=UTC)
    bare = reported(snapshot=0, journal=0.0)
    assert (bare.snapshot_version, bare.journal_sequence, bare.occurred_at) == (0, 0, bare.received_at)


@pytest.mark.parametrize(
    "told", [{}, {"snapshot": 17}, {"journal": 1}, *({"snapshot": odd, "journal": 1} for odd in (-1, 1.5, 2**63, "x", True))]
)
def test_a_report_that_does_not_say_it_is_unusable(told: dict[str, Any]) -> None:
    with pytest.raises(Unusable):
        reported(**told)


def test_a_journal_is_passed_on_to_the_byte() -> None:
    record = json.dumps({"sequence": 1, "text": '空格  "and"\n\\u0041', "zero": 1.0}, ensure_ascii=False, indent=1)
    body = json.dumps({**JOURNAL, "records": [record]}).encode()
    found = read_journal(TERMINAL, read_document(body), RECEIVED_AT)[1]
    assert [written.encode() for written in found.records] == [record.encode()]
    assert (found.first_sequence, found.previous_hash) == (101, bytes(32))


def test_a_part_that_is_sent_again_is_the_same_event_and_another_content_is_another() -> None:
    def event_id(received_at: datetime = RECEIVED_AT, **changed: Any) -> uuid.UUID:
        return read_journal(TERMINAL, said(JOURNAL, changed), received_at)[0]

    assert event_id() == event_id(RECEIVED_AT + timedelta(days=1))
    changes: list[dict[str, Any]] = [{"first": 102}, {"previous": "11" * 32}, {"records": ["{}"]}, {"records": ["{} "]}]
    assert len({event_id(), *(event_id(**change) for change in changes)}) == 5


@pytest.mark.parametrize(
    "changed",
    [
        {"first": None},
        {"first": 0},
        {"first": 1.5},
        {"first": 2**63 - 1},
        {"previous": None},
        {"previous": "00" * 31},
        {"previous": "zz" * 32},
        {"previous": 0},
        {"records": None},
        {"records": []},
        {"records": "{}"},
        {"records": ["{}"] * (RECORDS_MAX + 1)},
        {"records": [{"sequence": 101}]},
        {"records": ["{}", ""]},
        {"records": ["x" * (RECORD_BYTES_MAX + 1)]},
        {"records": ["开" * 342]},
        {"records": ["\0"]},
        {"records": ["\ud800"]},
    ],
)
def test_what_has_not_the_form_of_a_journal_is_unusable(changed: dict[str, Any]) -> None:
    with pytest.raises(Unusable):
        uploaded(**changed)


def test_the_largest_part_of_a_journal_is_taken() -> None:
    assert len(uploaded(records=["x" * RECORD_BYTES_MAX] * RECORDS_MAX, previous="AB" * 32).records) == RECORDS_MAX


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20) | st.just(DIGEST),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
names = st.sampled_from(["id", "kind", "value", "at", "snapshot", "journal", "first", "previous", "records"])


@given(st.dictionaries(names, values | st.sampled_from(["code", "card", "pin", "face"])))
def test_whatever_a_terminal_says_is_read_or_unusable_and_never_breaks_anything(told: dict[str, Any]) -> None:
    for right in (PRESENTED, JOURNAL, {"snapshot": 1, "journal": 1}):
        for read in (read_presentation, read_report, read_journal):
            with suppress(Unusable):
                _, found = read(TERMINAL, {**right, **told}, RECEIVED_AT)
                assert found.SerializeToString()
                if isinstance(found, CredentialPresented):
                    assert not found.value.isdecimal()
