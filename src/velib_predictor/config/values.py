"""Values that many settings have: durations, times of day, and what all sections share."""

import re
from datetime import time, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import DURATION_FORM, parse_duration


def _duration(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):  # of a bare number nobody knows whether it means seconds or minutes
        raise ValueError(f"a duration is text with a unit; {DURATION_FORM}")
    try:
        return parse_duration(value)
    except UsageError as error:
        raise ValueError(str(error)) from None


def _time_of_day(value: Any) -> Any:
    """YAML reads `off` as false, and 03:20 as a number to the base of sixty."""
    if value is None or value is False or value in ("off", "false", "never"):
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1440:
        return time(value // 60, value % 60)
    if isinstance(value, str) and re.fullmatch("[0-2]?[0-9]:[0-5][0-9]", value):
        return value.zfill(5)
    if isinstance(value, time):
        return value
    raise ValueError("expected a time of day such as 03:20, or off")


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("a duration must be positive, such as 60s or 15m")
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration), AfterValidator(_positive)]
TimeOfDay = Annotated[time | None, BeforeValidator(_time_of_day)]


class Section(BaseModel):
    """A part of the settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
