"""Dynamic codes: whatever is altered, late, early, or for another door or community, is no code."""

import base64
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.identifiers import new_id
from servicekit.signing import PublicKeys, Signer
from services.access import codes
from services.access.codes import Code, CodeFault
from tests.access.arrange import KEY

SIGNER = Signer(KEY)
KEYS = PublicKeys(base64.b64encode(SIGNER.public_key).decode())
NOON = datetime(2026, 3, 2, 4, tzinfo=UTC)
SIGN, HAS_SIGNED = partial(SIGNER.sign, codes.PURPOSE), partial(KEYS.has_signed, codes.PURPOSE)
HERE, DOOR = new_id(), new_id()


def code(door_id: UUID | None = None) -> Code:
    return Code(HERE, new_id(), door_id, b"123456789012", NOON)


def test_a_code_fits_into_a_qr_code_and_says_what_it_was_made_of() -> None:
    for one in (code(), code(DOOR)):
        text = codes.write(one, SIGN)
        assert len(text) == codes.LENGTH <= 180
        assert codes.read(text, HAS_SIGNED) == one


@given(st.integers(0, codes.LENGTH - 1), st.characters())
def test_a_code_of_which_one_character_is_another_is_none(place: int, character: str) -> None:
    text = codes.write(Code(HERE, HERE, DOOR, b"123456789012", NOON), SIGN)
    altered = text[:place] + character + text[place + 1 :]
    assert altered == text or codes.read(altered, HAS_SIGNED) is None


@given(st.text(max_size=200) | st.binary(max_size=150).map(lambda data: base64.urlsafe_b64encode(data).decode().rstrip("=")))
def test_no_other_text_is_a_code(text: str) -> None:
    assert codes.read(text, HAS_SIGNED) is None


def test_a_signature_for_something_else_makes_no_code() -> None:
    content = base64.urlsafe_b64decode(codes.write(code(), SIGN) + "==")[:66]
    forged = base64.urlsafe_b64encode(content + SIGNER.sign("access.snapshot", content)).decode().rstrip("=")
    assert codes.read(forged, HAS_SIGNED) is None


@pytest.mark.parametrize(
    ("seconds", "fault"),
    [(-31, CodeFault.NOT_YET), (-30, None), (0, None), (89, None), (90, CodeFault.EXPIRED)],
)
def test_a_code_is_good_for_a_minute_and_as_long_as_clocks_differ(seconds: int, fault: CodeFault | None) -> None:
    assert code().fault(HERE, DOOR, NOON + timedelta(seconds=seconds)) is fault


def test_a_code_for_one_door_opens_no_other_and_none_elsewhere() -> None:
    assert code(DOOR).fault(HERE, DOOR, NOON) is None
    assert code(DOOR).fault(HERE, new_id(), NOON) is CodeFault.OTHER_DOOR
    assert code().fault(new_id(), DOOR, NOON) is CodeFault.STRANGE
