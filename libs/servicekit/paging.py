"""Lists by cursor: a page token is the last row's sort key, opaque to callers, so pages neither repeat nor skip while rows come and go."""

import base64
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from servicekit.errors import FieldViolation, Invalid

T = TypeVar("T")
K = TypeVar("K")
PAGE_SIZE = 20
PAGE_SIZE_MAX = 100


def page_size(asked: int) -> int:
    """How many rows to answer: 0 takes the default."""
    return min(asked, PAGE_SIZE_MAX) if asked > 0 else PAGE_SIZE


def cursor(token: str, key: type[K]) -> K | None:
    """The sort key after which the page begins; None for the first page. Raises Invalid for a token that we did not make."""
    if not token:
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(token.encode("ascii") + b"=="), type=key)
    except (ValueError, msgspec.DecodeError):
        field = FieldViolation("page_token", "page_token", "not a token that this list answered with")
        raise Invalid("request.page_token", "page_token 无效", "The page token is not valid", fields=[field]) from None


def page(rows: Sequence[T], size: int, key: Callable[[T], object]) -> tuple[Sequence[T], str]:
    """Splits `rows`, of which the store selected one more than `size`, into the page and the token of the next one, empty at the end."""
    if len(rows) <= size:
        return rows, ""
    token = base64.urlsafe_b64encode(msgspec.json.encode(key(rows[size - 1]))).decode("ascii").rstrip("=")
    return rows[:size], token
