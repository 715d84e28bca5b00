"""A finished backtest -> tables of plain JSON values. Persistence is row 1 of every one."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from velib_predictor import __version__
from velib_predictor.evaluation.comparison import LEAST_DAYS, as_lines, differences
from velib_predictor.evaluation.evaluator import BASELINE, Backtest, describe_fit
from velib_predictor.evaluation.scores import METRICS, ScoreBook, means
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.training import metrics
from velib_predictor.utils.temporal import format_duration, format_time

_ROWS, _RPS, _MAE = (METRICS.index(name) for name in ("rows", "rps", "abs_error_median"))
_LEAST_STATION_ROWS = 20
"""Rows without which a station's skill is not told."""
Floats = npt.NDArray[np.float64]


def report(result: Backtest, against: str | None = None) -> dict[str, Any]:
    """All tables of a backtest. Skill is 1 - score / persistence's score, on the same rows.

    Args:
        against: the model that all others are compared with in `differences`; the best baseline if not given.

    Raises:
        UsageError: `against` was not judged.
    """
    base = result.judged[BASELINE].book
    days = [(date(1970, 1, 1) + timedelta(days=day)).isoformat() for day in base.days]
    spec = result.protocol.spec
    return {
        "program": __version__,
        "created_at": format_time(datetime.now(UTC).replace(microsecond=0)),
        "system_id": result.panel.system_id,
        "timezone": result.panel.timezone,
        "protocol": result.protocol.as_dict(),
        "data_sha256": result.panel.fingerprint(),
        "origins": result.origins,
        "stations": len(result.panel.stations),
        "days": days,
        "intervals": (
            f"90 % intervals from a paired bootstrap over {len(days)} test days"
            if len(days) >= LEAST_DAYS
            else f"no intervals: {len(days)} test days, {LEAST_DAYS} are needed"
        ),
        "models": {
            name: {
                "fit": describe_fit(entry.model),
                "fit_s": round(entry.fit_s, 2),
                "predict_s": round(entry.predict_s, 2),
                "scores": _scores(entry.book, base, spec),
                "by_hour": _by(entry.book.by_hour, base.by_hour, "hour", list(range(24)), spec),
                "by_weekday": _by(_weekdays(entry.book), _weekdays(base), "weekday", list(range(7)), spec),
                "by_day": _by(np.array(entry.book.by_day), np.array(base.by_day), "day", days, spec),
                "stations": _stations(entry.book, base, spec),
                "by_station": _station_skill(entry.book, base, spec),
                "reliability": _tables(entry.book.reliability, spec),
                "reliability_undecided": _tables(entry.book.reliability_undecided, spec),
                "pit": _tables(entry.book.pit, spec),
            }
            for name, entry in result.judged.items()
        },
        "differences": differences({name: entry.book for name, entry in result.judged.items()}, spec, against),
        "places": {
            "station_id": list(result.panel.stations.id),
            "lat": [None if np.isnan(x) else float(x) for x in result.panel.stations.lat],
            "lon": [None if np.isnan(x) else float(x) for x in result.panel.stations.lon],
        },
        "examples": result.examples.charts,
    }


def as_table(data: dict[str, Any]) -> str:
    """The scores for people: a block a target, persistence first."""
    lines = [f"{data['system_id']}: {data['origins']} origins, {data['stations']} stations; {data['intervals']}"]
    head = (
        f"{'target':<11}{'horizon':<9}{'model':<18}{'rows':>9}{'RPS':>8}{'skill':>8}{'MAE':>8}{'RMSE':>8}{'Brier':>8}"
    )
    lines.append(f"{head}{'ECE':>7}{'80 %':>6}{'90 %':>6}")
    models = list(data["models"])
    for place, row in enumerate(data["models"][models[0]]["scores"]):
        for name in models:
            score = data["models"][name]["scores"][place]
            if not score["rows"]:
                continue
            lines.append(
                f"{row['target']:<11}{row['horizon']:<9}{name:<18}{score['rows']:>9}{score['rps']:>8.3f}"
                f"{score['skill_rps'] or 0:>8.1%}{score['mae_median']:>8.3f}{score['rmse_mean']:>8.3f}"
                f"{score['brier']:>8.4f}{score['ece']:>7.3f}{score['coverage_80']:>6.2f}{score['coverage_90']:>6.2f}"
            )
    return "\n".join([*lines, *as_lines(data["differences"])])


def _cells(spec: ForecastSpec) -> list[tuple[int, int, dict[str, str]]]:
    """(horizon, target, how they are called) of each row of a table."""
    return [
        (h, t, {"target": target, "horizon": format_duration(horizon)})
        for t, target in enumerate(spec.targets)
        for h, horizon in enumerate(spec.horizons)
    ]


