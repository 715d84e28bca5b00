"""Days that are not like others though the calendar's own rules do not show it: school holidays, and events."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from velib_predictor.data.calendar import country_of
from velib_predictor.utils.logger import get_logger

if TYPE_CHECKING:
    from velib_predictor.config.config import Settings

Floats = npt.NDArray[np.float32]
DEFAULT_ZONES: Mapping[str, str] = {"FR": "C"}
"""Zone of school holidays where the settings name none, by country: of Paris, where the large French system is."""
NO_ZONE = "none"
_EPOCH = date(1970, 1, 1)
_log = get_logger(__name__)


@dataclass(frozen=True)
class SpecialDays:
    """A system's special days.

    Attributes:
        school_zone: A, B or C in France; None, or `NO_ZONE`: nothing is known of school holidays.
        events: first and last day of each.
    """

    school_zone: str | None = None
    events: tuple[tuple[date, date], ...] = ()

    @classmethod
    def of(cls, settings: "Settings", system_id: str) -> Self:
        """What the settings say of a system; nothing, of one that they do not name."""
        if system_id not in settings.systems:
            return cls()
        said = settings.systems[system_id].calendar
        return cls(said.school_zone, tuple((event.first, event.last or event.first) for event in said.events))

    def within(self, timezone: str) -> Self:
        """The same, with the zone of the country that a time zone belongs to, where none is said."""
        return replace(self, school_zone=self.school_zone or DEFAULT_ZONES.get(country_of(timezone) or ""))

    def school(self, day: npt.NDArray[np.integer]) -> Floats:
        """1 in school holidays, 0 at other times, NaN where that is not known, float32[tick]; by local date number."""
        unknown = np.full(len(day), np.nan, dtype=np.float32)
        if self.school_zone in (None, NO_ZONE) or not len(day):
            return unknown
        holidays = _school_days(str(self.school_zone))
        if not len(holidays):
            return unknown
        inside = (day >= holidays[0]) & (day <= holidays[-1])
        if not inside.all():
            _warn_uncovered(str(self.school_zone), int(holidays[-1]))
        return np.where(inside, np.isin(day, holidays).astype(np.float32), unknown)

    def event(self, day: npt.NDArray[np.integer]) -> Floats:
        """1 on days of events, else 0, float32[tick]; by local date number."""
        found = np.zeros(len(day), dtype=np.float32)
        for first, last in self.events:
            found[(day >= (first - _EPOCH).days) & (day <= (last - _EPOCH).days)] = 1
        return found


@cache
def _school_days(zone: str) -> npt.NDArray[np.int32]:
    """Numbers of the days of school holidays, ascending; none where the package is not installed.

    Its table goes on beyond what has been decreed, with days that look like school days: what is known ends with its
    last holiday.
    """
    try:
        import vacances_scolaires_france as package
    except ImportError:
        _log.warning("school holidays are not known: install vacances-scolaires-france", zone=zone)
        return np.zeros(0, dtype=np.int32)
    table: Any = package.SchoolHolidayDates()
    years = range(table.min_year, table.max_year + 1)
    days = sorted(day for year in years for day in table.holidays_for_year_and_zone(year, zone))
    return np.array([(day - _EPOCH).days for day in days], dtype=np.int32)


@cache
def _warn_uncovered(zone: str, last: int) -> None:
    _log.warning(
        "school holidays are not known for all of the time: a newer vacances-scolaires-france may know them",
        zone=zone, known_until=(_EPOCH + timedelta(days=last)).isoformat(),
    )  # fmt: skip
