"""Plates: what cameras send made uniform, the forms of GA 36-2018, and reads that are one look-alike off."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.parking.plates import (
    KIND_BY_VIID_PLATE_CLASS,
    KIND_BY_VIID_PLATE_COLOUR,
    ON_DUTY_KINDS,
    Match,
    MatchKind,
    NotAPlate,
    Plate,
    PlateKind,
    confusable_variants,
    lookalike_key,
    match_exit,
    normalise,
    parse,
)

# What cameras send.


@pytest.mark.parametrize(
    "sent",
    [
        "京A12345",
        "京a12345",
        "京A·12345",
        "京A•12345",
        "京A・12345",
        "京A･12345",
        "京A-12345",
        "京A－12345",
        "京A—12345",
        " 京A 123\t45\n",
        "京A\u300012345",
        "京Ａ１２３４５",
        "京ａ·１２３４５",
        "京A.12345",
        "京A_12345",
    ],
)
def test_every_way_of_writing_a_plate_is_one_plate(sent: str) -> None:
    assert parse(sent) == Plate("京A12345", PlateKind.SMALL)


@pytest.mark.parametrize("sent", ["", "   ", "_无_", "无", "＿无＿", "无车牌", "无牌车", "未识别"])
def test_a_camera_that_saw_no_plate_gives_none(sent: str) -> None:
    assert parse(sent) is None
    assert normalise(sent) is None


def test_of_a_car_with_three_plates_the_mainland_one_counts() -> None:
    assert parse("粤ZJ068澳|MX7742|ZM127") == Plate("粤ZJ068澳", PlateKind.MACAU)


# The forms.


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("京A12345", PlateKind.SMALL),
        ("苏NF5676", PlateKind.SMALL),
        ("新Q1A2B3", PlateKind.SMALL),
        ("浙O12345", PlateKind.SMALL),
        ("京AD12345", PlateKind.NEW_ENERGY_SMALL),
        ("粤BF12345", PlateKind.NEW_ENERGY_SMALL),
        ("沪ADA2345", PlateKind.NEW_ENERGY_SMALL),
        *((f"沪A{letter}12345", PlateKind.NEW_ENERGY_SMALL) for letter in "ABCEGHJK"),
        ("京A12345D", PlateKind.NEW_ENERGY_LARGE),
        ("粤B12345F", PlateKind.NEW_ENERGY_LARGE),
        ("京A1234警", PlateKind.POLICE),
        ("川OC123警", PlateKind.POLICE),
        ("京A1234学", PlateKind.DRIVING_SCHOOL),
        ("鲁BA123挂", PlateKind.TRAILER),
        ("粤ZF023港", PlateKind.HONG_KONG),
        ("粤ZJ068澳", PlateKind.MACAU),
        ("使014578", PlateKind.EMBASSY),
        ("224578使", PlateKind.EMBASSY),
        ("沪A0023领", PlateKind.CONSULATE),
        ("粤22478领", PlateKind.CONSULATE),
        ("WJ12345", PlateKind.ARMED_POLICE),
        ("WJ1234J", PlateKind.ARMED_POLICE),
        ("WJ粤8888X", PlateKind.ARMED_POLICE),
        ("wj·京12345", PlateKind.ARMED_POLICE),
        ("VA12345", PlateKind.MILITARY),
        ("KA·12345", PlateKind.MILITARY),
        ("京X1234应急", PlateKind.EMERGENCY),
        ("川S0001应急", PlateKind.EMERGENCY),
        ("临京A1234", PlateKind.TEMPORARY),
        ("临鲁B12345", PlateKind.TEMPORARY),
        ("鲁B1234临", PlateKind.TEMPORARY),
    ],
)
def test_a_plate_is_classified_by_its_form(text: str, kind: PlateKind) -> None:
    plate = parse(text)
    assert plate is not None
    assert plate.kind is kind


@pytest.mark.parametrize(
    "text",
    [
        "京A1234",  # too short
        "京A123456",  # eight, and no new-energy letter
        "京AD123456",  # too long
        "京AL12345",  # L marks no new-energy vehicle
        "京ADAB345",  # new energy: two letters at most, then digits
        "京A1234OD",
        "京A1234I",  # I and O are in no serial
        "京AO1234",
        "京I12345",
        "台A12345",  # no province of GA 36
        "AA1234",
        "A123456",
        "京12345A",
        "粤A1234港",  # Hong Kong's are 粤Z
        "京A12345警",
        "WJ123456",
        "使12345",
        "京A1234应急",
        "IO12345",
        "京A١٢٣٤٥",  # digits, not ours
        "¾©A12345",  # GBK read as Latin-1
        "\ufffd\ufffdA12345",
        "京A12345; DROP TABLE",
        "12345",
        "🚗",
        "京" * 65,
    ],
)
def test_a_plate_that_is_no_plate_is_refused_with_a_stable_code(text: str) -> None:
    with pytest.raises(NotAPlate) as raised:
        parse(text)
    assert raised.value.code == "parking.not_a_plate"


@given(st.text(max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_plate_or_unread_or_refused(text: str) -> None:
    try:
        plate = parse(text)
    except NotAPlate:
        return
    assert plate is None or parse(plate.text) == plate


# What the camera says of colour and class.


def test_a_yellow_plate_is_a_large_vehicles() -> None:
    assert parse("京A12345", KIND_BY_VIID_PLATE_COLOUR["6"]) == Plate("京A12345", PlateKind.LARGE)
    assert parse("京A12345", KIND_BY_VIID_PLATE_CLASS["01"]) == Plate("京A12345", PlateKind.LARGE)


@pytest.mark.parametrize("text", ["京AD12345", "京A1234学", "WJ12345"])
def test_a_form_that_leaves_no_doubt_outweighs_what_the_camera_says(text: str) -> None:
    assert parse(text, PlateKind.LARGE) == parse(text)
    assert parse("京A12345", PlateKind.POLICE) == Plate("京A12345", PlateKind.SMALL)


def test_codes_of_the_new_energy_classes_are_new_energy() -> None:
    assert {KIND_BY_VIID_PLATE_CLASS["51"], KIND_BY_VIID_PLATE_CLASS["52"]} == {PlateKind.NEW_ENERGY_SMALL, PlateKind.NEW_ENERGY_LARGE}
    assert {KIND_BY_VIID_PLATE_CLASS[code] for code in ("23", "31", "32")} < ON_DUTY_KINDS


# Reads that are one look-alike off.


@pytest.mark.parametrize("pair", ["0O", "0Q", "OQ", "0D", "1I", "1L", "IL", "8B", "5S", "2Z"])
def test_look_alikes_are_taken_for_each_other_both_ways(pair: str) -> None:
    one, other = f"京A{pair[0]}3467", f"京A{pair[1]}3467"
    assert other in confusable_variants(one)
    assert one in confusable_variants(other)


@pytest.mark.parametrize(
    ("read", "candidate"),
    [
        ("京A12345", "京A12345"),  # equal, so exact
        ("京A12346", "京A12345"),  # 6 and 5 are not look-alikes
        ("京A88345", "京ABB345"),  # two characters off
        ("京A1234", "京A12345"),  # another length
        ("津A12345", "京A12345"),
        ("京AD2345", "京AQ2345"),  # D is like 0, not like Q
    ],
)
def test_nothing_else_is(read: str, candidate: str) -> None:
    assert candidate not in confusable_variants(read)


plates = st.text("0123456789ABDLOQSZ", min_size=5, max_size=6).map(lambda serial: f"京A{serial}")


@given(plates)
@settings(max_examples=100, deadline=None)
def test_variants_differ_in_one_place_and_are_variants_of_each_other(read: str) -> None:
    for variant in confusable_variants(read):
        assert len(variant) == len(read)
        assert sum(one != other for one, other in zip(read, variant, strict=True)) == 1
        assert read in confusable_variants(variant)


def test_an_exact_match_wins_over_a_look_alike() -> None:
    assert match_exit("京A80000", ["京AB0000", "京A80000"]) == Match(MatchKind.EXACT, "京A80000", ("京A80000",))


def test_one_look_alike_inside_is_a_match_to_be_reviewed() -> None:
    assert match_exit("京A8D000", ["京A80000", "京A12345"]) == Match(MatchKind.CONFUSABLE, "京A80000", ("京A80000",))


def test_a_read_that_is_no_plate_may_still_have_one_meaning() -> None:
    assert match_exit("京AO1234", {"京A01234"}).plate == "京A01234"


def test_two_look_alikes_inside_are_for_a_person_to_tell_apart() -> None:
    match = match_exit("京A82345", ["京AB2345", "京A8Z345"])
    assert match == Match(MatchKind.UNMATCHED, None, ("京A8Z345", "京AB2345"))


def test_a_car_that_nothing_inside_resembles_is_unmatched() -> None:
    assert match_exit("京A12345", ["京A12346"]) == Match(MatchKind.UNMATCHED, None, ())
    assert match_exit("京A12345", []) == Match(MatchKind.UNMATCHED, None, ())


@given(plates, st.lists(plates, max_size=8))
@settings(max_examples=200, deadline=None)
def test_a_match_is_always_a_plate_that_is_inside(read: str, inside: list[str]) -> None:
    match = match_exit(read, inside)
    assert (match.plate is None) is (match.kind is MatchKind.UNMATCHED)
    assert match.plate is None or match.plate in inside
    assert match_exit(read, inside[::-1]) == match


@given(st.sampled_from(["京A12B45", "京AD0128S", "京A02B1Z5", "QOD0IL1"]))
def test_texts_that_could_be_taken_for_each_other_are_looked_at_together(text: str) -> None:
    assert confusable_variants(text)
    assert {lookalike_key(variant) for variant in confusable_variants(text)} == {lookalike_key(text)}
