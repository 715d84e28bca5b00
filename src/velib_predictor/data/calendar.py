"""The system's own calendar: local time of day and kind of day at each tick, right across clock changes, offline."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from importlib import resources
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

WORKDAY, FREE_DAY = 0, 1
"""Kinds of day: Monday to Friday without public holidays, and all others."""
DAY_TYPES = 2


@dataclass(frozen=True, eq=False)
class LocalTime:
    """Where ticks lie in the system's calendar.

    Attributes:
        day: number of the local date (days since 1970-01-01), int32[tick].
        minute: of the local day, 0 to 1439, int16[tick].
        weekday: Monday is 0, int8[tick].
        day_type: `WORKDAY` or `FREE_DAY`, int8[tick].
    """

    day: npt.NDArray[np.int32]
    minute: npt.NDArray[np.int16]
    weekday: npt.NDArray[np.int8]
    day_type: npt.NDArray[np.int8]

    @property
    def hour(self) -> npt.NDArray[np.int8]:
        """Local hour, 0 to 23, int8[tick]."""
        return (self.minute // 60).astype(np.int8)


def local_time(ticks: npt.NDArray[np.datetime64], timezone: str) -> LocalTime:
    """The calendar of UTC ticks in an IANA zone, datetime64[s][tick]."""
    seconds = ticks.astype("datetime64[s]").astype(np.int64)
    quarters, which = np.unique(seconds // 900, return_inverse=True)  # all offsets in use are multiples of 15 minutes
    zone = ZoneInfo(timezone)
    offsets = np.array([_offset_s(int(quarter), zone) for quarter in quarters], dtype=np.int64)
    local = seconds + (offsets[which] if len(quarters) else 0)
    day = (local // 86_400).astype(np.int32)
    weekday = ((day + 3) % 7).astype(np.int8)  # 1970-01-01 was a Thursday
    holiday = np.isin(day, _holiday_numbers(timezone, day))
    day_type = np.where((weekday >= 5) | holiday, FREE_DAY, WORKDAY).astype(np.int8)
    return LocalTime(day, (local % 86_400 // 60).astype(np.int16), weekday, day_type)


def public_holidays(timezone: str, years: range) -> Mapping[date, str]:
    """Public holidays of the country that a zone belongs to, by date; none where the country is not known."""
    import holidays

    country = country_of(timezone)
    if country is None or country not in holidays.list_supported_countries(include_aliases=False):
        return {}
    found: dict[date, str] = dict(holidays.country_holidays(country, years=years))
    return found


def _offset_s(quarter: int, zone: ZoneInfo) -> int:
    at = datetime.fromtimestamp(quarter * 900, UTC).astimezone(zone)
    return int((at.utcoffset() or timedelta(0)).total_seconds())


def _holiday_numbers(timezone: str, day: npt.NDArray[np.int32]) -> list[int]:
    if not len(day):
        return []
    first, last = (date(1970, 1, 1) + timedelta(days=int(d)) for d in (day.min(), day.max()))
    return list(_holidays_of(timezone, first.year, last.year))


@cache
def _holidays_of(timezone: str, first: int, last: int) -> tuple[int, ...]:
    epoch = date(1970, 1, 1)
    return tuple((day - epoch).days for day in public_holidays(timezone, range(first, last + 1)))


@cache
def country_of(timezone: str) -> str | None:
    """ISO code of the country of a zone or of the zone that it is another name of. Nothing is read from the system."""
    zones = resources.files("tzdata") / "zoneinfo"
    # Not zone1970.tab: it has merged Oslo, Amsterdam, Stockholm and others into zones of their neighbours.
    lines = (zones / "zone.tab").read_text(encoding="utf-8").splitlines()
    table = [line.split("\t") for line in lines if not line.startswith("#")]  # country, place, zone
    countries = {zone: country for country, _, zone, *_ in table}
    if timezone in countries:
        return countries[timezone]
    links = (line.split() for line in (zones / "tzdata.zi").read_text(encoding="utf-8").splitlines())
    names = {link[2]: link[1] for link in links if link[:1] == ["L"]}
    return countries.get(names.get(timezone, ""))
