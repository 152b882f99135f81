"""What people type into the fields of a request, checked where it comes in."""

import unicodedata

from servicekit.errors import FieldViolation, Invalid


def text(typed: str, field: str, *, lines: bool = False) -> str:
    """A name, or with `lines` a note of several, without blanks around it.

    Raises Invalid, naming `field`, when nothing is left, or it holds control characters, of which PostgreSQL refuses some.
    """
    stripped, allowed = typed.strip(), "\n\t" if lines else ""
    if not stripped or any(unicodedata.category(character) == "Cc" and character not in allowed for character in stripped):
        violation = FieldViolation(field, "text", "must hold visible characters, and no control characters")
        raise Invalid("request.invalid", "内容须为可显示文字", "The text is not valid", fields=[violation])
    return stripped
