"""The tables of docs/model_details.md: the backtests V15, V60, S15 and B60 on the development data.

    python benchmarks/protocols.py ../shared/data --protocol V15 [--models xgboost,queueing] [--targets bikes]

Imports the data set into a database of its own and says what `velib backtest` says, as Markdown. Each protocol's
command is printed first. Memory is the peak of the process. B60 (Bordeaux, hourly, early 2011) is no data set
that can be imported: its panel is made by the tests' loader, and no command makes it.

The cold-start model in the champion has learned from the training windows of V15, V60 and S15, and from later days of
Vélib'. Where that must not count, `--cold` takes weights that have not, and `--leave-out coldstart` none.
"""

import argparse
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from velib_predictor.config.models import ChampionSettings, ModelSettings, TrainingSettings
from velib_predictor.data.database import Database
from velib_predictor.data.importer import import_history
from velib_predictor.data.panel import Panel
from velib_predictor.evaluation.comparison import as_lines
from velib_predictor.evaluation.evaluator import Protocol, backtest, load
from velib_predictor.evaluation.report import report
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.models.base import FitReport, Forecaster, forecaster
from velib_predictor.models.champion.ensemble import Champion
from velib_predictor.models.coldstart.trainer import ColdStart
from velib_predictor.utils.temporal import format_duration

ALL = "persistence_delta,climatology,linear,queueing,xgboost"


@dataclass(frozen=True)
class Setting:
    """A data set and its windows, in its local time."""

    folder: str
    system: str
    timezone: str
    train_from: str
    cut: str
    test_until: str
    step_min: int
    tolerance_min: int
    horizons_min: tuple[int, ...]

    def protocol(self, targets: str) -> Protocol:
        minutes = [timedelta(minutes=m) for m in (self.step_min, self.tolerance_min, *self.horizons_min)]
        spec = ForecastSpec(minutes[0], tuple(minutes[2:]), tuple(targets.split(",")))
        first, cut, last = (
            datetime.fromisoformat(t).astimezone(UTC) for t in (self.train_from, self.cut, self.test_until)
        )
        return Protocol(spec, first, cut, cut, last, minutes[1])

    def command(self, models: str, targets: str) -> str:
        horizons = ",".join(format_duration(timedelta(minutes=m)) for m in self.horizons_min)
        return (
            f"velib backtest --system {self.system} --models {models} --train-from {self.train_from} "
            f"--train-until {self.cut} --test-from {self.cut} --test-until {self.test_until} "
            f"--step {format_duration(timedelta(minutes=self.step_min))} --tolerance {self.tolerance_min}m "
            f"--horizons {horizons} --targets {targets}"
        )


SETTINGS = {
    "V15": Setting(
        "velib_2024_11", "velib", "Europe/Paris",
        "2024-10-31T00:00:00+01:00", "2024-11-05T00:00:00+01:00", "2024-11-07T00:00:00+01:00", 15, 5, (15, 30, 60),
    ),
    "V60": Setting(
        "velib_2022_05", "velib", "Europe/Paris",
        "2022-05-12T00:00:00+02:00", "2022-06-02T00:00:00+02:00", "2022-06-10T00:00:00+02:00", 60, 30,
        (60, 120, 180, 360),
    ),
    "S15": Setting(
        "baywheels_2023", "baywheels", "America/Los_Angeles",
        "2023-01-01T00:00:00-08:00", "2023-04-01T00:00:00-07:00", "2023-05-01T00:00:00-07:00", 15, 10,
        (15, 30, 60, 120),
    ),
}  # fmt: skip


HOURS = tuple(timedelta(hours=hours) for hours in (1, 2, 3, 6))


