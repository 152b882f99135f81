"""A person's rhythm: how long the quiet at home usually lasts, by the hour in which it begins, and how long one may last before we worry.

Learned from nothing but the longest quiet that began in each hour of each of the last 28 local days, in minutes. What was noticed when, or
in which room, is kept nowhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, tzinfo
from typing import Final

HOURS: Final = 24
DAYS: Final = 28
# Nobody worries before the rhythm has been learned for so long.
LEARNING: Final = timedelta(days=7)
# A day without anything is no rhythm but an absence, which must not make us patient.
QUIET_MAX_MINUTES: Final = 1440
# One quiet in twenty may be longer than the usual, and any may be half as long again.
USUAL_PERCENT: Final = 95
_SLACK: Final = (3, 2)
_MINUTE: Final = timedelta(minutes=1)
# By day somebody may go out, by night somebody sleeps, however lively they usually are.
_DAY_HOURS: Final = range(6, 22)
QUIET_MIN_BY_DAY: Final = timedelta(hours=2)
QUIET_MIN_BY_NIGHT: Final = timedelta(hours=4)

Day = tuple[int, ...]
NO_QUIET: Final[Day] = (0,) * HOURS


@dataclass(frozen=True, slots=True)
class Rhythm:
    """The longest quiet, in minutes, that began in each hour of each local day; 0 where none did."""

    days: Mapping[date, Day] = field(default_factory=dict)

    def learned(self, began_at: datetime, ended_at: datetime, zone: tzinfo) -> "Rhythm":
        """With one quiet more; days that are too old are forgotten."""
        local = began_at.astimezone(zone)
        minutes = min((ended_at - began_at) // _MINUTE, QUIET_MAX_MINUTES)
        day = list(self.days.get(local.date(), NO_QUIET))
        day[local.hour] = max(day[local.hour], minutes)
        oldest = ended_at.astimezone(zone).date() - timedelta(days=DAYS)
        return Rhythm({each: hours for each, hours in {**self.days, local.date(): tuple(day)}.items() if each > oldest})

    def allows(self, began_at: datetime, zone: tzinfo) -> timedelta:
        """How long a quiet that began at an instant may last.

        The usual is that of quiets that began at about the same time of day, within an hour; where there were none, of all.
        """
        hour = began_at.astimezone(zone).hour
        near = {(hour - 1) % HOURS, hour, (hour + 1) % HOURS}
        comparable = sorted(day[each] for day in self.days.values() for each in near if day[each])
        quiets = comparable or sorted(minutes for day in self.days.values() for minutes in day if minutes)
        usual = quiets[-(-len(quiets) * USUAL_PERCENT // 100) - 1] if quiets else QUIET_MAX_MINUTES
        least = QUIET_MIN_BY_DAY if hour in _DAY_HOURS else QUIET_MIN_BY_NIGHT
        return max(least, timedelta(minutes=usual * _SLACK[0] // _SLACK[1]))

    def worry_at(self, before: datetime | None, active_at: datetime, zone: tzinfo) -> datetime:
        """When to worry after an activity, given when we would have without it: whoever does more worries nobody earlier."""
        at = active_at + self.allows(active_at, zone)
        return at if before is None else max(before, at)
