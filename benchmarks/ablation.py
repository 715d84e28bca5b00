"""What each group of features is worth: a model fitted with all of them, and once more without each group in turn.

    python benchmarks/ablation.py city [--stations 80] [--weeks 7] [--model xgboost]
    python benchmarks/ablation.py v60 ../shared/data [--stations 400]

`city` is the synthetic city of `velib city`, whose riders heed rain and cold, with its weather as it was forecast; the
last two weeks are the test. `v60` is the validation inside V60's training window: fitted to 2022-05-27, judged to
2022-06-02; no weather is at hand there. Of what is fitted with the weather it is also asked what it says from an old
forecast, from what is usual and from none. Printed is the mean ranked probability score of bikes over all horizons, its
change against the whole, and twice the standard error of that change over test days; then the same of the rows with
rain at the target. Group names and columns: `GROUPS`.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from protocols import SETTINGS, imported
from velib_predictor.config.models import LstmSettings, ModelSettings, NetworkSettings
from velib_predictor.data.calendar import local_time
from velib_predictor.data.database import Database
from velib_predictor.data.feature_engineering import FeatureBuilder
from velib_predictor.data.importer import import_history
from velib_predictor.data.known_weather import VARIABLES, Floats, KnownWeather
from velib_predictor.data.outside import EVENT, SCHOOL, WEATHER, Mask, Outside
from velib_predictor.data.panel import BIKES, Panel
from velib_predictor.data.weather_store import import_weather
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.models.base import Forecaster, forecaster
from velib_predictor.simulation.city import City, CityConfig
from velib_predictor.simulation.history import write_history
from velib_predictor.training.metrics import rps
from velib_predictor.utils.temporal import from_micros

GROUPS: dict[str, tuple[str, ...]] = {
    "weather": WEATHER,
    "calendar (holidays, school, events)": ("free_day", "free_day_at_target", *SCHOOL, *EVENT),
    "time of day and weekday": ("minute_of_day", "weekday", "minute_of_day_at_target"),
    "neighbours": (
        "neighbours_occupancy", "neighbours_change_60m", "neighbours_surprise_60m", "neighbours_usual_change",
    ),
    "network": ("network_change_60m", "network_surprise_60m"),
    "yesterday and last week": (
        "change_1d", "yesterday_change", "yesterday_gap", "last_week_change", "last_week_gap",
    ),
    "usual profile": (
        "usual_gap", "usual_change", "usual_activity", "usual_gap_at_target", "surprise_60m", "network_surprise_60m",
        "neighbours_surprise_60m", "neighbours_usual_change",
    ),
}  # fmt: skip
_CHANNEL = "bikes"
_WET_MM = 0.1


@contextmanager
def without(columns: Sequence[str]) -> Iterator[None]:
    """Builders that are made meanwhile leave these columns out."""

    class Poorer(FeatureBuilder):
        @property
        def names(self) -> list[str]:
            return [name for name in super().names if name not in columns]

        def _kept(self, *arguments: Any) -> Floats:
            found = super()._kept(*arguments)
            return found[:, [name not in columns for name in super().names]]

    models = "velib_predictor.models"
    with (
        mock.patch(f"{models}.baseline.change.FeatureBuilder", Poorer),
        mock.patch(f"{models}.network.FeatureBuilder", Poorer),
    ):
        yield


def fitted(name: str, panel: Panel, spec: ForecastSpec, cut: int, rows: int, columns: Sequence[str] = ()) -> Forecaster:
    """A model of the ticks before `cut` (whose truths lie there, too), without these columns."""
    with without(columns):
        network = NetworkSettings(rows=rows)
        model: Any = forecaster(name)(spec, ModelSettings(stid=network, lstm=LstmSettings(rows=rows)))
        model.most_rows = rows  # of trees and ridge
        until = panel.ticks[cut].astype("datetime64[us]").astype(np.int64)
        model.fit(panel, from_micros(int(until)) - spec.horizons[-1])
    made: Forecaster = model
    return made


def daily(model: Forecaster, panel: Panel, origins: npt.NDArray[np.int64], wet: Mask) -> npt.NDArray[np.float64]:
    """Sums of scores and rows of each local day, and of those with rain at the target: float64[day, sum]."""
    ahead = np.array(model.spec.horizon_ticks)
    days = local_time(panel.ticks[origins], panel.timezone).day
    table = np.zeros((int(days[-1] - days[0]) + 1, 4))
    for origin, day, forecast in zip(origins, days, model.predict(panel, panel.ticks[origins]), strict=True):
        target = origin + ahead
        truth = np.minimum(panel.counts[target, :, BIKES].T, forecast.k[0][:, None])  # [station, horizon]
        counted = (panel.observed[target, :, BIKES] & panel.trusted[target]).T & panel.open[origin][:, None]
        counted &= panel.observed[origin, :, BIKES][:, None]
        scores = np.where(counted, rps(forecast.cdf()[0, :, :, 0], np.maximum(truth, 0).astype(np.int64)), 0.0)
        parts = (scores, counted, scores[:, wet[target]], counted[:, wet[target]])
        table[int(day - days[0])] += [float(part.sum()) for part in parts]
    return table[table[:, 1] > 0]


def row(name: str, found: npt.NDArray[np.float64], whole: npt.NDArray[np.float64]) -> str:
    """A line of the table."""
    cells = []
    for place in (0, 2):
        total, rows = whole[:, place].sum(), whole[:, place + 1].sum()
        if not rows:
            cells.append("- | - | -")
            continue
        part = whole[:, place + 1] > 0
        change = (found[part, place] - whole[part, place]) / total * 100  # what each day adds to it, percent
        error = 2 * change.std(ddof=1) * np.sqrt(len(change))
        cells.append(f"{found[:, place].sum() / rows:.4f} | {change.sum():+.2f} % | ± {error:.2f}")
    return f"| {name} | {' | '.join(cells)} |"


def builder_of(model: Any) -> FeatureBuilder:
    """The builder of a model's first target."""
    found: FeatureBuilder = model.targets[0].builder if hasattr(model, "targets") else model.builders[0]
    return found


