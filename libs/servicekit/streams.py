"""What a service remembers of the broker's streams, so that it notices by itself when the broker has lost one, or the end of one.

What is remembered is in the service's own database, and in each process since it last looked. What is done about a loss is the relay's
business, in `outbox.py`.
"""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from servicekit.database import Transaction

_NOBODY = uuid.UUID(int=0)
# A loss can be counted for so long after it.
_KEEP = timedelta(days=30)

# The newest stream of each name.
_SELECT_STREAMS = """
SELECT DISTINCT ON (stream) stream, made_at, consumer, position FROM stream_marks WHERE consumer = '' ORDER BY stream, made_at DESC
"""
_SELECT_ALL = "SELECT stream, made_at, consumer, position FROM stream_marks ORDER BY stream, made_at, consumer"
_WRITE = """
INSERT INTO stream_marks AS known (stream, made_at, consumer, community_id, position)
SELECT stream, made_at, consumer, $5, position
FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::bigint[]) AS new (stream, made_at, consumer, position)
ON CONFLICT (stream, made_at, consumer) DO UPDATE SET position = excluded.position, looked_at = excluded.looked_at
WHERE known.position <> excluded.position
"""
_FORGET_CONSUMERS = "DELETE FROM stream_marks WHERE consumer <> ''"
_FORGET = """
DELETE FROM stream_marks AS old WHERE looked_at < now() - $1::interval
AND EXISTS (SELECT FROM stream_marks AS newer WHERE newer.stream = old.stream AND newer.made_at > old.made_at)
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a stream has come: its last message; or a consumer of it, when one is named: that until which it has handled all."""

    stream: str
    made_at: datetime
    consumer: str
    position: int


def _is_lost(before: Mark | None, now: Mark) -> bool:
    # Made anew, or it ends before where it ended.
    return before is not None and (before.made_at != now.made_at or before.position > now.position)


async def known_streams(transaction: Transaction) -> dict[str, Mark]:
    """What this service last saw of each stream, by name."""
    return {row["stream"]: Mark(**row) for row in await transaction.fetch(_SELECT_STREAMS)}


async def list_marks(transaction: Transaction) -> list[Mark]:
    """Everything that is remembered, of streams that are lost too."""
    return [Mark(**row) for row in await transaction.fetch(_SELECT_ALL)]


async def remember(transaction: Transaction, marks: Iterable[Mark]) -> None:
    """Keeps what was seen."""
    seen = list(marks)
    columns = zip(*((mark.stream, mark.made_at, mark.consumer, mark.position) for mark in seen), strict=True)
    if seen:
        await transaction.execute(_WRITE, *(list(column) for column in columns), _NOBODY)


async def forget_consumers(transaction: Transaction) -> None:
    """Forgets how far consumers were, so that nothing is counted as lost that a restore has given back."""
    await transaction.execute(_FORGET_CONSUMERS)


async def forget(transaction: Transaction) -> None:
    """Forgets streams that were lost long ago."""
    await transaction.execute(_FORGET, _KEEP)


def find_lost(before: Mapping[str, Mark], marks: Iterable[Mark]) -> list[Mark]:
    """The streams that have lost messages, as they were before."""
    return [before[mark.stream] for mark in marks if not mark.consumer and _is_lost(before.get(mark.stream), mark)]