def bordeaux(data: Path, targets: str) -> tuple[Panel, Protocol]:
    """The first three quarters of Bordeaux's hours to learn from (the reference validated on the last tenth of all in
    them), the last quarter to test on."""
    sys.path.append(str(Path(__file__).parents[1]))
    from tests.test_models.bordeaux import bordeaux as panel_of

    panel = panel_of(data)
    spec = ForecastSpec(timedelta(hours=1), HOURS, tuple(targets.split(",")))
    first, cut, last = (panel.ticks[place].astype("datetime64[us]").item().replace(tzinfo=UTC)
                        for place in (0, len(panel) * 3 // 4, len(panel) - 1))  # fmt: skip
    return panel, Protocol(spec, first, cut, cut, last, timedelta(hours=1))


def imported(data: Path, setting: Setting, targets: str, *, training_alone: bool = False) -> tuple[Panel, Protocol]:
    """A data set's panel, by way of a database; of the training window alone, if that is wanted."""
    protocol = setting.protocol(targets)
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/velib.db")
        database.upgrade()
        source = data / setting.folder
        import_history(
            database, setting.system, source / "stations.parquet", [source / "status.parquet"],
            timezone=setting.timezone,
        )  # fmt: skip
        panel = load(database, setting.system, protocol)
        database.close()
    if training_alone:
        panel = panel.between(0, panel.before(protocol.train_until))
    return panel, protocol


class Member(Forecaster):
    """A member of a champion that was fitted before, judged beside it."""

    def __init__(self, champion: Champion, place: int) -> None:
        super().__init__(champion.spec)
        self.champion, self.place = champion, place
        self.name = champion.members[place]  # type: ignore[misc]  # of this one

    def fit(self, panel: Panel, until: datetime) -> FitReport:  # noqa: ARG002 - it was
        report = self.champion.made[self.place].report
        assert report is not None
        self.report = report
        return report

    def _fit(self, train: Panel) -> tuple[int, dict[str, Any]]:
        raise NotImplementedError

    def _predict(self, seen: Panel) -> Forecast:
        return self.champion.made[self.place]._predict(seen)


def chosen(names: list[str], members: list[str], spec: ForecastSpec, recipe: ModelSettings) -> list[Forecaster]:
    """The models, and members of the champion among them."""
    models = [forecaster(name)(spec, recipe) for name in names]
    champion = next((model for model in models if isinstance(model, Champion)), None)
    if champion and members:
        models += [Member(champion, champion.members.index(name)) for name in members]
    return models


def scores(data: dict[str, Any], column: str, digits: int, bold: bool) -> list[str]:
    """A Markdown table of one score: a row a target and model, a column a horizon."""
    horizons = data["protocol"]["horizons"]
    lines = [f"| target | model | {' | '.join(horizons)} |", "|---|---|" + "---:|" * len(horizons)]
    models = data["models"]
    for target in data["protocol"]["targets"]:
        rows = {name: [r for r in m["scores"] if r["target"] == target] for name, m in models.items()}
        best = [min(rows[name][h][column] for name in models) for h in range(len(horizons))]
        for name in models:
            cells = []
            for h, row in enumerate(rows[name]):
                text = f"{row[column]:.{digits}f}"
                cells.append(f"**{text}**" if bold and row[column] == best[h] else text)
            lines.append(f"| {target} | {name} | {' | '.join(cells)} |")
    return lines


def details(data: dict[str, Any]) -> list[str]:
    """Everything else about bikes, and the skills with their intervals."""
    lines = [
        "| target | horizon | model | rows | skill in RPS | MAE | RMSE | Brier >=1 | undecided | ECE | 80 % | 90 % |"
        " PIT 80 | PIT 90 | stations not worse | MAE 1 % worse | issue hours not worse |",
        "|---|---|---|" + "---:|" * 14,
    ]
    base = data["models"]["persistence"]["scores"]
    for place, first in enumerate(base):
        for name, model in data["models"].items():
            row, stations = model["scores"][place], model["stations"][place]
            hours = [h for h in model["by_hour"] if (h["target"], h["horizon"]) == (row["target"], row["horizon"])]
            good = sum((h["skill_rps"] or 0) >= 0 for h in hours)
            skill = f"{row['skill_rps']:.3f}"
            if row["skill_rps_low"] is not None:
                skill += f" ({row['skill_rps_low']:.3f} to {row['skill_rps_high']:.3f})"
            share, worse = stations["share_rps_not_worse"], stations["share_mae_worse_by_1pct"]
            lines.append(
                f"| {first['target']} | {first['horizon']} | {name} | {row['rows']} | {skill} |"
                f" {row['mae_median']:.3f} | {row['rmse_mean']:.3f} |"
                f" {row['brier']:.4f} | {row['brier_undecided']:.4f} | {row['ece']:.3f} |"
                f" {row['coverage_80']:.3f} | {row['coverage_90']:.3f} | {row['pit_80']:.3f} | {row['pit_90']:.3f} |"
                f" {'-' if share is None else f'{share:.1%}'} | {'-' if worse is None else f'{worse:.1%}'} |"
                f" {good}/{len(hours)} |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--protocol", choices=[*SETTINGS, "B60"], required=True)
    parser.add_argument("--models", default=ALL)
    parser.add_argument("--members", help="of the champion, which are judged beside it and not fitted anew")
    parser.add_argument("--targets", default="bikes,ebikes,docks")
    parser.add_argument("--report-out", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the networks")
    parser.add_argument("--cold", type=Path, help="the cold-start model's weights, of benchmarks/pretrain.py --without")
    parser.add_argument("--leave-out", default="", help="members that the champion has to do without")
    options = parser.parse_args()
    if options.protocol == "B60":
        panel, protocol = bordeaux(options.data, options.targets)
    else:
        setting = SETTINGS[options.protocol]
        print(f"`{setting.command(options.models, options.targets)}`\n")
        panel, protocol = imported(options.data, setting, options.targets)
    recipe = ModelSettings(training=TrainingSettings(seed=options.seed))
    left_out = options.leave_out.split(",")
    kept = {name: share for name, share in recipe.champion.members.items() if name not in left_out}
    recipe = recipe.model_copy(update={"champion": ChampionSettings(members=kept)})
    ColdStart.folder = options.cold
    members = options.members.split(",") if options.members else []
    models = chosen(options.models.split(","), members, protocol.spec, recipe)
    begun = time.perf_counter()
    data = report(backtest(panel, models, protocol))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    took = ", ".join(f"{name} {m['fit_s']:.0f} + {m['predict_s']:.0f}" for name, m in data["models"].items())
    print(f"{data['origins']} origins, {data['stations']} stations; {data['intervals']}.")
    print(f"{time.perf_counter() - begun:.0f} s in all (fit + forecast: {took}); peak memory {peak:.1f} GiB.\n")
    print("\n".join([*scores(data, "rps", 3, True), "", *details(data), "", *as_lines(data["differences"])]))
    if options.report_out:
        from velib_predictor.evaluation.visualizer import write_report

        write_report(data, options.report_out)


if __name__ == "__main__":
    main()
