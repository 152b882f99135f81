"""Lists by cursor: a page token is the last row's sort key, opaque to callers, so pages neither repeat nor skip while rows come and go."""

import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from servicekit.errors import FieldViolation, Invalid

T = TypeVar("T")
K = TypeVar("K")
PAGE_SIZE = 20
PAGE_SIZE_MAX = 100


class ListRequest(Protocol):
    """What every request for a list holds."""

    @property
    def page_size(self) -> int: ...
    @property
    def page_token(self) -> str: ...


async def page(
    request: ListRequest, cursor: type[K], fetch: Callable[[K | None, int], Awaitable[Sequence[T]]], key: Callable[[T], K]
) -> tuple[Sequence[T], str]:
    """The rows that `request` asks for, and the token of the page after them, empty at the end.

    `fetch(after, limit)` selects up to `limit` rows whose sort keys follow `after`, which is None for the first page; `key` is a row's sort
    key, of the type `cursor`. A page size of 0 takes the default. Raises Invalid for a token that we did not make.
    """
    size = min(request.page_size, PAGE_SIZE_MAX) if request.page_size > 0 else PAGE_SIZE
    rows = await fetch(_key_of(request.page_token, cursor), size + 1)
    return (rows, "") if len(rows) <= size else (rows[:size], token(key(rows[size - 1])))


def token(key: object) -> str:
    """The token of the page that begins after the row with this sort key: for a list that ends a page early."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode("ascii").rstrip("=")


def _key_of(token: str, kind: type[K]) -> K | None:
    if not token:
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(token.encode("ascii") + b"=="), type=kind)
    except (ValueError, msgspec.DecodeError):
        field = FieldViolation("page_token", "page_token", "not a token that this list answered with")
        raise Invalid("request.page_token", "page_token 无效", "The page token is not valid", fields=[field]) from None
