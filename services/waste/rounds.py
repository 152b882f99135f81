"""Rounds: which compartments are emptied tonight, by which truck, in what order. PyVRP searches; what a stop is worth is decided here.

The plan and the fixed rounds of today are driven by one simulation (`_drive`) on one outlook, so their figures compare. Distances are
straight lines and 30 % more, because lanes bend. No I/O, no clock.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

import numpy
from pyvrp import Client, Depot, Location, ProblemData, VehicleType, solve
from pyvrp.stop import MaxRuntime, MultipleCriteria, NoImprovement

from services.waste.bins import Category, Place
from services.waste.forecast import FULL_PERMILLE, Outlook

# Lanes against straight lines, in tenths; a collecting truck's speed among houses; and what a crew takes to empty a bin.
_DETOUR_TENTHS: Final = 13
_SPEED_M_PER_H: Final = 15_000
_SERVICE: Final = timedelta(minutes=3)
_SECOND: Final = timedelta(seconds=1)
_EARTH_RADIUS_M: Final = 6_371_000
# What a minute of overflow may cost in driving: an hour is worth 6 km, 24 minutes of truck and crew.
_OVERFLOW_MINUTE_M: Final = 100
# A stop costs as much of the crew's time as this way.
_STOP_M: Final = 750
# What lies beside a full bin is taken along, up to as much; more than that nobody expects to find.
_TAKEN_PERMILLE_MAX: Final = 1500
# More bins of one category than a night's rounds can reach: the search stays quick, the rest is left out.
_SITES_MAX: Final = 300
# The rounds of a community are found long before. The seed is fixed so that the same night has the same plan.
_SEARCH_S: Final = 2.0
_ITERATIONS_IN_VAIN: Final = 500
_SEED: Final = 1


@dataclass(frozen=True, slots=True)
class Truck:
    """A truck in one night: from when until when it may be away from its depot, and the bins of its fixed round in order."""

    truck_id: UUID
    category: Category
    capacity_grams: int
    depot: Place
    begins_at: datetime
    ends_at: datetime
    fixed_round: Sequence[UUID] = ()


@dataclass(frozen=True, slots=True)
class Compartment:
    """A compartment, and what is expected of it."""

    bin_id: UUID
    name: str
    category: Category
    capacity_grams: int
    place: Place
    outlook: Outlook


@dataclass(frozen=True, slots=True)
class Night:
    """What is planned at once. `ends_at` is the end of the last shift, `horizon` that of the following night's."""

    begins_at: datetime
    ends_at: datetime
    horizon: datetime
    trucks: Sequence[Truck]
    compartments: Sequence[Compartment]


@dataclass(frozen=True, slots=True)
class Stop:
    """A bin that a truck empties: what the forecast expects to be taken, and how full that is of what the bin holds of the category."""

    bin_id: UUID
    arrives_at: datetime
    grams: int
    fill_permille: int


@dataclass(frozen=True, slots=True)
class Round:
    """What a truck drives, from its depot and back."""

    truck_id: UUID
    category: Category
    stops: Sequence[Stop]
    distance_m: int
    load_grams: int
    back_at: datetime


@dataclass(frozen=True, slots=True)
class Figures:
    """What rounds cost, and how long compartments are full in spite of them, until the horizon."""

    distance_m: int
    emptyings: int
    overflow_minutes: int


@dataclass(frozen=True, slots=True)
class ForecastFill:
    """A compartment that is left: how full it will be at the night's end, and when it will be full if that is foreseen."""

    bin_id: UUID
    compartment: str
    fill_permille: int
    full_at: datetime | None


@dataclass(frozen=True, slots=True)
class Plan:
    """A night's rounds, what they cost and what today's fixed ones would, and what is left, the fullest first."""

    rounds: Sequence[Round]
    planned: Figures
    fixed: Figures
    left_out: Sequence[ForecastFill]


