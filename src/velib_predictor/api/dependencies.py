"""What the routes ask for: the service, a station's place, an instant."""

import re
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Query, Request

from velib_predictor.api.problems import NotFoundError
from velib_predictor.api.served import Served
from velib_predictor.api.service import Service
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import parse_duration, parse_time

_LOST_PLUS = re.compile(r" (?=\d\d:\d\d$)")


async def get_service(request: Request) -> Service:
    """The service of this application."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]
At = Annotated[str | None, Query(description="Instant to forecast, RFC 3339 with an offset.")]
Horizon = Annotated[str | None, Query(description="How far ahead of now, such as 30m or PT30M.")]
Least = Annotated[int, Query(alias="min", ge=1, le=1_000, description="Also the probability of at least so many.")]


def instant(service: Service, at: str | None, horizon: str | None) -> datetime | None:
    """The instant that is meant; None where none was named.

    Raises:
        UsageError: both were given, or one is no time or duration; the message says which form is expected.
    """
    if at is not None and horizon is not None:
        raise UsageError("at and horizon say the same thing in two ways; give one of them")
    if at is not None:
        return parse_time(_LOST_PLUS.sub("+", at))  # a "+" that was not escaped arrives as a blank
    return service.now() + parse_duration(horizon) if horizon is not None else None


def place_of(served: Served, station: str) -> int:
    """Where a station stands in the issue.

    Raises:
        NotFoundError: there is none with that id or code.
    """
    place = served.place(station)
    if place is None:
        raise NotFoundError(
            f"no station {station!r} (id or code) in {served.about.system_id!r}; "
            f"/v1/systems/{served.about.system_id}/stations lists them"
        )
    return place
