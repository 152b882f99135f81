"""What people type, checked where it comes in: plates, days, names and notes."""

from datetime import date

from servicekit.errors import FieldViolation, Invalid
from services.parking.plates import NotAPlate, Plate, parse

_YEARS = range(2000, 2200)


def plate_of(typed: str, field: str) -> Plate:
    """The plate that a person typed. Raises Invalid, naming the field, when it is none (GA 36-2018)."""
    try:
        plate = parse(typed)
    except NotAPlate:
        plate = None
    if plate is None:
        raise Invalid(NotAPlate.code, NotAPlate.zh, NotAPlate.en, fields=[FieldViolation(field, NotAPlate.code, "is not a number plate")])
    return plate


def text(typed: str, field: str) -> str:
    """A name or a note without blanks around it. Raises Invalid, naming the field, when it holds control characters or nothing."""
    stripped = typed.strip()
    if not stripped or not all(character.isprintable() or character in "\n\t" for character in stripped):
        violation = FieldViolation(field, "parking.text", "must hold printable text")
        raise Invalid("parking.text", "内容须为可显示文字", "The text is not printable", fields=[violation])
    return stripped


def day_of(typed: str, field: str) -> date:
    """A calendar day such as 2026-01-05. Raises Invalid, naming the field, when there is none like it in the years 2000 to 2199."""
    try:
        day = date.fromisoformat(typed)
    except ValueError:
        day = date.min
    if day.year not in _YEARS:
        violation = FieldViolation(field, "parking.day", "must be a calendar day between the years 2000 and 2199")
        raise Invalid("parking.day", "日期无效", "There is no such day", fields=[violation])
    return day
