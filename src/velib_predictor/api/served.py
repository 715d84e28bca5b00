"""One issue made ready to be asked: its numbers are computed at once, its bodies when somebody first wants them."""

import threading
from collections import OrderedDict
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from velib_predictor.api.caching import GEOJSON, Body
from velib_predictor.data.known_weather import WeatherSource
from velib_predictor.data.panel import CHANNELS
from velib_predictor.forecast import pmf as algebra
from velib_predictor.inference.current import SystemAbout
from velib_predictor.inference.issue import TRUST, Issue, Source, State
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.temporal import format_duration

QUANTILES = {"q10": 0.1, "q50": 0.5, "q90": 0.9}
NETWORK_HORIZON = timedelta(minutes=30)
_NETWORKS_KEPT = 24
_FALLBACKS = {
    Source.COLDSTART: "the cold-start model, which was trained on other systems, stands in for the model",
    Source.CLIMATOLOGY: "what is usual there at that hour stands in for the model",
    Source.PERSISTENCE: "what was last seen there stands in for the model",
    Source.NONE: "nothing has been seen there within a day",
}
_NEW = "the station is new to the model; the cold-start model, which was trained on other systems, stands in"
_WEATHER = "Weather data by Open-Meteo.com (CC BY 4.0)"
"""Asked for by their licence, wherever something is made of it."""
_CLOSED = "the station was out of order when last seen; the probabilities are 0 until it opens"

Numbers = dict[str, npt.NDArray[Any]]


def meta(about: SystemAbout) -> dict[str, Any]:
    """What every answer says of where it comes from."""
    return {
        "system_id": about.system_id,
        "licence": about.licence or "not stated by the system",
        "attribution": about.attribution or about.name or about.system_id,
        "produced_by": "velib-predictor",
    }


