"""Options of the commands that fit and forecast, and how they become a specification."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from datetime import datetime

    from velib_predictor.forecast.forecast import ForecastSpec

Step = Annotated[str, typer.Option("--step", help="Grid of the forecasts, such as 15m or 1h.")]
Tolerance = Annotated[
    str | None,
    typer.Option("--tolerance", metavar="AGE", help="Oldest observation that a tick takes; the step if not given."),
]
Horizons = Annotated[
    str | None, typer.Option("--horizons", help="How far ahead: 15m,30m,1h (default: 15m to 24h).", show_default=False)
]
Targets = Annotated[
    str | None,
    typer.Option("--targets", help="Of bikes, mechanical, ebikes, docks (default: all).", show_default=False),
]

Now = Annotated[str | None, typer.Option("--now", metavar="T", help="As if it were then (default: now).")]
Track = Annotated[
    bool | None,
    typer.Option("--track/--no-track", help="Tell MLflow of it (default: as the settings say).", show_default=False),
]


def specification(step: str, horizons: str | None, targets: str | None) -> "ForecastSpec":
    """The forecast that the options ask for.

    Raises:
        UsageError: a duration or a target is none, or a horizon is no multiple of the step.
    """
    from velib_predictor.forecast.forecast import DEFAULT_HORIZONS, TARGETS, ForecastSpec
    from velib_predictor.utils.temporal import parse_duration

    size = parse_duration(step)
    ahead = (
        tuple(parse_duration(part) for part in _parts(horizons))
        if horizons is not None
        else tuple(horizon for horizon in DEFAULT_HORIZONS if not horizon % size)
    )
    return ForecastSpec(size, ahead, tuple(_parts(targets)) if targets is not None else TARGETS)


def moment(text: str | None) -> "datetime":
    """The time that --now gives; without it, now.

    Raises:
        UsageError: it is no time, or has no offset.
    """
    from datetime import UTC, datetime

    from velib_predictor.utils.temporal import parse_time

    return parse_time(text) if text else datetime.now(UTC)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
