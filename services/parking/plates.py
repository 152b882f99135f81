"""Number plates: what cameras send, made uniform, classified and compared.

The forms are those of GA 36-2018. Which plates are inside, and what a camera's frame looks like, is known elsewhere.
"""

import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final


class PlateKind(StrEnum):
    SMALL = "small"  # blue, and the rare black ones of foreign-owned cars
    LARGE = "large"  # yellow
    NEW_ENERGY_SMALL = "new_energy_small"
    NEW_ENERGY_LARGE = "new_energy_large"
    POLICE = "police"
    DRIVING_SCHOOL = "driving_school"
    TRAILER = "trailer"
    HONG_KONG = "hong_kong"
    MACAU = "macau"
    EMBASSY = "embassy"
    CONSULATE = "consulate"
    MILITARY = "military"
    ARMED_POLICE = "armed_police"
    EMERGENCY = "emergency"  # fire and rescue
    TEMPORARY = "temporary"


# These are let through without charge and without delay.
ON_DUTY_KINDS: Final = frozenset({PlateKind.POLICE, PlateKind.ARMED_POLICE, PlateKind.MILITARY, PlateKind.EMERGENCY})

# GA/T 16.7 codes as GA/T 1400 sends them in PlateClass; "99" and the codes of two-wheelers say nothing of use here.
KIND_BY_VIID_PLATE_CLASS: Final[Mapping[str, PlateKind]] = {
    "01": PlateKind.LARGE,
    "02": PlateKind.SMALL,
    "03": PlateKind.EMBASSY,
    "04": PlateKind.CONSULATE,
    "15": PlateKind.TRAILER,
    "16": PlateKind.DRIVING_SCHOOL,
    "22": PlateKind.TEMPORARY,
    "23": PlateKind.POLICE,
    "26": PlateKind.HONG_KONG,
    "27": PlateKind.MACAU,
    "31": PlateKind.ARMED_POLICE,
    "32": PlateKind.MILITARY,
    "51": PlateKind.NEW_ENERGY_LARGE,
    "52": PlateKind.NEW_ENERGY_SMALL,
}
KIND_BY_VIID_PLATE_COLOUR: Final[Mapping[str, PlateKind]] = {
    "5": PlateKind.SMALL,
    "6": PlateKind.LARGE,
    "9": PlateKind.NEW_ENERGY_SMALL,
}


@dataclass(frozen=True, slots=True)
class Plate:
    text: str
    """Normalised: upper case, half width, no separators, `京A12345`."""
    kind: PlateKind


class NotAPlate(ValueError):
    """The text has none of the forms of GA 36-2018: a misread, or a typing error."""

    code: ClassVar[str] = "parking.not_a_plate"
    zh: ClassVar[str] = "不是有效的车牌号码"
    en: ClassVar[str] = "This is not a valid number plate"


_PROVINCE = "[京津沪渝冀晋蒙辽吉黑苏浙皖闽赣鲁豫鄂湘粤桂琼川贵云藏陕甘青宁新]"
_OFFICE = "[A-HJ-Z]"  # the registering office; O is that of provincial authorities
_SERIAL = "[A-HJ-NP-Z0-9]"  # GA 36-2018 leaves I and O out of serials: they look like 1 and 0

# The order matters where two forms overlap: WJ12345 is armed police, not the army.
_FORMS: Final[tuple[tuple[PlateKind, re.Pattern[str]], ...]] = tuple(
    (kind, re.compile(form, re.ASCII))
    for kind, form in (
        (PlateKind.SMALL, f"{_PROVINCE}{_OFFICE}{_SERIAL}{{5}}"),
        (PlateKind.NEW_ENERGY_SMALL, rf"{_PROVINCE}{_OFFICE}[A-HJK]{_SERIAL}\d{{4}}"),
        (PlateKind.NEW_ENERGY_LARGE, rf"{_PROVINCE}{_OFFICE}\d{{5}}[DF]"),
        (PlateKind.POLICE, f"{_PROVINCE}{_OFFICE}{_SERIAL}{{4}}警"),
        (PlateKind.DRIVING_SCHOOL, f"{_PROVINCE}{_OFFICE}{_SERIAL}{{4}}学"),
        (PlateKind.TRAILER, f"{_PROVINCE}{_OFFICE}{_SERIAL}{{4}}挂"),
        (PlateKind.HONG_KONG, f"粤Z{_SERIAL}{{4}}港"),
        (PlateKind.MACAU, f"粤Z{_SERIAL}{{4}}澳"),
        (PlateKind.EMBASSY, r"使\d{6}|\d{6}使"),
        (PlateKind.CONSULATE, rf"{_PROVINCE}(?:{_OFFICE}{_SERIAL}{{4}}|\d{{5}})领"),
        (PlateKind.EMERGENCY, rf"{_PROVINCE}[XS]\d{{4}}应急"),
        (PlateKind.ARMED_POLICE, rf"WJ{_PROVINCE}?\d{{4}}{_SERIAL}"),
        (PlateKind.MILITARY, r"[A-HJ-NP-Z]{2}\d{5}"),
        (
            PlateKind.TEMPORARY,
            f"临{_PROVINCE}{_OFFICE}{_SERIAL}{{4,5}}|{_PROVINCE}{_OFFICE}{_SERIAL}{{4,5}}临",
        ),
    )
)

