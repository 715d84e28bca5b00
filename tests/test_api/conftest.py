"""A small system in a database, its forecast, and the API over a real socket."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from sqlalchemy import insert

from tests.test_models.panels import small_city, with_new_station
from velib_predictor.api.app import create_app
from velib_predictor.api.server import Server, bind
from velib_predictor.api.service import Service
from velib_predictor.config.config import Settings
from velib_predictor.data import schema
from velib_predictor.data.clock import SystemClock
from velib_predictor.data.database import Database
from velib_predictor.data.panel import BIKES, CHANNELS, DOCKS, EBIKES, MECHANICAL, MISSING, Panel
from velib_predictor.data.snapshot import StationInfo
from velib_predictor.data.stations import StationBook, ensure_system
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.inference.chain import Chain, Link
from velib_predictor.inference.issue import Issue, Source, State
from velib_predictor.inference.issues import Issues
from velib_predictor.models.base import forecaster

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
SYSTEM = "small"
ORIGIN = datetime(2024, 10, 27, 0, 15, tzinfo=UTC)
"""02:15 in Paris; at 03:00 clocks are set back to 02:00."""
NOW = ORIGIN + 2 * MINUTE
SPEC = ForecastSpec(horizons=(15 * MINUTE, HOUR, 2 * HOUR, 24 * HOUR))
LICENCE, ATTRIBUTION = "Licence for tests", "The Town of Tests"
CLOSED, NO_EBIKES, UNSEEN, NO_DOCKS, NEW = "100", "101", "105", "104", "new"
"""What is special about some stations: see `make_panel`. All others are in order."""
PLAIN = "103"


class HandClock(SystemClock):
    """A clock that is set by hand."""

    def __init__(self, now: datetime = NOW) -> None:
        super().__init__()
        self.time = now

    def now(self) -> datetime:
        return self.time


@dataclass(frozen=True)
class Made:
    """A forecast as the models gave it, and the issue that was made of it."""

    panel: Panel
    forecast: Forecast
    source: npt.NDArray[np.uint8]
    issue: Issue

    def place(self, station: str) -> int:
        return self.panel.stations.id.index(station)

    def cdf(self, station: str, when: datetime) -> npt.NDArray[np.float64]:
        """P(count <= k) before rounding, float64[target, count]: by time between what is known on both sides.

        Written anew, from the forecast and the panel, so that it can judge what the API says.
        """
        place = self.place(station)
        known = [(timedelta(0), self._at_origin(place))]
        known += [(h, self._cumulated(place, number)) for number, h in enumerate(SPEC.horizons)]
        for (before, low), (after, high) in pairwise(known):
            if before <= when - self.issue.issued_at <= after:
                share = (when - self.issue.issued_at - before) / (after - before)
                mixed: npt.NDArray[np.float64] = (1 - share) * low + share * high
                return mixed
        raise AssertionError(f"{when} is out of reach")

    def _cumulated(self, place: int, horizon: int) -> npt.NDArray[np.float64]:
        summed: npt.NDArray[np.float64] = np.cumsum(self.forecast.pmf[0, place, horizon].astype(np.float64), axis=-1)
        return summed

    def _at_origin(self, place: int) -> npt.NDArray[np.float64]:
        result = self._cumulated(place, 0)
        for target in range(len(SPEC.targets)):
            if self.panel.observed[-1, place, target]:
                result[target] = np.arange(result.shape[-1]) >= self.panel.counts[-1, place, target]
        return result


def make_panel(origin: datetime = ORIGIN) -> Panel:
    """Up to `origin`. 100 is closed, 101 tells no e-bikes, 104 no docks, 105 was last seen an hour ago, "new" never."""
    panel = with_new_station(small_city(), silent=True)
    panel = panel.between(0, int((np.datetime64(origin.replace(tzinfo=None), "s") - panel.ticks[0]) / panel.step) + 1)
    counts, observed, is_open = panel.counts.copy(), panel.observed.copy(), panel.open.copy()
    silent = panel.stations.id.index(UNSEEN)
    observed[-8:, :-1] = True
    observed[-8:, panel.stations.id.index(NO_EBIKES), MECHANICAL : EBIKES + 1] = False
    observed[-8:, panel.stations.id.index(NO_DOCKS), DOCKS] = False
    counts[-8:] = small_counts(panel)
    observed[-4:, silent] = False
    counts[~observed] = MISSING
    is_open[-8:] = observed[-8:, :, BIKES]
    is_open[-8:, panel.stations.id.index(CLOSED)] = False
    codes = tuple(f"{number + 1:05}" if name != NEW else None for number, name in enumerate(panel.stations.id))
    return replace(panel, counts=counts, observed=observed, open=is_open, stations=replace(panel.stations, code=codes))


def small_counts(panel: Panel) -> npt.NDArray[np.int16]:
    """Two hours of plausible counts: a few bikes, so that no answer is certain, int16[tick, station, channel]."""
    stations = len(panel.stations)
    mechanical = np.arange(stations) % 3 + 1
    ebikes = np.arange(stations) % 2
    last = np.stack([mechanical + ebikes, mechanical, ebikes, np.full(stations, 3)], axis=-1)
    return np.broadcast_to(last, (8, *last.shape)).astype(np.int16)


def told_city() -> Panel:
    """The small city, in which once all stations told everything."""
    panel = small_city()
    counts, observed = panel.counts.copy(), panel.observed.copy()
    for station, channel in ((1, MECHANICAL), (1, EBIKES), (4, DOCKS)):
        observed[:, station, channel] = observed[:, station, BIKES]
        counts[:, station, channel] = np.where(observed[:, station, BIKES], 1, MISSING)
    return replace(panel, counts=counts, observed=observed)


@cache
def make(origin: datetime = ORIGIN) -> Made:
    """The forecast of a fitted chain, as the issue job makes it."""
    whole = told_city()
    links = []
    for source, name in ((Source.MODEL, "persistence_delta"), (Source.CLIMATOLOGY, "climatology")):
        model = forecaster(name)(SPEC)
        model.fit(whole, datetime(2024, 10, 26, 12, tzinfo=UTC))
        links.append(Link(source, model))
    panel = make_panel(origin)
    forecast, source_of = Chain(SPEC, links).forecast(panel)
    issue = Issue.of(
        forecast,
        panel,
        source_of,
        made_at=origin + timedelta(seconds=2),
        observed_at=origin - timedelta(seconds=20),
        model="persistence_delta",
        version="20241026T120000Z",
        state=State.FRESH,
        reason=None,
    )
    return Made(panel, forecast, source_of, issue)


def fill(database: Database, made: Made | None = None, *, system: str = SYSTEM) -> None:
    """A system with its stations, one status row each, and the ledger of one poll."""
    made = made or make()
    panel, at = made.panel, made.issue.issued_at - timedelta(seconds=20)
    with database.write() as connection:
        key = ensure_system(
            connection, system, name="Small Town", timezone=panel.timezone, licence=LICENCE, attribution=ATTRIBUTION
        )
        book = StationBook(connection, key)
        about = panel.stations
        infos = [
            StationInfo(
                about.id[n],
                about.code[n],
                about.name[n],
                None if np.isnan(about.lat[n]) else float(about.lat[n]),
                None if np.isnan(about.lon[n]) else float(about.lon[n]),
                int(panel.capacity[-1, n]) or None,
            )
            for n in range(len(about))
        ]
        book.register(connection, infos, at - 24 * HOUR)
        keys = book.all_names()
        rows: list[dict[str, Any]] = []
        for n, name in enumerate(about.id):
            seen = panel.observed[-1, n]
            counts = {c: int(panel.counts[-1, n, i]) if seen[i] else None for i, c in enumerate(CHANNELS)}
            flags = dict.fromkeys(("is_installed", "is_renting", "is_returning"), bool(panel.open[-1, n]))
            rows.append({"station_key": keys[name], "observed_at": at, **counts, **flags})
        connection.execute(insert(schema.StationStatus), rows)
        connection.execute(insert(schema.Poll), [{"system_key": key, "polled_at": at, "outcome": "ok"}])


def add_issue(database: Database, issue: Issue) -> None:
    Issues(database, issue.system_id).add(issue)


@dataclass(frozen=True)
class Api:
    """A running API and what it stands on."""

    client: httpx.Client
    service: Service
    clock: HandClock
    database: Database
    made: Made

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(path, **options)

    def json(self, path: str, **options: Any) -> Any:
        answer = self.get(path, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextmanager
def serving(database: Database, *, made: Made | None = None) -> Iterator[Api]:
    """The API over a database, on a free port of the loopback."""
    clock = HandClock()
    service = Service(Settings(), database, clock)
    with (
        Server(create_app(service), bind("127.0.0.1", 0)) as server,
        httpx.Client(base_url=server.address, timeout=10) as client,
    ):
        yield Api(client, service, clock, database, made or make())


@pytest.fixture(scope="module")
def api(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The API over the small system, for tests that change nothing."""
    file = tmp_path_factory.mktemp("api") / "velib.db"
    file.write_bytes(sqlite_template.read_bytes())
    database = Database(f"sqlite:///{file}")
    fill(database)
    add_issue(database, make().issue)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(file.parent)  # no settings file of the developer's
        with serving(database) as running:
            running.service.refresh()
            yield running
    database.close()


@pytest.fixture
def own(sqlite_url: str) -> Iterator[Api]:
    """The same with a database and a clock of the test's own; its service has not looked at the database yet."""
    database = Database(sqlite_url)
    fill(database)
    add_issue(database, make().issue)
    with serving(database) as running:
        yield running
    database.close()


@pytest.fixture
def empty(sqlite_url: str) -> Iterator[Api]:
    """The API over a database without any system."""
    database = Database(sqlite_url)
    with serving(database) as running:
        yield running
    database.close()


def changed(made: Made, **changes: Any) -> Made:
    """Another issue of the same forecast."""
    return replace(made, issue=replace(made.issue, **changes))
