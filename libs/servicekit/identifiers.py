"""Identifiers: UUIDv7 (RFC 9562), which sort by the time they were made."""

import uuid

import uuid_utils.compat

from servicekit.errors import malformed


def new_id() -> uuid.UUID:
    """A new identifier."""
    return uuid_utils.compat.uuid7()


def derived_id(*parts: str) -> uuid.UUID:
    """The identifier that always belongs to these parts, for records whose sender may send them again."""
    return uuid.uuid5(_DERIVED, "\x1f".join(parts))


def parse_id(text: str) -> uuid.UUID | None:
    """The identifier that `text` holds, or None when it holds none."""
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def to_id(text: str, field: str, code: str) -> uuid.UUID:
    """The identifier that a field of an event holds. Raises Invalid with `code` when it holds none, which makes it a dead letter."""
    identifier = parse_id(text)
    if identifier is None:
        raise malformed(field, "must be a UUID", code)
    return identifier


_DERIVED = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
