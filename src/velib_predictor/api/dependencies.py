"""What the routes ask for: the service, a station's place, an instant."""

import re
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Query, Request

from velib_predictor.api.problems import NotReadyError
from velib_predictor.api.served import Served
from velib_predictor.api.service import Known, Service
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import format_duration, parse_duration, parse_time

_LOST_PLUS = re.compile(r"(\S+[Tt ]\d\d:\S+) (\d\d:\d\d)")


async def get_service(request: Request) -> Service:
    """The service of this application."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]
At = Annotated[str | None, Query(description="Instant to forecast, RFC 3339 with an offset.")]
Horizon = Annotated[str | None, Query(description="How far ahead of now, such as 30m or PT30M.")]
Least = Annotated[int, Query(alias="min", ge=1, le=1_000, description="Also the probability of at least so many.")]


def instant(service: Service, served: Served, at: str | None, horizon: str | None) -> datetime | None:
    """The instant that is meant; None where none was named.

    A horizon counts from now, and now is later than the issue: the longest one would always lie just out of reach, so
    it means the last instant that the issue speaks of.

    Raises:
        UsageError: both were given, or one is no time or duration, or the horizon is too long; the message says what
            is expected.
        NotReadyError: it counts from now, and the newest issue is over.
    """
    if at is not None and horizon is not None:
        raise UsageError("at and horizon say the same thing in two ways; give one of them")
    if at is not None:
        lost = _LOST_PLUS.fullmatch(at.strip())
        return parse_time("+".join(lost.groups()) if lost else at)  # a "+" that was not escaped arrives as a blank
    return ahead(service, served, horizon) if horizon is not None else None


def ahead(service: Service, served: Served, horizon: str) -> datetime:
    """The instant so far from now, as `instant` says."""
    duration, reach, now = parse_duration(horizon), served.issue.spec.horizons[-1], service.now()
    if duration > reach:
        raise UsageError(f"horizon={horizon}: forecasts reach {format_duration(reach)} ahead at most")
    if now > served.issue.until:
        raise NotReadyError(
            f"the newest forecast was issued at {served.local(served.issue.issued_at)} and reached to "
            f"{served.local(served.issue.until)}; the next one can answer"
        )
    return min(now + duration, served.issue.until)


def place_of(known: Known, served: Served, station: str) -> int:
    """Where a station stands in the issue.

    Raises:
        NotFoundError: there is none with that id or code.
        NotReadyError: it was added after the issue was made.
    """
    place = served.place(station)
    if place is None:
        known.station(station)
        raise NotReadyError(f"the station {station!r} is new; the next forecast speaks of it")
    return place
