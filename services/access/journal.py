"""A terminal's journal: a chain of records, of which parts come late, twice, in any order and cut anywhere. Pure.

The hash of a record is SHA-256 of the hash before it and its exact bytes; before record 1 are 32 zero bytes. So a hash stands for all
records up to it: two parts that have one hash at one record are the same until there. What we hold of a journal are segments, each without
a gap; neighbours whose hashes fit become one.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

HASH_BYTES: Final = 32
BEGINNING: Final = bytes(HASH_BYTES)


def record_hash(previous_hash: bytes, record: bytes) -> bytes:
    """The hash of a record that follows `previous_hash`."""
    return hashlib.sha256(previous_hash + record).digest()


def chain(previous_hash: bytes, records: Iterable[bytes]) -> list[bytes]:
    """The hashes of these records, one after the other."""
    hashes = []
    sha256 = hashlib.sha256
    for record in records:
        previous_hash = sha256(previous_hash + record).digest()
        hashes.append(previous_hash)
    return hashes


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """Records from `first` to `last`, all of which we hold."""

    first: int
    last: int
    previous_hash: bytes
    last_hash: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a journal as it came: the number of its first record, and the hash of each."""

    first: int
    previous_hash: bytes
    hashes: Sequence[bytes]

    @property
    def last(self) -> int:
        """The number of its last record."""
        return self.first + len(self.hashes) - 1

    def hash_at(self, sequence: int) -> bytes | None:
        """The hash of a record, or of all that was before the part; None for what it does not reach."""
        if sequence == self.first - 1:
            return self.previous_hash
        return self.hashes[sequence - self.first] if self.first <= sequence <= self.last else None


@dataclass(frozen=True, slots=True)
class Absorbed:
    """What becomes of a journal with one part more."""

    segments: list[Segment]
    # The records that are new, each range from a first to a last number.
    fresh: list[tuple[int, int]]
    # Whether the part contradicts what we hold, or does not begin where it says. What we held first stays.
    is_broken: bool
    # Whether the part lies inside a segment, so that its hashes must be compared with the records themselves.
    is_unsure: bool


def absorb(segments: Sequence[Segment], part: Part) -> Absorbed:
    """Adds a part to the segments of one journal, which are in order and do not overlap."""
    begin = bisect_left(segments, part.first - 1, key=lambda each: each.last)
    end = begin
    while end < len(segments) and segments[end].first <= part.last + 1:
        end += 1
    touched = segments[begin:end]
    is_broken = part.first == 1 and part.previous_hash != BEGINNING
    is_broken = is_broken or not all(_fits(each, part) for each in touched)
    inside = next((each for each in touched if each.first <= part.first and part.last <= each.last), None)
    if inside is not None:
        is_unsure = not is_broken and part.last < inside.last
        return Absorbed(list(segments), [], is_broken, is_unsure)
    fresh = _outside(touched, part)
    added = [_segment(part, first, last) for first, last in fresh]
    merged = _joined(sorted([*touched, *added]))
    return Absorbed([*segments[:begin], *merged, *segments[end:]], fresh, is_broken, is_unsure=False)


def _fits(held: Segment, part: Part) -> bool:
    """Whether a part says the same as a segment wherever both have a hash."""
    at_end, before = part.hash_at(held.last), part.hash_at(held.first - 1)
    return at_end in (None, held.last_hash) and before in (None, held.previous_hash)


def _outside(held: Sequence[Segment], part: Part) -> list[tuple[int, int]]:
    """The ranges of a part that no segment holds."""
    ranges, first = [], part.first
    for each in held:
        if first < each.first:
            ranges.append((first, min(each.first - 1, part.last)))
        first = max(first, each.last + 1)
    return [*ranges, (first, part.last)] if first <= part.last else ranges


def _segment(part: Part, first: int, last: int) -> Segment:
    previous_hash, last_hash = part.hash_at(first - 1), part.hash_at(last)
    assert previous_hash is not None
    assert last_hash is not None
    return Segment(first, last, previous_hash, last_hash)


def _joined(segments: Sequence[Segment]) -> list[Segment]:
    """Neighbours whose hashes fit as one."""
    joined: list[Segment] = []
    for each in segments:
        if joined and joined[-1].last + 1 == each.first and joined[-1].last_hash == each.previous_hash:
            joined[-1] = Segment(joined[-1].first, each.last, joined[-1].previous_hash, each.last_hash)
        else:
            joined.append(each)
    return joined


def count(segments: Iterable[Segment]) -> int:
    """How many records we hold."""
    return sum(each.last - each.first + 1 for each in segments)


def missing(segments: Iterable[Segment], newest: int) -> list[tuple[int, int]]:
    """The records up to the newest that we do not hold, each range from a first to a last number, the oldest first."""
    ranges, first = [], 1
    for each in segments:
        if first < each.first:
            ranges.append((first, each.first - 1))
        first = each.last + 1
    return [*ranges, (first, newest)] if first <= newest else ranges
