"""Settings of what lies outside of the feeds: weather, school holidays, events; and what all sections share."""

from datetime import date
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A part of the settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _unless_none(url: str | None) -> str | None:
    return None if url == "none" else url


class WeatherSettings(Section):
    """Where the weather forecast comes from. It is fetched once an hour and kept as it was issued."""

    url: Annotated[str | None, AfterValidator(_unless_none)] = "https://api.open-meteo.com/v1/forecast"
    """Address of a forecast API of Open-Meteo's form (.../v1/forecast), or `none`. Open-Meteo's own is free for
    non-commercial use, and asks to be named (CC BY 4.0)."""


class EventSettings(Section):
    """A day, or some days, on which people ride as on no other: a marathon, a strike, a city without cars."""

    name: str
    """For people."""
    first: Annotated[date, Field(validation_alias=AliasChoices("date", "from"))]
    """Its local date, written `date`; or, written `from`, its first one."""
    last: Annotated[date | None, Field(validation_alias="to")] = None
    """Its last local date, written `to`; the first one if empty."""

    @model_validator(mode="after")
    def _in_order(self) -> "EventSettings":
        if self.last is not None and self.last < self.first:
            raise ValueError("an event must not end before it begins")
        return self


class CalendarSettings(Section):
    """What of the calendar does not follow from the country."""

    school_zone: Literal["A", "B", "C", "none"] | None = None
    """Zone of French school holidays; if empty, C in France and none elsewhere."""
    events: tuple[EventSettings, ...] = ()
    """Known ones, past and to come: a past one teaches what such a day is like."""
