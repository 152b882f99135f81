"""Number plates that people type, checked where they come in."""

from servicekit.errors import FieldViolation, Invalid
from services.parking.plates import NotAPlate, Plate, parse


def plate_of(typed: str, field: str) -> Plate:
    """The plate that a person typed. Raises Invalid, naming the field, when it is none (GA 36-2018)."""
    try:
        plate = parse(typed)
    except NotAPlate:
        plate = None
    if plate is None:
        raise Invalid(NotAPlate.code, NotAPlate.zh, NotAPlate.en, fields=[FieldViolation(field, NotAPlate.code, "is not a number plate")])
    return plate