class Served:
    """Answers from one issue. Safe to use from several threads: at worst a body is made twice."""

    def __init__(self, issue: Issue, about: SystemAbout) -> None:
        self.issue = issue
        self.about = about
        self._zone = ZoneInfo(issue.timezone)
        self._place = {code: place for place, code in enumerate(issue.stations.code) if code}
        self._place |= {name: place for place, name in enumerate(issue.stations.id)}
        self._times = [issue.issued_at + horizon for horizon in issue.spec.horizons]
        self._valid = [self.local(when) for when in self._times]
        # As plain lists: they are asked one by one, and a number out of an array costs ten times as much.
        seen = np.asarray((issue.now >= 0).any(axis=1))
        self._seen: list[bool] = seen.tolist()
        self._closed: list[bool] = (seen & ~issue.open).tolist()
        self._known: list[list[bool]] = (issue.source != Source.NONE).tolist()  # [station][target]
        cdf = np.moveaxis(issue.cdf, 1, 0)  # [horizon, station, target, count]
        self._numbers = [numbers(part.astype(np.float32) / np.float32(255)) for part in cdf]  # by horizon
        self._stations: dict[int, Body] = {}
        self._one_at_a_time = threading.Lock()
        self._networks: OrderedDict[tuple[datetime, int], Body] = OrderedDict()

    def local(self, when: datetime) -> str:
        """RFC 3339 with the offset of the system's own time zone."""
        return when.replace(microsecond=0).astimezone(self._zone).isoformat()

    def place(self, id_or_code: str) -> int | None:
        """Where the station with that id, else with that code, stands."""
        return self._place.get(id_or_code)

    # -- one station -----------------------------------------------------------------------------------------

    def station(self, place: int) -> Body:
        """All horizons of one station."""
        body = self._stations.get(place)
        if body is None:
            points = [self._point(place, valid, table) for valid, table in zip(self._valid, self._numbers, strict=True)]
            body = self._stations[place] = Body.of(self._answer(place, points))
        return body

    def station_at(self, place: int, when: datetime, least: int = 1) -> Body:
        """One station at any instant.

        Args:
            least: whose probability is asked for beside that of at least one.

        Raises:
            UsageError: that instant lies outside what the issue speaks of.
        """
        table = numbers(self.issue.at(when, np.array([place])), least)
        return Body.of(self._answer(place, [self._point(0, self.local(when), table, place)]))

    def station_at_all(self, place: int, least: int) -> Body:
        """All horizons of one station, with the probability of at least `least`."""
        where = np.array([place])
        points = [
            self._point(0, valid, numbers(self.issue.at(when, where), least), place)
            for when, valid in zip(self._times, self._valid, strict=True)
        ]
        return Body.of(self._answer(place, points))

    def _answer(self, place: int, points: list[dict[str, Any]]) -> dict[str, Any]:
        issue = self.issue
        state, reason = self.state(place)
        return {
            **self._who(place),
            "capacity": int(issue.capacity[place]) or None,
            "issued_at": self._issued_at,
            "observed_at": self._observed_at,
            "model": issue.model,
            "model_version": issue.version,
            "weather": issue.weather,
            "state": state,
            "reason": reason,
            "now": self._now(place),
            "forecasts": points,
            "meta": self._meta,
        }

    def state(self, place: int) -> tuple[State, str | None]:
        """What a station's forecast rests on, and why if that is not a fresh model."""
        issue = self.issue
        stand_in = self._stand_in(place)
        unseen = "" if self._seen[place] else "the station was not seen in the last poll"
        if issue.state is State.STALE:
            return State.STALE, _joined(issue.reason, _CLOSED if self._closed[place] else stand_in)
        if unseen:
            return State.STALE, _joined(unseen, stand_in)
        if self._closed[place]:
            return State.CLOSED, _CLOSED
        if issue.state is State.DEGRADED:
            return State.DEGRADED, _joined(issue.reason, stand_in)
        return (State.DEGRADED, stand_in) if stand_in else (State.FRESH, None)

    def _stand_in(self, place: int) -> str:
        """What stands in for the model; a target that nothing is known of has no numbers, which says it."""
        if not self.issue.source[place].any():
            return ""
        sources = dict(zip(self.issue.spec.targets, self.issue.source[place].tolist(), strict=True))
        given = {name: source for name, source in sources.items() if source != Source.NONE}
        if not given:
            return _FALLBACKS[Source.NONE]
        replaced = [name for name, source in given.items() if source != Source.MODEL]
        if not replaced:
            return ""
        worst = max((Source(source) for source in given.values()), key=TRUST.index)
        # Where the model itself is in order, the station is the reason.
        text = _NEW if worst is Source.COLDSTART and self.issue.reason is None else _FALLBACKS[worst]
        return text if len(replaced) == len(given) else f"for {' and '.join(replaced)}, {text}"

    def _who(self, place: int) -> dict[str, Any]:
        stations = self.issue.stations
        lat, lon = float(stations.lat[place]), float(stations.lon[place])
        return {
            "station_id": stations.id[place],
            "code": stations.code[place],
            "name": stations.name[place],
            "lat": lat if np.isfinite(lat) else None,
            "lon": lon if np.isfinite(lon) else None,
        }

    def _now(self, place: int) -> dict[str, int | None]:
        counts = self.issue.now[place].tolist()
        return {name: None if count < 0 else count for name, count in zip(CHANNELS, counts, strict=True)}

    def _point(self, row: int, valid: str, table: Numbers, place: int | None = None) -> dict[str, Any]:
        """One instant of one station. `row` is its place in `table`, `place` that among the stations."""
        place = row if place is None else place
        point: dict[str, Any] = {"valid_time": valid}
        columns = zip(*(array[row].tolist() for array in table.values()), strict=True)  # [target][column]
        for name, known, numbers_of in zip(self.issue.spec.targets, self._known[place], columns, strict=True):
            if not known:
                point[name] = None
                continue
            values = dict(zip(table, numbers_of, strict=True))
            if self._closed[place]:  # nobody can take a bike there, whatever the counts are
                chances = {key: value for key, value in values.items() if key.startswith("p_")}
                values |= {**dict.fromkeys(chances, 0.0), **{f"{key}_if_open": value for key, value in chances.items()}}
            point[name] = values
        return point

    # -- the whole network -----------------------------------------------------------------------------------

    def network(self, when: datetime, least: int = 1) -> Body:
        """All stations at one instant, as GeoJSON: a point a station, longitude before latitude.

        Raises:
            UsageError: that instant lies outside what the issue speaks of.
        """
        when = when.replace(second=0, microsecond=0) if when.replace(second=0) >= self.issue.issued_at else when
        if (body := self._networks.get((when, least))) is None:
            with self._one_at_a_time:  # when an issue is new all maps ask at once: one makes it, the others wait
                if (body := self._networks.get((when, least))) is None:
                    body = self._networks[when, least] = self._network(when, least)
                while len(self._networks) > _NETWORKS_KEPT:
                    self._networks.popitem(last=False)
        return body

    def _network(self, when: datetime, least: int) -> Body:
        table = numbers(self.issue.at(when), least)
        valid = self.local(when)
        features = [self._feature(place, valid, table) for place in range(len(self.issue.stations))]
        return Body.of(
            {
                "type": "FeatureCollection",
                "issued_at": self._issued_at,
                "observed_at": self._observed_at,
                "valid_time": valid,
                "model": self.issue.model,
                "model_version": self.issue.version,
                "weather": self.issue.weather,
                "state": self.issue.state,
                "reason": self.issue.reason,
                "meta": self._meta,
                "features": features,
            },
            GEOJSON,
            level=1,
        )

    def _feature(self, place: int, valid: str, table: Numbers) -> dict[str, Any]:
        who = self._who(place)
        lat, lon = who.pop("lat"), who.pop("lon")
        state, reason = self.state(place)
        flat = {"state": state, "reason": reason, "capacity": int(self.issue.capacity[place]) or None}
        for name, values in self._point(place, valid, table).items():
            if isinstance(values, dict):
                flat |= {f"{name}_{column}": value for column, value in values.items()}
        now = {f"{name}_now": count for name, count in self._now(place).items()}
        return {
            "type": "Feature",
            "id": who["station_id"],
            "geometry": None if lat is None or lon is None else {"type": "Point", "coordinates": [lon, lat]},
            "properties": {**who, **now, **flat},
        }

    # -- said once -------------------------------------------------------------------------------------------

    @cached_property
    def default_horizon(self) -> str:
        """How far ahead the whole network is shown where nobody says it."""
        return format_duration(min(NETWORK_HORIZON, self.issue.spec.horizons[-1]))

    @cached_property
    def _issued_at(self) -> str:
        return self.local(self.issue.issued_at)

    @cached_property
    def _observed_at(self) -> str | None:
        return self.local(self.issue.observed_at) if self.issue.observed_at else None

    @cached_property
    def _meta(self) -> dict[str, Any]:
        told = self.issue.weather in (WeatherSource.FORECAST, WeatherSource.CACHE)
        return meta(self.about) | ({"weather_attribution": _WEATHER} if told else {})

    def summary(self) -> dict[str, Any]:
        """The issue in a few words."""
        horizons = [format_duration(horizon) for horizon in self.issue.spec.horizons]
        return {
            "issued_at": self._issued_at,
            "observed_at": self._observed_at,
            "model": self.issue.model,
            "model_version": self.issue.version,
            "weather": self.issue.weather,
            "state": self.issue.state,
            "reason": self.issue.reason,
            "horizons": horizons,
            "targets": list(self.issue.spec.targets),
            "stations": len(self.issue.stations),
        }


def numbers(cdf: npt.NDArray[np.float32], least: int = 1) -> Numbers:
    """What is told of distributions: by name, [station, target]; from P(count <= k), float32[station, target, count].

    Raises:
        UsageError: `least` is not positive.
    """
    if least < 1:
        raise UsageError(f"min={least}: at least 1 is asked for")
    table: Numbers = {"mean": np.round(np.abs((1 - cdf[..., :-1]).sum(axis=-1).astype(np.float64)), 2)}
    table |= {name: algebra.quantile(cdf, q) for name, q in QUANTILES.items()}
    for count in dict.fromkeys((1, least)):
        above = 1 - cdf[..., count - 1] if count <= cdf.shape[-1] else np.zeros(cdf.shape[:-1])
        # Shares of a mixture add up to 1 within rounding: no answer may read -0.0.
        table[f"p_ge_{count}"] = np.round(np.maximum(above.astype(np.float64), 0.0), 3)
    return table


def _joined(*parts: str | None) -> str:
    return "; ".join(part for part in parts if part)
