"""What people type into the fields of a request, checked where it comes in; and the language in which they are answered."""

import unicodedata
from contextvars import ContextVar
from typing import Final

from servicekit.errors import FieldViolation, Invalid

# The language of the call in work, "zh" or "en". Errors need it not: they carry both texts, and the gateway chooses.
language: Final[ContextVar[str]] = ContextVar("language", default="zh")


def in_callers_language(zh: str, en: str) -> str:
    """The one of two texts that an answer holds, for the few contracts whose field takes only one."""
    return en if language.get() == "en" else zh


def text(typed: str, field: str, *, lines: bool = False) -> str:
    """A name, or with `lines` a note of several, without blanks around it.

    Raises Invalid, naming `field`, when nothing is left, or it holds control characters, of which PostgreSQL refuses some.
    """
    stripped, allowed = typed.strip(), "\n\t" if lines else ""
    if not stripped or any(unicodedata.category(character) == "Cc" and character not in allowed for character in stripped):
        violation = FieldViolation(field, "text", "must hold visible characters, and no control characters")
        raise Invalid("request.invalid", "内容须为可显示文字", "The text is not valid", fields=[violation])
    return stripped
