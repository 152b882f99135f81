"""Number plates as households register them: one spelling for each. What cameras read is parking's concern."""

import re
import unicodedata
from typing import Final

_SEPARATORS: Final = re.compile(r"[\s_.\-·•‧∙⋅・‐-―−﹣]+")
# Wider than the forms of GA 36-2018, which parking knows: a plate has a Chinese character or two letters, and 5 to 10 characters in all.
_PLATE: Final = re.compile(r"(?=.*(?:[一-鿿]|[A-Z]{2}))[A-Z0-9一-鿿]{5,10}")


def normalised(text: str) -> str | None:
    """The plate in upper case and half width, without separators, such as `京A12345`; None when `text` is no plate."""
    plain = _SEPARATORS.sub("", unicodedata.normalize("NFKC", text)).upper()
    return plain if _PLATE.fullmatch(plain) and any(character.isdigit() for character in plain) else None
