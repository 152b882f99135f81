"""What devices write, and what it means: the pure parts, without servers."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.errors import Exhausted
from servicekit.sealing import SealBrokenError
from services.ingest import credentials, digest, loose, nkeys, plate_frames, viid_records
from services.ingest.credentials import Vault
from services.ingest.limits import Limit, Limits
from services.ingest.viid_records import MOTOR_VEHICLE
from tests.ingest.fleet import CAMERA, VIID_CAMERA, push_body
from tests.ingest.test_viid import VEHICLE_ID, vehicle

ODD_SECONDS: list[object] = [None, -5, 10**30, "soon", 2**39, 12, True, {}]
ODD_TYPES: list[object] = [0, 1, 3, 5, 6, 8, 11, 13, 14, 19, "13"]
ODD_CONFIDENCES: list[object] = [0, 98, "97.0", 100, 101, -3, "high", None, []]
ODD_TIMES: list[object] = ["20261302030405", "19700101000000", "0" * 14, "0001-01-01", "x", None, {}]
SHANGHAI = ZoneInfo("Asia/Shanghai")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def frame(plate: Any = "京A12345", **result: Any) -> plate_frames.Frame:
    return plate_frames.read(push_body(plate, NOW, **result), NOW)


def record(**fields: Any) -> viid_records.Record:
    return viid_records.read(vehicle(**fields), MOTOR_VEHICLE, VIID_CAMERA, SHANGHAI, keep_face_pictures=False)


@pytest.mark.parametrize(
    ("written", "plate"),
    [
        ("京A12345", "京A12345"),
        (" 京A 12345\r\n", "京A12345"),
        ("京A·12345", "京A·12345"),
        ("粤ZJ068澳|MX7742|ZM127", "粤ZJ068澳|MX7742|ZM127"),
        ("京A\x0012345", "京A12345"),
        ("_无_", ""),
        ("", ""),
        (None, ""),
        (["京A12345"], ""),
        (True, ""),
        (12345, "12345"),
        ("京" * 100, "京" * 32),
        ("这不是车牌", "这不是车牌"),
    ],
)
def test_a_plate_is_what_the_camera_wrote(written: object, plate: str) -> None:
    assert frame(written).plate == plate
    assert viid_records.vehicle(record(PlateNo=written)).plate == plate


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ({"sec": 1767225600, "usec": 120000}, NOW + timedelta(milliseconds=120)),
        ({"sec": "1767225600", "usec": "120000"}, NOW + timedelta(milliseconds=120)),
        ({"sec": 1767225600.0, "usec": None}, NOW),
        ({"sec": 1767225600, "usec": 5_000_000}, NOW),
        *[({"sec": odd}, None) for odd in ODD_SECONDS],
        ({}, None),
        (7, None),
    ],
)
def test_the_time_of_a_push_is_one_that_can_be(moment: object, expected: datetime | None) -> None:
    assert frame(timeStamp={"Timeval": moment}).occurred_at == expected


def test_the_same_push_is_the_same_record_and_another_is_another() -> None:
    assert frame().record == frame().record
    assert frame().record != frame("京A54321").record
    assert frame(plateid=1).record != frame(plateid=2).record
    later = plate_frames.read(push_body("京A12345", NOW + timedelta(microseconds=1)), NOW)
    assert later.record != frame().record


def test_a_push_without_a_time_is_one_record_while_it_is_sent_again_and_another_the_next_day() -> None:
    body = push_body("京A12345", timeStamp=None)
    first, again, tomorrow = (plate_frames.read(body, NOW + wait) for wait in (timedelta(0), timedelta(seconds=4), timedelta(days=1)))
    assert first.record == again.record
    assert first.record != tomorrow.record


def test_colours_and_classes_become_those_of_the_standard() -> None:
    assert [frame(colorType=n).colour for n in (0, 1, 2, 3, 4, 5, "5", 99, "blue")] == ["", "5", "6", "2", "1", "9", "9", "", ""]
    assert [frame(type=n).plate_class for n in ODD_TYPES] == [
        "",
        "02",
        "01",
        "23",
        "31",
        "32",
        "26",
        "16",
        "27",
        "",
        "16",
    ]


def test_a_confidence_that_cannot_be_is_not_said() -> None:
    assert [frame(confidence=n).confidence for n in ODD_CONFIDENCES] == [0, 98, 97, 100, -1, -1, -1, -1, -1]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1", True),
        (1, True),
        (True, True),
        ("true", True),
        ("0", False),
        (0, False),
        (False, False),
        ("false", False),
        (None, True),
        ("yes", True),
        ([], True),
    ],
)
def test_a_flag_may_be_written_in_any_way(written: object, read: bool) -> None:
    assert bool(viid_records.vehicle(record(HasPlate=written)).plate) is read


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("20260102030405", datetime(2026, 1, 1, 19, 4, 5, tzinfo=UTC)),
        (20260102030405, datetime(2026, 1, 1, 19, 4, 5, tzinfo=UTC)),
        ("20260102030405678", datetime(2026, 1, 1, 19, 4, 5, 678000, tzinfo=UTC)),
        ("2026-01-02 03:04:05", datetime(2026, 1, 1, 19, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2099-01-02T03:04:05+08:00", datetime(2099, 1, 1, 19, 4, 5, tzinfo=UTC)),
        # None of these is a time: the one in the record's id is the next best.
        *[(odd, datetime(2017, 10, 18, 0, 6, 8, tzinfo=UTC)) for odd in ODD_TIMES],
    ],
)
def test_times_without_a_zone_are_in_the_communitys(written: object, expected: datetime) -> None:
    assert record(PassTime=written).occurred_at == expected


def test_numbers_may_be_strings_and_strings_numbers() -> None:
    read = viid_records.vehicle(record(LaneNo="3", PlateReliability=97, PlateColor=5, PlateClass=2.0))
    assert (read.lane_number, read.confidence, read.colour, read.plate_class) == (3, 97, "5", "2")


@pytest.mark.parametrize("given_id", ["0", VEHICLE_ID[:-1], VEHICLE_ID + "7", "44" + VEHICLE_ID[2:], VEHICLE_ID[:-2] + "·x", None])
def test_an_unusable_id_is_replaced_by_a_stable_one(given_id: str | None) -> None:
    odd = record(MotorVehicleID=given_id)
    assert odd.is_irregular
    assert odd.identity == record(MotorVehicleID=given_id, SubImageList={}).identity
    assert odd.identity != record(MotorVehicleID=given_id, PassTime="20171018080609").identity


def test_a_proper_id_is_kept_whatever_else_the_record_says() -> None:
    assert not record().is_irregular
    assert record().identity == (VEHICLE_ID,) == record(PlateNo="other").identity


@given(st.text() | st.integers() | st.floats() | st.none() | st.booleans() | st.lists(st.integers()))
def test_no_value_is_too_odd_to_read(value: object) -> None:
    assert len(loose.text(value)) <= loose.TEXT_LENGTH_MAX
    assert -5 <= loose.integer(value, 0, least=-5, most=5) <= 5
    assert isinstance(loose.flag(value, True), bool)
    assert isinstance(loose.time(value, SHANGHAI), datetime | None)


# Digests, secrets, keys, limits.


def test_digests_agree_with_the_example_of_the_standard() -> None:
    # RFC 2617 §3.5, with our realm's key in place of the example's.
    key = "939e7578ed9e3c518a452acee763bce9"
    answer = digest.parse(
        'Digest username="Mufasa", realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", uri="/dir/index.html", '
        'qop=auth, nc=00000001, cnonce="0a4f113b", response="6629fae49393a05397450978507c4ef1", opaque="5ccc069c403ebaf9f0171e9517f40e41"'
    )
    assert answer is not None
    assert digest.is_right(answer, key, "GET", "/dir/index.html")
    assert not digest.is_right(answer, key, "POST", "/dir/index.html")
    assert not digest.is_right(answer, key, "GET", "/other")
    assert answer.count == 1


@given(st.text(max_size=200))
def test_no_header_is_too_odd_to_parse(text: str) -> None:
    answer = digest.parse(f"Digest {text}")
    if answer is not None:
        assert not digest.is_right(answer, digest.key_of("a", "b"), "POST", "/")
        assert not digest.Nonces(b"key").is_fresh(answer.nonce, NOW)


def test_a_nonce_is_known_to_every_process_with_the_key_for_five_minutes() -> None:
    nonce = digest.Nonces(b"key").new(NOW)
    same, other = digest.Nonces(b"key"), digest.Nonces(b"other")
    assert same.is_fresh(nonce, NOW)
    assert same.is_fresh(nonce, NOW + timedelta(minutes=5))
    assert not same.is_fresh(nonce, NOW + timedelta(minutes=5, seconds=1))
    assert not same.is_fresh(nonce, NOW - timedelta(seconds=10))
    assert not other.is_fresh(nonce, NOW)
    assert not same.is_fresh("0" + nonce[1:] if nonce[0] != "0" else "1" + nonce[1:], NOW)


def test_what_is_kept_of_a_secret_recognises_it_and_does_not_hold_it() -> None:
    secret, vault = credentials.new_secret(), Vault(b"k" * 32)
    kept = vault.credential(CAMERA, secret)
    assert credentials.is_secret(secret, kept.secret_hash)
    assert not credentials.is_secret(secret + "x", kept.secret_hash)
    assert not credentials.is_secret(secret, None)
    assert vault.digest_key(CAMERA, kept.sealed_digest_key) == digest.key_of(CAMERA, secret)
    assert secret.encode() not in kept.secret_hash + kept.sealed_digest_key
    for other_vault, device in ((Vault(b"x" * 32), CAMERA), (vault, "another")):
        with pytest.raises(SealBrokenError):
            other_vault.digest_key(device, kept.sealed_digest_key)


def test_an_account_key_is_spelt_as_nats_spells_it() -> None:
    seed = nkeys.new_account_seed()
    assert seed.startswith("SA")
    assert len(seed) == 58
    key = nkeys.AccountKey(seed)
    assert key.public_key.startswith("A")
    assert len(key.public_key) == 56
    for wrong in ("", "SA", seed[:30] + ("A" if seed[30] != "A" else "B") + seed[31:], seed[1:], "SU" + seed[2:], "!" * 58):
        with pytest.raises(ValueError):  # noqa: PT011
            nkeys.AccountKey(wrong)


def test_a_device_may_ask_so_often_and_no_more() -> None:
    now = 0.0
    limits = Limits(lambda: now)
    limit = Limit(requests_per_s=10, in_flight_max=3)

    def ask(device: str = "a") -> bool:
        try:
            with limits.admitted(device, limit):
                return True
        except Exhausted:
            return False

    assert [ask() for _ in range(12)] == [True] * 10 + [False] * 2
    assert ask("b")
    now = 0.1
    assert [ask() for _ in range(2)] == [True, False]
    now = 100.0
    with limits.admitted("a", limit), limits.admitted("a", limit), limits.admitted("a", limit):
        with pytest.raises(Exhausted) as refused, limits.admitted("a", limit):
            pass
        assert refused.value.retry_after_s == 1
    assert ask()