def _scores(book: ScoreBook, base: ScoreBook, spec: ForecastSpec) -> list[dict[str, Any]]:
    ours, theirs = np.array(book.by_day), np.array(base.by_day)  # [day, horizon, target, metric]
    rows = []
    for h, t, named in _cells(spec):
        row = {**named, **means(book.total[h, t])}
        row["ece"] = _finite(metrics.expected_calibration_error(book.reliability[h, t]))
        row["ece_undecided"] = _finite(metrics.expected_calibration_error(book.reliability_undecided[h, t]))
        row["pit_80"], row["pit_90"] = (_central(book.pit[h, t], share) for share in (0.8, 0.9))
        row["skill_rps"] = _skill(book.total[h, t, _RPS], base.total[h, t, _RPS])
        row["skill_mae"] = _skill(book.total[h, t, _MAE], base.total[h, t, _MAE])
        row["skill_rps_low"] = row["skill_rps_high"] = None
        if np.count_nonzero(ours[:, h, t, _ROWS]) >= LEAST_DAYS and row["skill_rps"] is not None:
            _, low, high = metrics.day_block_bootstrap(ours[:, h, t, _RPS], theirs[:, h, t, _RPS], ours[:, h, t, _ROWS])
            row["skill_rps_low"], row["skill_rps_high"] = _finite(low), _finite(high)
        rows.append(row)
    return rows


def _central(pit: Floats, share: float) -> float | None:
    """Share of truths within the central part of their distributions, those on its edge in part; `pit` [bin].

    The coverage that a calibrated forecast of whole counts has exactly (Czado, Gneiting and Held, Biometrics 2009): an
    interval of whole counts holds more than it is asked for.
    """
    edge = round(len(pit) * (1 - share) / 2)
    return _finite(pit[edge : len(pit) - edge].sum() / pit.sum()) if pit.sum() else None


def _by(ours: Floats, theirs: Floats, axis: str, keys: list[Any], spec: ForecastSpec) -> list[dict[str, Any]]:
    """Scores and skill along the first axis of two tables [key, horizon, target, metric]; empty cells left out."""
    return [
        {
            **named,
            axis: key,
            "rows": int(ours[place, h, t, _ROWS]),
            "rps": float(ours[place, h, t, _RPS] / ours[place, h, t, _ROWS]),
            "skill_rps": _skill(ours[place, h, t, _RPS], theirs[place, h, t, _RPS]),
            "skill_mae": _skill(ours[place, h, t, _MAE], theirs[place, h, t, _MAE]),
        }
        for h, t, named in _cells(spec)
        for place, key in enumerate(keys)
        if ours[place, h, t, _ROWS]
    ]


def _weekdays(book: ScoreBook) -> Floats:
    table = np.zeros((7, *book.by_day[0].shape))
    for day, sums in zip(book.days, book.by_day, strict=True):
        table[(day + 3) % 7] += sums  # 1970-01-01 was a Thursday
    return table


def _stations(book: ScoreBook, base: ScoreBook, spec: ForecastSpec) -> list[dict[str, Any]]:
    """How many stations are better and worse off than with persistence."""
    rows = []
    for h, t, named in _cells(spec):
        enough = book.by_station[:, h, t, _ROWS] >= _LEAST_STATION_ROWS
        ours, theirs = book.by_station[enough, h, t], base.by_station[enough, h, t]
        count = int(enough.sum())
        rows.append(
            {
                **named,
                "stations": count,
                "share_rps_not_worse": float((ours[:, _RPS] <= theirs[:, _RPS]).mean()) if count else None,
                "share_mae_worse_by_1pct": float((ours[:, _MAE] > 1.01 * theirs[:, _MAE]).mean()) if count else None,
            }
        )
    return rows


def _station_skill(book: ScoreBook, base: ScoreBook, spec: ForecastSpec) -> list[dict[str, Any]]:
    """RPS, and skill in it, of each station in the panel's order; null where it has too few rows."""
    tables = []
    for h, t, named in _cells(spec):
        rows, ours = book.by_station[:, h, t, _ROWS], book.by_station[:, h, t, _RPS]
        theirs = base.by_station[:, h, t, _RPS]
        enough = rows >= _LEAST_STATION_ROWS
        tables.append(
            {
                **named,
                "rps": [float(o / r) if e else None for o, r, e in zip(ours, rows, enough, strict=True)],
                "skill_rps": [_skill(o, b) if e else None for o, b, e in zip(ours, theirs, enough, strict=True)],
            }
        )
    return tables


def _tables(values: Floats, spec: ForecastSpec) -> list[dict[str, Any]]:
    return [{**named, "bins": values[h, t].tolist()} for h, t, named in _cells(spec)]


def _skill(score: float, reference: float) -> float | None:
    return _finite(metrics.skill(float(score), float(reference)))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