def worse_weather(model: Forecaster, panel: Panel) -> Iterator[tuple[str, Forecaster, Panel]]:
    """The model as it is asked where there is less weather to be had."""
    weather = panel.weather
    older = KnownWeather(weather.issued + np.timedelta64(12, "h"), np.full_like(weather.values, np.nan))
    older.values[:, :-12] = weather.values[:, 12:]
    yield "- from forecasts 12 hours old", model, replace(panel, weather=older)
    nothing = replace(panel, weather=KnownWeather.none())
    yield "- from what is usual", model, nothing
    builder = builder_of(model)
    with mock.patch.object(builder, "outside", replace(builder.outside, usual=Outside.nothing().usual)):
        yield "- from none", model, nothing


def table(panel: Panel, model: str, spec: ForecastSpec, cut: int, stride: int, rows: int, groups: list[str]) -> None:
    """Print the table of one panel."""
    origins = np.arange(cut, len(panel) - spec.horizon_ticks[-1], stride)
    came = panel.weather.at(panel.ticks, panel.ticks)[:, VARIABLES.index("precipitation_mm")]
    wet = came > _WET_MM
    print("| features | RPS | change | 2 s.e. | RPS, rain | change | 2 s.e. |\n|---|" + "---:|" * 6)
    whole = fitted(model, panel, spec, cut, rows)
    base = daily(whole, panel, origins, wet)
    names = builder_of(whole).names
    print(row(f"all {len(names)}", base, base), flush=True)
    if len(panel.weather):
        for words, asked, known in worse_weather(whole, panel):
            print(row(words, daily(asked, known, origins, wet), base), flush=True)
    for group in groups:
        if set(GROUPS[group]) & set(names):
            poorer = fitted(model, panel, spec, cut, rows, GROUPS[group])
            print(row(f"without {group}", daily(poorer, panel, origins, wet), base), flush=True)
        else:
            print(f"| without {group} | not there | | | | | |", flush=True)


def city(stations: int, weeks: int, seed: int) -> Panel:
    """A city's weeks up to 2026-11-23, polled every half hour."""
    end = datetime(2026, 11, 23, tzinfo=UTC)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        made = City.make(CityConfig(stations=stations, seed=seed))
        write_history(made, end - timedelta(weeks=weeks), end, timedelta(minutes=30), out)
        database = Database(f"sqlite:///{out / 'city.db'}")
        database.upgrade()
        files = [out / f"{name}.parquet" for name in ("stations", "status", "polls", "weather")]
        import_history(database, "city", files[0], [files[1]], files[2], timezone=made.config.timezone)
        import_weather(database, "city", files[3])
        panel = Panel.load(database, "city", step=timedelta(minutes=30))
        database.close()
    return panel


def v60(data: Path, stations: int) -> Panel:
    """The training window of V60, of every so many-th station."""
    panel, _ = imported(data, SETTINGS["V60"], _CHANNEL, training_alone=True)
    return panel.take(np.arange(0, len(panel.stations), max(len(panel.stations) // stations, 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("city", "v60"))
    parser.add_argument("data", type=Path, nargs="?", help="for v60: the folder of the development data")
    parser.add_argument("--model", default="xgboost")
    parser.add_argument("--stations", type=int, default=80)
    parser.add_argument("--weeks", type=int, default=7, help="of the city")
    parser.add_argument("--seed", type=int, default=1, help="of the city")
    parser.add_argument("--rows", type=int, default=120_000, help="that are learned from")
    parser.add_argument("--groups", default=",".join(GROUPS), help="comma-separated beginnings of their names")
    options = parser.parse_args()
    wanted = tuple(options.groups.split(",")) if options.groups else ()
    groups = [name for name in GROUPS if wanted and name.startswith(wanted)]
    begun = time.process_time()
    if options.what == "city":
        panel = city(options.stations, options.weeks, options.seed)
        spec = ForecastSpec(panel.step, tuple(timedelta(hours=hours) for hours in (1, 3, 6, 12)), (_CHANNEL,))
        cut, stride = len(panel) - 14 * 48, 2
    else:
        panel = v60(options.data, options.stations)
        spec = SETTINGS["V60"].protocol(_CHANNEL).spec
        cut, stride = panel.before(datetime(2022, 5, 26, 22, tzinfo=UTC)), 1
    print(f"{panel!r}; {options.model}, {options.rows} rows\n", flush=True)
    table(panel, options.model, spec, cut, stride, options.rows, groups)
    print(f"\n{time.process_time() - begun:.0f} s of CPU")


if __name__ == "__main__":
    main()