_SEPARATORS: Final = re.compile(r"[\s_.\-·•‧∙⋅・‐-―−﹣]+")
_UNREAD: Final = frozenset({"", "无", "无牌", "无牌车", "无车牌", "未识别"})
_CAMERA_TEXT_LENGTH_MAX: Final = 64


def normalise(text: str) -> str | None:
    """One spelling for everything a camera or a person may write; None when the camera saw no plate.

    Cars licensed in Guangdong, Hong Kong and Macau at once are sent as `粤ZJ068澳|MX7742|ZM127`: the first is ours.
    Raises NotAPlate for a text far too long to be one.
    """
    if len(text) > _CAMERA_TEXT_LENGTH_MAX:
        raise NotAPlate(text[:_CAMERA_TEXT_LENGTH_MAX])
    first = unicodedata.normalize("NFKC", text).split("|", maxsplit=1)[0]
    plain = _SEPARATORS.sub("", first).upper()
    return None if plain in _UNREAD else plain


def parse(text: str, hint: PlateKind | None = None) -> Plate | None:
    """The plate a text names, or None when the camera saw none.

    The form decides the kind. `hint`, what the camera says of colour or class, is used for the one thing that the
    form leaves open: blue plates of small and yellow plates of large vehicles are written alike.
    Raises NotAPlate when the text has no form of GA 36-2018.
    """
    plain = normalise(text)
    if plain is None:
        return None
    for kind, form in _FORMS:
        if form.fullmatch(plain):
            yellow = kind is PlateKind.SMALL and hint is PlateKind.LARGE
            return Plate(plain, PlateKind.LARGE if yellow else kind)
    raise NotAPlate(plain)


class MatchKind(StrEnum):
    EXACT = "exact"
    CONFUSABLE = "confusable"  # a person should look at it later
    UNMATCHED = "unmatched"


@dataclass(frozen=True, slots=True)
class Match:
    kind: MatchKind
    plate: str | None
    """The plate inside that the read stands for; None when unmatched."""
    candidates: tuple[str, ...]
    """What a person chooses from: one when matched, none or several when not."""


# Characters of one group are taken for each other by cameras; D is taken for 0, yet not for O and Q.
_LOOKALIKES: Final = ("0OQ", "0D", "1IL", "8B", "5S", "2Z")


def confusable_variants(read: str) -> frozenset[str]:
    """Every text that differs from a normalised read in exactly one character that looks alike (at most 24)."""
    return frozenset(
        read[:position] + other + read[position + 1 :]
        for position, character in enumerate(read)
        for group in _LOOKALIKES
        if character in group
        for other in group
        if other != character
    )


_ONE_OF_EACH: Final = str.maketrans("OQDILBSZ", "00011852")


def lookalike_key(text: str) -> str:
    """The same for all normalised texts that could be taken for each other, and for more: what is looked at together."""
    return text.translate(_ONE_OF_EACH)


def match_exit(read: str, open_plates: Collection[str]) -> Match:
    """Which of the plates inside a normalised read at the exit stands for.

    The read is a text and not a Plate, because a misread (`京AO1234`) may be no plate and still have one meaning.
    Two cars it could be are a question for a person, never a guess.
    """
    if read in open_plates:
        return Match(MatchKind.EXACT, read, (read,))
    candidates = tuple(sorted(confusable_variants(read).intersection(open_plates)))
    if len(candidates) == 1:
        return Match(MatchKind.CONFUSABLE, candidates[0], candidates)
    return Match(MatchKind.UNMATCHED, None, candidates)
