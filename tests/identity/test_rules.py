"""Rules without any server: plates, phones, the schedule of signing keys, settings."""

import secrets
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.config import SettingsError, load
from services.identity import phones, plates, signing_keys
from services.identity.service import Settings, code_sender, tools
from services.identity.signing_keys import ACCESS_TOKEN_LIFE, PUBLISHED_AHEAD, Scheduled
from tests.identity.arrange import DATA_KEYS, INDEX_KEY

NOW = datetime(2026, 3, 1, tzinfo=UTC)
WEEK = timedelta(days=7)


@pytest.mark.parametrize(
    ("written", "plate"),
    [
        ("京A12345", "京A12345"),
        ("京a·12345", "京A12345"),
        (" 京A 123-45 ", "京A12345"),
        ("京Ａ１２３４５", "京A12345"),
        ("京A•D1234 5", "京AD12345"),
        ("粤Z1234港", "粤Z1234港"),
        ("使123456", "使123456"),
        ("AB12345", "AB12345"),
        ("WJ京1234X", "WJ京1234X"),
        ("临京A1234", "临京A1234"),
        ("京A1234警", "京A1234警"),
        ("12345", None),
        ("无牌车辆无牌", None),
        ("京A", None),
        ("京A12345678901", None),
        ("京A1234\x00", None),
        ("", None),
    ],
)
def test_a_plate_has_one_spelling(written: str, plate: str | None) -> None:
    assert plates.normalised(written) == plate


@given(st.text(max_size=16))
def test_normalising_a_plate_again_changes_nothing(text: str) -> None:
    plate = plates.normalised(text)
    assert plate is None or plates.normalised(plate) == plate


def test_a_phone_is_shown_without_its_middle() -> None:
    assert phones.masked("13812345678") == "138****5678"
    assert phones.is_phone("13812345678")
    for text in ("1381234567", "138123456789", "03812345678", "１３８１２３４５６７８", "13812345678\n", "12812345678"):
        assert not phones.is_phone(text)


@given(st.lists(st.integers(min_value=0, max_value=600), min_size=30, max_size=300))
def test_there_is_always_a_key_that_signs_and_was_published_in_time_and_every_live_token_has_its_key(pauses: list[int]) -> None:
    """The job runs at irregular times; whatever they are, a token signed at any time finds its key published until it expires."""
    now = NOW
    keys: list[Scheduled] = []
    published_at: dict[UUID, datetime] = {}
    signed: list[tuple[UUID, datetime]] = []
    for number, pause in enumerate(pauses):
        now += timedelta(minutes=pause)
        signs_from = signing_keys.successor_signs_from(keys, now, WEEK)
        if signs_from is not None:
            keys.append(Scheduled(UUID(int=number), signs_from))
            published_at[UUID(int=number)] = now
        gone = signing_keys.retired(keys, now)
        keys = [key for key in keys if key not in gone]
        signer = signing_keys.signer(keys, now)
        assert signer is not None
        is_the_first = signer.key_id == UUID(int=0)
        assert is_the_first or now - published_at[signer.key_id] >= PUBLISHED_AHEAD
        signed.append((signer.key_id, now + ACCESS_TOKEN_LIFE))
        held = {key.key_id for key in keys}
        assert all(key_id in held for key_id, expires_at in signed if expires_at > now)
        assert len(keys) <= 3


def settings_from(**changed: str) -> Settings:
    """Settings as the environment gives them."""
    right = {"DATA_KEYS": DATA_KEYS, "INDEX_KEY": INDEX_KEY, "CODE_SENDER": "development", "CODE_FILE": "codes", **changed}
    return load(Settings, "identity", {f"LINLI_IDENTITY_{name}": value for name, value in right.items() if value != "-"})


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"DATA_KEYS": "-"}, "LINLI_IDENTITY_DATA_KEYS"),
        ({"DATA_KEYS": "k1:short"}, "LINLI_IDENTITY_DATA_KEYS"),
        ({"DATA_KEYS": INDEX_KEY}, "LINLI_IDENTITY_DATA_KEYS"),
        ({"DATA_KEYS": f"{DATA_KEYS},"}, "LINLI_IDENTITY_DATA_KEYS"),
        ({"INDEX_KEY": "not base64 of 32 bytes"}, "LINLI_IDENTITY_INDEX_KEY"),
        ({"CODE_SENDER": "-"}, "LINLI_IDENTITY_CODE_SENDER"),
        ({"CODE_SENDER": "pigeon"}, "LINLI_IDENTITY_CODE_SENDER"),
        ({"CODES_PER_ADDRESS_HOUR": "0"}, "LINLI_IDENTITY_CODES_PER_ADDRESS_HOUR"),
        ({"SIGNING_KEY_DAYS": "0"}, "LINLI_IDENTITY_SIGNING_KEY_DAYS"),
    ],
)
def test_a_setting_that_is_wrong_stops_the_start_with_its_name_and_without_its_value(changed: dict[str, str], name: str) -> None:
    with pytest.raises(SettingsError) as error:
        settings_from(**changed)
    assert str(error.value).startswith(name)
    assert not any(value in str(error.value) for value in changed.values() if len(value) > 20)


async def test_what_the_settings_say_together_is_checked_too() -> None:
    async with httpx.AsyncClient() as client:
        with pytest.raises(SettingsError, match="LINLI_IDENTITY_SMS_URL"):
            code_sender(settings_from(CODE_SENDER="http"), client)
        with pytest.raises(SettingsError, match="LINLI_IDENTITY_CODE_FILE"):
            code_sender(settings_from(CODE_FILE=""), client)
        assert code_sender(settings_from(CODE_SENDER="http", SMS_URL="https://sms.example"), client)
    with pytest.raises(SettingsError, match="LINLI_IDENTITY_DATA_KEYS"):
        tools(settings_from(DATA_KEYS=f"{DATA_KEYS},{DATA_KEYS}"))
    two = f"k2:{b64encode(secrets.token_bytes(32)).decode()},{DATA_KEYS}"
    keys, *_ = tools(settings_from(DATA_KEYS=two))
    assert (keys.key_id, keys.older_key_ids) == ("k2", ["k1"])
