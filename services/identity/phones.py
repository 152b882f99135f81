"""Mainland mobile numbers: what one is, and how it is shown."""

import re
from typing import Final

_PHONE: Final = re.compile(r"1[3-9][0-9]{9}", re.ASCII)


def is_phone(text: str) -> bool:
    """Whether `text` is a mobile number: eleven digits, the first a 1."""
    return _PHONE.fullmatch(text) is not None


def masked(phone: str) -> str:
    """The phone with its middle digits hidden."""
    return f"{phone[:3]}****{phone[7:]}"
