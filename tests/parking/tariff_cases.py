"""Stays and what they cost, computed by hand from the posted rules, with the calculation beside each.

Clock times are local to the case's zone. 2 March 2026 is a Monday; Spring Festival 2026 is 15 to 23 February, for which
people work on Saturday 14 and Saturday 28 February.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from services.parking.charges import Stay
from services.parking.plates import PlateKind
from services.parking.tariff import Discount, DiscountUnit, Holidays

Document = dict[str, Any]

SPRING_FESTIVAL_2026: Final = Holidays(
    days=frozenset(date(2026, 2, 15) + timedelta(days=day) for day in range(9)),
    working_days=frozenset({date(2026, 2, 14), date(2026, 2, 28)}),
)

# How the rules are posted, in the words of the sign.


def rate(minutes: int, fen: int, start: int = 0, end: int | None = None) -> Document:
    return {
        "rate_unit": "minute",
        "increment_duration": minutes,
        "increment_amount": fen,
        "start_duration": start,
        "end_duration": end,
    }


def band(name: str, *rates: Document, **more: Any) -> Document:
    return {"name": name, "rates": list(rates), **more}


def flat(name: str, fen: int, **more: Any) -> Document:
    return {"name": name, "flat_amount": fen, **more}


def clock(start: str, end: str, **more: Any) -> Document:
    return {"time_of_day_start": start, "time_of_day_end": end, **more}


def tariff(*bands: Document, **more: Any) -> Document:
    document: Document = {
        "name": "临时停车",
        "version": 1,
        "effective_from": "2025-01-01T00:00:00+08:00",
        "rate_unit_period": "stay",
        "bands": list(bands),
    }
    return document | more


def half_hours(*, period: str = "rolling", **more: Any) -> Document:
    return tariff(
        band("临停", rate(60, 500, end=60), rate(30, 200, start=60)),
        free={"minutes": 30, "kind": "all_or_nothing"},
        rate_unit_period=period,
        caps=[{"amount": 3000, "rate_unit_period": "rolling"}],
        grace_minutes=15,
        **more,
    )


# 30 minutes free or nothing; 5 yuan the first hour, 2 yuan each further 30 minutes, at most 30 yuan in 24 hours,
# after which it starts again; police free.
COMMUNITY: Final = half_hours(
    concessions=[
        {"user_classes": ["police"], "discount": {"name": "警车免费", "off": 100, "unit": "percent"}},
    ]
)
# The same, new energy half price.
NEW_ENERGY_HALF: Final = half_hours(
    concessions=[
        {
            "user_classes": ["new_energy_small", "new_energy_large"],
            "discount": {"name": "新能源减半", "off": 50, "unit": "percent"},
        },
    ]
)
# 15 minutes free, deducted; 3 yuan an hour; at most 20 yuan a calendar day.
BY_THE_DAY: Final = tariff(
    band("临停", rate(60, 300)),
    free={"minutes": 15, "kind": "deducted"},
    caps=[{"amount": 2000, "rate_unit_period": "calendar"}],
)
# 3 yuan an hour by day; 21:00 to 07:00 a flat 5 yuan.
NIGHT_FLAT: Final = tariff(
    flat("夜间", 500, time_span=clock("21:00", "07:00")),
    band("白天", rate(60, 300)),
)
# Street parking: 07:00 to 19:00 2.50 yuan a quarter of an hour in the first hour, then 3.75; by night 1 yuan for 2 hours.
STREET: Final = tariff(
    band("白天", rate(15, 250, end=60), rate(15, 375, start=60), time_span=clock("07:00", "19:00")),
    band("夜间", rate(120, 100)),
)
# Holidays free; working days 08:00 to 18:00 4 yuan an hour; otherwise 1 yuan an hour.
WORKDAYS: Final = tariff(
    flat("节假日免费", 0, time_span={"designated_period": "holidays"}),
    band("工作日白天", rate(60, 400), time_span=clock("08:00", "18:00", designated_period="workdays")),
    band("其他", rate(60, 100)),
)
# Saturdays and Sundays 10 yuan a day; the night that begins on a Friday 8 yuan; otherwise 2 yuan an hour.
WEEKENDS: Final = tariff(
    flat("周五夜间", 800, time_span=clock("21:00", "07:00", days_of_week=["fri"])),
    flat("周末", 1000, time_span={"days_of_week": ["sat", "sun"]}),
    band("平日", rate(60, 200)),
)
# 10 yuan an hour, at most 50 yuan a stay.
BY_THE_STAY: Final = tariff(band("临停", rate(60, 1000)), caps=[{"amount": 5000, "rate_unit_period": "stay"}])
# 08:00 to 20:00 4 yuan an hour up to 20 yuan; 20:00 to 08:00 1 yuan an hour up to 5 yuan.
DAY_AND_NIGHT_CAPS: Final = tariff(
    band("白天", rate(60, 400), time_span=clock("08:00", "20:00"), cap_amount=2000),
    band("夜间", rate(60, 100), time_span=clock("20:00", "08:00"), cap_amount=500),
    band("其他", rate(60, 100)),
)
# 10 yuan an hour, at most 60 yuan a calendar day and 100 yuan a stay.
TWO_CAPS: Final = tariff(
    band("临停", rate(60, 1000)),
    caps=[
        {"amount": 6000, "rate_unit_period": "calendar"},
        {"amount": 10000, "rate_unit_period": "stay"},
    ],
)
# 4 yuan an hour; new energy the first two hours free.
NEW_ENERGY_FIRST_HOURS: Final = tariff(
    band("临停", rate(60, 400)),
    concessions=[
        {
            "user_classes": ["new_energy_small"],
            "discount": {"name": "新能源前2小时免费", "off": 120, "unit": "minutes"},
        },
    ],
)
# 1.25 yuan a quarter of an hour; new energy half price.
ODD_FEN: Final = tariff(
    band("临停", rate(15, 125)),
    concessions=[{"user_classes": ["new_energy_small"], "discount": {"name": "减半", "off": 50, "unit": "percent"}}],
)
# 05:00 to 07:00 a day ticket for 1 yuan; otherwise 3 yuan an hour.
EARLY_BIRD: Final = tariff(
    band("早鸟", rate(1440, 100), time_span=clock("05:00", "07:00")),
    band("临停", rate(60, 300)),
)


def first_hour_of(period: str) -> Document:
    """5 yuan the first hour of each period, then 1 yuan an hour."""
    return tariff(band("临停", rate(60, 500, end=60), rate(60, 100, start=60)), rate_unit_period=period)


@dataclass(frozen=True)
class Case:
    tariff: Document
    entered: str
    left: str
    fen: int
    calculation: str
    plate_kind: PlateKind = PlateKind.SMALL
    zone: str = "Asia/Shanghai"
    discounts: tuple[Discount, ...] = ()

    @property
    def stay(self) -> Stay:
        return Stay(
            self._local(self.entered),
            self.plate_kind,
            ZoneInfo(self.zone),
            SPRING_FESTIVAL_2026,
            self.discounts,
        )

    @property
    def left_at(self) -> datetime:
        return self._local(self.left)

    def _local(self, text: str) -> datetime:
        return datetime.fromisoformat(f"2026-{text}").replace(tzinfo=ZoneInfo(self.zone))


POLICE, NEW_ENERGY, LARGE = PlateKind.POLICE, PlateKind.NEW_ENERGY_SMALL, PlateKind.NEW_ENERGY_LARGE
TWO_HOURS_OFF = Discount("访客券2小时", 120, DiscountUnit.MINUTES)
ONE_HOUR_OFF = Discount("访客券1小时", 60, DiscountUnit.MINUTES)
HALF_HOUR_OFF = Discount("访客券半小时", 30, DiscountUnit.MINUTES)
ONE_YUAN_OFF = Discount("代金券1元", 100, DiscountUnit.FEN)
FIVE_YUAN_OFF = Discount("代金券5元", 500, DiscountUnit.FEN)
WAIVED = Discount("全免券", 100, DiscountUnit.PERCENT)

CASES: Final = (
    # Free minutes, first step, following steps, started increments.
    Case(COMMUNITY, "03-02 08:00", "03-02 08:00", 0, "no time, no charge"),
    Case(COMMUNITY, "03-02 08:00", "03-02 08:20", 0, "20 min are within the free 30"),
    Case(COMMUNITY, "03-02 08:00", "03-02 08:30", 0, "30 min are still within the free 30"),
    Case(COMMUNITY, "03-02 08:00", "03-02 08:30:01", 500, "one second beyond: the first hour from its start, 5"),
    Case(COMMUNITY, "03-02 08:00", "03-02 09:00", 500, "60 min are the first hour, 5"),
    Case(COMMUNITY, "03-02 08:00", "03-02 09:01", 700, "5 + one half hour started 2"),
    Case(COMMUNITY, "03-02 08:00", "03-02 09:30", 700, "5 + one half hour 2"),
    Case(COMMUNITY, "03-02 08:00", "03-02 10:05", 1100, "5 + 65 min beyond are three half hours, 3 × 2"),
    # Cap per rolling 24 hours, and what comes after it.
    Case(COMMUNITY, "03-02 08:00", "03-02 15:00", 2900, "5 + 6 h beyond are 12 half hours, 12 × 2 = 24"),
    Case(COMMUNITY, "03-02 08:00", "03-02 15:10", 3000, "5 + 13 × 2 = 31, capped at 30"),
    Case(COMMUNITY, "03-02 08:00", "03-03 08:00", 3000, "24 h: the cap, 30"),
    Case(COMMUNITY, "03-02 08:00", "03-03 08:01", 3500, "30 + a first hour again 5"),
    Case(COMMUNITY, "03-02 08:00", "03-03 09:31", 3900, "30 + 5 + two half hours started 4"),
    Case(COMMUNITY, "03-02 08:00", "03-04 08:00", 6000, "48 h: twice 30"),
    Case(COMMUNITY, "03-02 08:00", "03-05 08:20", 9500, "3 × 30 + 5: the free minutes come once in a stay"),
    Case(half_hours(period="stay"), "03-02 08:00", "03-03 08:01", 3200, "30 + 2: no first hour again"),
    # Classes of vehicles.
    Case(COMMUNITY, "03-02 08:00", "03-02 18:00", 0, "police: 5 + 18 × 2 = 41, capped 30, less 100 %", POLICE),
    Case(COMMUNITY, "03-02 08:00", "03-02 10:05", 1100, "new energy has no concession here", NEW_ENERGY),
    Case(NEW_ENERGY_HALF, "03-02 08:00", "03-02 10:05", 550, "half of 5 + 3 × 2 = 11", NEW_ENERGY),
    Case(NEW_ENERGY_HALF, "03-02 08:00", "03-03 08:00", 1500, "half of the cap 30", LARGE),
    Case(NEW_ENERGY_HALF, "03-02 08:00", "03-03 08:00", 3000, "an ordinary car pays the cap"),
    Case(NEW_ENERGY_FIRST_HOURS, "03-02 08:00", "03-02 10:00", 0, "2 × 4, less the first 2 h 2 × 4", NEW_ENERGY),
    Case(NEW_ENERGY_FIRST_HOURS, "03-02 08:00", "03-02 10:01", 400, "3 × 4, less 2 × 4", NEW_ENERGY),
    Case(NEW_ENERGY_FIRST_HOURS, "03-02 08:00", "03-02 10:01", 1200, "an ordinary car pays 3 × 4"),
    Case(ODD_FEN, "03-02 08:00", "03-02 08:10", 62, "half of 1.25 is 0.625, rounded for the driver", NEW_ENERGY),
    Case(ODD_FEN, "03-02 08:00", "03-02 08:45", 187, "half of 3 × 1.25 = 3.75 is 1.875", NEW_ENERGY),
    # Free minutes deducted, cap per calendar day.
    Case(BY_THE_DAY, "03-02 08:00", "03-02 08:15", 0, "15 min are free"),
    Case(BY_THE_DAY, "03-02 08:00", "03-02 08:16", 300, "charged from 08:15: one hour started 3"),
    Case(BY_THE_DAY, "03-02 08:00", "03-02 09:15", 300, "charged from 08:15: one hour 3"),
    Case(BY_THE_DAY, "03-02 08:00", "03-02 09:16", 600, "charged from 08:15: two hours started 6"),
    Case(BY_THE_DAY, "03-02 08:00", "03-02 18:00", 2000, "9 h 45 min are ten hours 30, capped at 20"),
    Case(BY_THE_DAY, "03-02 20:00", "03-03 02:00", 1800, "20:15 to 23:15 four hours 12; 00:15, 01:15 two 6"),
    Case(BY_THE_DAY, "03-02 08:00", "03-03 20:00", 4000, "Monday 16 × 3 capped 20; Tuesday 20 × 3 capped 20"),
    Case(BY_THE_DAY, "03-02 23:50", "03-03 00:10", 300, "charged from 00:05: one hour 3"),
    # Flat night.
    Case(NIGHT_FLAT, "03-02 22:00", "03-03 06:00", 500, "one night 5"),
    Case(NIGHT_FLAT, "03-02 21:00", "03-03 07:00", 500, "the whole night 5"),
    Case(NIGHT_FLAT, "03-02 21:00", "03-03 07:00:01", 800, "the night 5 + one hour started 3"),
    Case(NIGHT_FLAT, "03-02 20:30", "03-02 21:30", 300, "the hour begun at 20:30 is paid until 21:30"),
    Case(NIGHT_FLAT, "03-02 20:30", "03-02 22:00", 800, "20:30 to 21:30 3, then the night 5"),
    Case(NIGHT_FLAT, "03-03 06:30", "03-03 08:30", 1100, "what is left of the night 5 + 07:00 3 + 08:00 3"),
    Case(NIGHT_FLAT, "03-03 02:00", "03-03 03:00", 500, "after midnight it is still the night of the 2nd, 5"),
    Case(NIGHT_FLAT, "03-02 19:00", "03-03 09:00", 1700, "two hours 6 + the night 5 + two hours 6"),
    Case(NIGHT_FLAT, "03-02 21:00", "03-04 07:00", 5200, "night 5 + 07:00 to 21:00 14 × 3 = 42 + night 5"),
    # Steps within bands.
    Case(STREET, "03-02 10:00", "03-02 10:40", 750, "three quarters started 3 × 2.50"),
    Case(STREET, "03-02 10:00", "03-02 11:20", 1750, "4 × 2.50 + two quarters started 2 × 3.75"),
    Case(STREET, "03-02 18:30", "03-02 20:00", 600, "2 × 2.50 until 19:00, then 2 h of night 1"),
    Case(STREET, "03-02 19:00", "03-03 07:00", 600, "12 h of night 6 × 1"),
    Case(STREET, "03-02 20:00", "03-03 08:00", 600, "20:00 to 06:00 six times 1; the last runs until 08:00"),
    Case(STREET, "03-02 20:00", "03-03 08:30", 1350, "6 + from 08:00, long past the first hour, 2 × 3.75"),
    # Days of the week, holidays, make-up working days.
    Case(WORKDAYS, "03-02 09:00", "03-02 11:00", 800, "Monday: 2 × 4"),
    Case(WORKDAYS, "03-07 09:00", "03-07 11:00", 200, "Saturday: 2 × 1"),
    Case(WORKDAYS, "02-14 09:00", "02-14 11:00", 800, "a Saturday on which people work: 2 × 4"),
    Case(WORKDAYS, "02-17 09:00", "02-17 23:00", 0, "New Year's day: free"),
    Case(WORKDAYS, "02-16 09:00", "02-21 09:00", 0, "five days within the holiday: free"),
    Case(
        WORKDAYS,
        "02-23 22:00",
        "02-24 09:30",
        1600,
        "free until 24:00; 8 × 1 until 08:00; 08:00, 09:00 2 × 4",
    ),
    Case(WORKDAYS, "02-14 17:00", "02-15 10:00", 1000, "17:00 4; 18:00 to 24:00 6 × 1; then free"),
    Case(WORKDAYS, "03-02 17:30", "03-02 19:30", 500, "the hour begun at 17:30 4, the one at 18:30 1"),
    Case(WEEKENDS, "03-07 09:00", "03-08 18:00", 2000, "Saturday 10 + Sunday 10"),
    Case(WEEKENDS, "03-06 19:00", "03-07 06:00", 1200, "Friday 19:00, 20:00 2 × 2 + the night of Friday 8"),
    Case(WEEKENDS, "03-07 00:30", "03-07 06:00", 800, "until 07:00 it is the night of Friday 8"),
    Case(WEEKENDS, "03-07 06:00", "03-07 12:00", 1800, "the rest of Friday's night 8 + Saturday 10"),
    Case(WEEKENDS, "03-08 23:00", "03-09 01:00", 1200, "Sunday 10 + Monday one hour 2"),
    # Caps per stay, per occurrence of a band, and two at once.
    Case(BY_THE_STAY, "03-02 08:00", "03-02 12:00", 4000, "4 × 10"),
    Case(BY_THE_STAY, "03-02 08:00", "03-02 13:01", 5000, "6 × 10, capped at 50"),
    Case(BY_THE_STAY, "03-02 08:00", "03-12 08:00", 5000, "ten days, capped at 50"),
    Case(DAY_AND_NIGHT_CAPS, "03-02 18:00", "03-02 22:00", 1000, "2 × 4 + 2 × 1"),
    Case(DAY_AND_NIGHT_CAPS, "03-02 08:00", "03-03 08:00", 2500, "12 × 4 capped 20 + 12 × 1 capped 5"),
    Case(DAY_AND_NIGHT_CAPS, "03-02 22:00", "03-03 10:00", 1300, "22:00 to 08:00 10 × 1 capped 5 + 2 × 4"),
    Case(TWO_CAPS, "03-02 14:00", "03-03 02:00", 8000, "10 × 10 capped 60 + 2 × 10"),
    Case(TWO_CAPS, "03-02 14:00", "03-03 14:00", 10000, "60 + 14 × 10 capped 60 = 120, capped at 100"),
    # "The first hour" each calendar day, each 24 hours, once.
    Case(first_hour_of("calendar"), "03-02 22:00", "03-03 02:00", 1200, "22:00 5, 23:00 1, 00:00 5, 01:00 1"),
    Case(first_hour_of("rolling"), "03-02 22:00", "03-03 02:00", 800, "5 + 3 × 1"),
    Case(first_hour_of("rolling"), "03-02 22:00", "03-03 23:00", 3300, "5 + 23 × 1 + 5"),
    Case(first_hour_of("stay"), "03-02 22:00", "03-03 23:00", 2900, "5 + 24 × 1"),
    Case(first_hour_of("calendar"), "03-02 22:30", "03-03 01:00", 1100, "22:30 5, 23:30 1, at 00:30 5 again"),
    # Visitors' discounts: minutes, then percents, then amounts.
    Case(
        COMMUNITY,
        "03-02 08:00",
        "03-02 11:00",
        500,
        "5 + 4 × 2 = 13; as if from 10:00: 5",
        discounts=(TWO_HOURS_OFF,),
    ),
    Case(COMMUNITY, "03-02 08:00", "03-02 10:05", 600, "11 less 5", discounts=(FIVE_YUAN_OFF,)),
    Case(COMMUNITY, "03-02 08:00", "03-02 08:45", 0, "5 less 2 × 5 is nothing", discounts=(FIVE_YUAN_OFF,) * 2),
    Case(COMMUNITY, "03-02 08:00", "03-04 08:00", 0, "60, waived", discounts=(WAIVED,)),
    Case(
        NEW_ENERGY_HALF,
        "03-02 08:00",
        "03-02 11:00",
        350,
        "13; as if from 09:00: 5 + 2 × 2 = 9; half 4.50; less 1",
        NEW_ENERGY,
        discounts=(ONE_YUAN_OFF, ONE_HOUR_OFF),
    ),
    Case(
        EARLY_BIRD,
        "03-02 06:30",
        "03-02 09:30",
        100,
        "as if from 07:00 would be 3 × 3: the coupon is not used against its holder",
        discounts=(HALF_HOUR_OFF,),
    ),
    # Local clocks: durations are real time, bands are what the wall clock says.
    Case(NIGHT_FLAT, "03-02 20:30", "03-02 22:00", 800, "Urumqi's clock: 3 + the night 5", zone="Asia/Urumqi"),
    Case(BY_THE_DAY, "03-02 08:00", "03-03 20:00", 4000, "Urumqi's days: 20 + 20", zone="Asia/Urumqi"),
    Case(NIGHT_FLAT, "03-07 21:00", "03-08 07:00", 500, "a night of 9 h is a night", zone="America/New_York"),
    Case(BY_THE_STAY, "03-08 01:30", "03-08 03:30", 1000, "02:00 is 03:00: one hour", zone="America/New_York"),
    Case(
        BY_THE_STAY,
        "11-01 00:30",
        "11-01 02:30",
        3000,
        "01:00 comes twice: three hours",
        zone="America/New_York",
    ),
)