@dataclass(frozen=True, slots=True)
class _Site:
    """What a truck empties at one stop: the compartments of its category in one bin.

    `worth_m` is what the stop is worth, in metres. It is urgent when one of them is expected to be full before the following night ends.
    """

    bin_id: UUID
    place: Place
    compartments: Sequence[Compartment]
    worth_m: int
    is_urgent: bool

    @property
    def capacity_grams(self) -> int:
        return sum(each.capacity_grams for each in self.compartments)

    def grams_at(self, at: datetime) -> int:
        """What is expected to be taken."""
        fills = ((each.capacity_grams, min(each.outlook.fill_at(at), _TAKEN_PERMILLE_MAX)) for each in self.compartments)
        return sum(capacity * fill // FULL_PERMILLE for capacity, fill in fills)


def plan_night(night: Night) -> Plan:
    """Plans the rounds of a night. Takes two to four seconds for each category at most, half of it without the interpreter's lock.

    A compartment that is expected to be full before the following night ends is left only when no truck can take it beside others like it.
    """
    sites = _sites(night)
    planned: list[Round] = []
    fixed: list[Round] = []
    for category in Category:
        trucks = [truck for truck in night.trucks if truck.category is category]
        planned += _search(night, trucks, sites[category])
        fixed += _fixed_rounds(trucks, sites[category])
    return Plan(planned, _figures(night, planned), _figures(night, fixed), _left_out(night, planned))


def _sites(night: Night) -> dict[Category, list[_Site]]:
    together: dict[tuple[Category, UUID], list[Compartment]] = defaultdict(list)
    for compartment in night.compartments:
        together[compartment.category, compartment.bin_id].append(compartment)
    sites: dict[Category, list[_Site]] = {category: [] for category in Category}
    for (category, bin_id), those in sorted(together.items()):
        is_urgent = any((full_at := each.outlook.full_at()) is not None and full_at < night.horizon for each in those)
        sites[category].append(_Site(bin_id, those[0].place, those, _worth_m(night, those), is_urgent))
    return sites


def _worth_m(night: Night, compartments: Iterable[Compartment]) -> int:
    """What emptying them is worth: the overflow that it saves even as the night's last stop, less the crew's time."""
    minutes = sum(
        each.outlook.overflow_minutes(night.begins_at, night.horizon)
        - each.outlook.overflow_minutes(night.begins_at, night.horizon, night.ends_at)
        for each in compartments
    )
    return minutes * _OVERFLOW_MINUTE_M - _STOP_M


def distance_m(here: Place, there: Place) -> int:
    """The way between two places, in metres."""
    north = math.radians(there.latitude - here.latitude)
    east = math.radians(there.longitude - here.longitude)
    parallels = math.cos(math.radians(here.latitude)) * math.cos(math.radians(there.latitude))
    chord = math.sin(north / 2) ** 2 + parallels * math.sin(east / 2) ** 2
    return math.ceil(2 * _EARTH_RADIUS_M * math.asin(min(1.0, math.sqrt(chord))) * _DETOUR_TENTHS / 10)


def _drive_s(distance_m: int) -> int:
    return -(-distance_m * 3600 // _SPEED_M_PER_H)


# One simulation for all rounds.


def _drive(truck: Truck, sites: Iterable[_Site]) -> Round:
    """Drives to sites in this order and back, whether that fits or not."""
    place, at, way_m, stops = truck.depot, truck.begins_at, 0, list[Stop]()
    for site in sites:
        leg_m = distance_m(place, site.place)
        at += timedelta(seconds=_drive_s(leg_m))
        grams = site.grams_at(at)
        stops.append(Stop(site.bin_id, at, grams, grams * FULL_PERMILLE // site.capacity_grams))
        place, at, way_m = site.place, at + _SERVICE, way_m + leg_m
    leg_m = distance_m(place, truck.depot)
    load_grams, back_at = sum(stop.grams for stop in stops), at + timedelta(seconds=_drive_s(leg_m))
    return Round(truck.truck_id, truck.category, stops, way_m + leg_m, load_grams, back_at)


def _fits(truck: Truck, sites: Iterable[_Site]) -> bool:
    """Whether a truck can empty these in this order, within its capacity and its shift."""
    driven = _drive(truck, sites)
    return driven.load_grams <= truck.capacity_grams and driven.back_at <= truck.ends_at


def _fixed_rounds(trucks: Iterable[Truck], sites: Iterable[_Site]) -> list[Round]:
    """Each truck's fixed round, until it is full or its shift is over. Bins that another truck has emptied are driven past."""
    waiting = {site.bin_id: site for site in sites}
    rounds = []
    for truck in trucks:
        driven: list[_Site] = []
        for bin_id in truck.fixed_round:
            if bin_id not in waiting:
                continue
            if not _fits(truck, [*driven, waiting[bin_id]]):
                break
            driven.append(waiting.pop(bin_id))
        if driven:
            rounds.append(_drive(truck, driven))
    return rounds


def _emptied(rounds: Iterable[Round]) -> dict[tuple[UUID, Category], datetime]:
    return {(stop.bin_id, each.category): stop.arrives_at for each in rounds for stop in each.stops}


def _figures(night: Night, rounds: Sequence[Round]) -> Figures:
    emptied = _emptied(rounds)
    overflow_minutes = sum(
        each.outlook.overflow_minutes(night.begins_at, night.horizon, emptied.get((each.bin_id, each.category)))
        for each in night.compartments
    )
    return Figures(sum(each.distance_m for each in rounds), len(emptied), overflow_minutes)


def _left_out(night: Night, rounds: Sequence[Round]) -> list[ForecastFill]:
    emptied = _emptied(rounds)
    left = [
        ForecastFill(each.bin_id, each.name, each.outlook.fill_at(night.ends_at), each.outlook.full_at())
        for each in night.compartments
        if (each.bin_id, each.category) not in emptied
    ]
    return sorted(left, key=lambda fill: (-fill.fill_permille, fill.bin_id, fill.compartment))


# The search.


def _search(night: Night, trucks: Sequence[Truck], sites: Iterable[_Site]) -> list[Round]:
    """The rounds of one category that save the most overflow for the least driving."""
    wanted = [site for site in sites if site.is_urgent or site.worth_m > 0]
    wanted = [site for site in wanted if any(_fits(truck, [site]) for truck in trucks)]
    wanted.sort(key=lambda site: (site.is_urgent, site.worth_m), reverse=True)
    orders = _solve(night, trucks, wanted[:_SITES_MAX])
    _insert_urgent(trucks, orders, [site for site in wanted if site.is_urgent])
    return [_drive(truck, order) for truck, order in zip(trucks, orders, strict=True) if order]


def _solve(night: Night, trucks: Sequence[Truck], sites: Sequence[_Site]) -> list[list[_Site]]:
    """The sites of each truck's round in order, as PyVRP finds them: none must be visited, and each pays its prize when it is.

    An urgent one pays more than any way to it and all that is not urgent together.
    """
    orders: list[list[_Site]] = [[] for _ in trucks]
    if not sites:
        return orders
    places = [*(truck.depot for truck in trucks), *(site.place for site in sites)]
    ways: Any = numpy.array([[distance_m(here, there) for there in places] for here in places], numpy.int64)
    times: Any = _drive_s(ways)
    premium = 2 * int(ways.max()) + sum(site.worth_m for site in sites if not site.is_urgent)
    clients = [
        Client(
            location=len(trucks) + n,
            pickup=[site.grams_at(night.ends_at)],
            service_duration=_SERVICE // _SECOND,
            prize=max(0, site.worth_m) + premium * site.is_urgent,
            required=False,
        )
        for n, site in enumerate(sites)
    ]
    vehicles = [
        VehicleType(
            capacity=[truck.capacity_grams],
            start_depot=n,
            end_depot=n,
            tw_early=(truck.begins_at - night.begins_at) // _SECOND,
            tw_late=(truck.ends_at - night.begins_at) // _SECOND,
        )
        for n, truck in enumerate(trucks)
    ]
    locations = [Location(place.longitude, place.latitude) for place in places]
    data = ProblemData(locations, clients, [Depot(n) for n in range(len(trucks))], vehicles, [ways], [times])
    stop = MultipleCriteria([NoImprovement(_ITERATIONS_IN_VAIN), MaxRuntime(_SEARCH_S)])
    found = solve(data, stop, seed=_SEED, collect_stats=False, display=False)
    if found.is_feasible():
        for route in found.best.routes():
            orders[route.vehicle_type()] = [sites[activity.idx] for activity in route if activity.is_client()]
    return orders


def _insert_urgent(trucks: Sequence[Truck], orders: list[list[_Site]], urgent: Iterable[_Site]) -> None:
    """Puts the urgent sites that the search has left where the way to them is shortest, instead of what is not urgent if need be.

    A search that is cut short, or loads that are lighter when a truck comes than when the night ends, may leave some.
    """
    for site in urgent:
        if any(site in order for order in orders):
            continue
        for kept in (orders, [[other for other in order if other.is_urgent] for order in orders]):
            longer = [(*_inserted(truck, order, site), n) for n, (truck, order) in enumerate(zip(trucks, kept, strict=True))]
            fitting = [(detour_m, n, order) for detour_m, order, n in longer if _fits(trucks[n], order)]
            if fitting:
                _, n, orders[n] = min(fitting, key=lambda each: each[:2])
                break


def _inserted(truck: Truck, order: Sequence[_Site], site: _Site) -> tuple[int, list[_Site]]:
    """The round with the site where the detour to it is shortest, and that detour in metres."""
    places = [truck.depot, *(other.place for other in order), truck.depot]
    detours = [distance_m(a, site.place) + distance_m(site.place, b) - distance_m(a, b) for a, b in pairwise(places)]
    at = detours.index(min(detours))
    return detours[at], [*order[:at], site, *order[at:]]
