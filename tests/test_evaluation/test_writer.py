"""Exported forecasts against the column contract of the design, row by row."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.test_models.panels import small_city
from velib_predictor.data.panel import Panel, Ticks
from velib_predictor.evaluation import writer as writing
from velib_predictor.evaluation.evaluator import Protocol, backtest
from velib_predictor.evaluation.writer import ForecastWriter, as_table
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.models.baseline.persistence import Persistence
from velib_predictor.utils.errors import UsageError

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
START = datetime(2024, 10, 23, tzinfo=UTC)
SPEC = ForecastSpec(horizons=(15 * MINUTE, HOUR), targets=("bikes", "docks"))
PROTOCOL = Protocol(SPEC, START, START + DAY, START + 2 * DAY, START + 2 * DAY + 3 * HOUR, 15 * MINUTE)
CONTRACT = {
    "system_id": "string",
    "model": "string",
    "station_id": "string",
    "issued_at": "timestamp[us, tz=UTC]",
    "target_at": "timestamp[us, tz=UTC]",
    "target": "string",
    "mean": "float",
    "p_ge_1": "float",
    "pmf": "list<element: float>",
}


@pytest.fixture(scope="module")
def city() -> Panel:
    return small_city(days=3)


def random_forecast(seed: int, origins: int = 1) -> Forecast:
    """Any pmf of three stations with different K, of which some targets are not known."""
    random = np.random.default_rng(seed)
    k = random.integers(1, 9, (origins, 3)).astype(np.int16)
    size = int(k.max()) + 1
    pmf = random.random((origins, 3, 2, 2, size), dtype=np.float32) + np.float32(0.01)
    pmf[np.broadcast_to(np.arange(size) > k[:, :, None, None, None], pmf.shape)] = 0
    pmf /= pmf.sum(axis=-1, keepdims=True)
    known = np.ones((origins, 3, 2), dtype=bool)
    known[0, 1, 0] = known[-1, 2] = False
    pmf = np.where(known[:, :, None, :, None], pmf, np.float32(0))
    ticks = np.datetime64("2024-11-05T08:00:00", "s") + np.arange(origins) * np.timedelta64(15, "m")
    return Forecast(SPEC, "any", ticks, ("a", "b", "ü,\n"), pmf, k, known)


def written(file: Path, *forecasts: Forecast) -> list[dict[str, Any]]:
    with ForecastWriter(file, "town") as writer:
        for forecast in forecasts:
            writer.write(forecast)
    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


def slow_rows(forecast: Forecast) -> list[dict[str, Any]]:
    """The contract in words: by origin, station, horizon and target, what is known."""
    rows = []
    for o, tick in enumerate(forecast.origins.tolist()):
        for s, station in enumerate(forecast.stations):
            for h, horizon in enumerate(SPEC.horizons):
                for t, target in enumerate(SPEC.targets):
                    if not forecast.known[o, s, t]:
                        continue
                    issued = tick.replace(tzinfo=UTC)
                    pmf = [float(p) for p in forecast.pmf[o, s, h, t, : int(forecast.k[o, s]) + 1]]
                    rows.append(
                        {
                            "system_id": "town",
                            "model": "any",
                            "station_id": station,
                            "issued_at": issued,
                            "target_at": issued + horizon,
                            "target": target,
                            "mean": pytest.approx(sum(count * p for count, p in enumerate(pmf)), rel=1e-5),
                            "p_ge_1": pytest.approx(1 - pmf[0], abs=1e-6),
                            "pmf": pmf,
                        }
                    )
    return rows


@pytest.mark.parametrize("origins", [1, 3])
def test_rows_are_the_known_forecasts_in_order(tmp_path: Path, origins: int) -> None:
    forecast = random_forecast(origins, origins)
    expected = slow_rows(forecast)
    assert len(expected) == int(forecast.known.sum()) * 2 < forecast.pmf[..., 0].size
    assert written(tmp_path / "f.parquet", forecast) == expected
    assert as_table(forecast, "town").to_pylist() == expected


def test_columns_and_types_are_the_contract(tmp_path: Path) -> None:
    for name, forecasts in (("some", [random_forecast(0)]), ("none", [])):
        file = tmp_path / "deep" / f"{name}.parquet"
        assert len(written(file, *forecasts)) == (6 if forecasts else 0)
        assert {field.name: str(field.type) for field in pq.read_schema(file)} == CONTRACT


def test_many_blocks_are_written_in_groups_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_GROUP_ROWS", 25)
    blocks = [random_forecast(seed) for seed in range(9)]
    rows = written(tmp_path / "f.parquet", *blocks)
    assert rows == [row for block in blocks for row in slow_rows(block)]
    groups = pq.ParquetFile(tmp_path / "f.parquet").metadata
    assert groups.num_row_groups == 2
    assert groups.num_rows == len(rows)


def test_a_backtest_exports_what_its_models_said(city: Panel, tmp_path: Path) -> None:
    """Every known forecast of every model at every origin, whether it could be judged or not."""
    file = tmp_path / "out" / "forecasts.parquet"
    result = backtest(city, ["persistence_delta", "climatology"], PROTOCOL, forecasts_out=file)
    rows = pq.read_table(file).to_pylist()
    origins = city.ticks[96 * 2 : 96 * 2 + 12]
    assert result.origins == len(origins)
    expected: dict[tuple[str, str, datetime, datetime, str], list[float]] = {}
    for name, entry in result.judged.items():
        for forecast in entry.model.predict(city, origins):
            issued = forecast.origins[0].item().replace(tzinfo=UTC)
            for s, t in np.argwhere(forecast.known[0]).tolist():
                for h, horizon in enumerate(SPEC.horizons):
                    key = (name, city.stations.id[s], issued, issued + horizon, SPEC.targets[t])
                    expected[key] = forecast.pmf[0, s, h, t, : int(forecast.k[0, s]) + 1].tolist()
    keys = ("model", "station_id", "issued_at", "target_at", "target")
    assert len(rows) == len(expected) > 12 * 6 * 2 * 3
    assert {tuple(row[key] for key in keys): row["pmf"] for row in rows} == expected
    for row in rows:
        assert row["system_id"] == "small"
        assert sum(row["pmf"]) == pytest.approx(1, abs=1e-5)
        assert row["mean"] == pytest.approx(sum(c * p for c, p in enumerate(row["pmf"])), rel=1e-4, abs=1e-5)
        assert row["p_ge_1"] == pytest.approx(1 - row["pmf"][0], abs=1e-6)
    assert [path.name for path in file.parent.iterdir()] == ["forecasts.parquet"]


class Failing(Persistence):
    """Breaks at its fifth forecast."""

    name = "failing"

    def predict(self, panel: Panel, origins: Ticks) -> Iterator[Forecast]:
        yield from super().predict(panel, origins[:4])
        raise OSError("the disk is gone")


def test_a_failure_leaves_no_file_and_an_older_one_as_it_was(city: Panel, tmp_path: Path) -> None:
    fresh, older = tmp_path / "fresh.parquet", tmp_path / "older.parquet"
    before = written(older, random_forecast(1))
    for file in (fresh, older):
        with pytest.raises(OSError, match="the disk is gone"):
            backtest(city, [Failing(SPEC)], PROTOCOL, forecasts_out=file)
    assert [path.name for path in tmp_path.iterdir()] == ["older.parquet"]
    assert pq.read_table(older).to_pylist() == before


def test_an_interruption_leaves_no_file(tmp_path: Path) -> None:
    def write() -> None:
        with ForecastWriter(tmp_path / "f.parquet", "town") as writer:
            writer.write(random_forecast(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["f.csv", "f", "f.parquet.gz", "parquet"])
def test_another_suffix_is_refused_before_any_work(city: Panel, tmp_path: Path, name: str) -> None:
    model = Persistence(SPEC)
    with pytest.raises(UsageError, match=r"written as \.parquet .* not as '" + name):
        backtest(city, [model], PROTOCOL, forecasts_out=tmp_path / name)
    assert model.report is None
    assert list(tmp_path.iterdir()) == []


def test_without_a_file_nothing_is_written(tmp_path: Path) -> None:
    with ForecastWriter(None, "town") as writer:
        writer.write(random_forecast(0))
    assert list(tmp_path.iterdir()) == []


def test_probabilities_keep_their_32_bits(tmp_path: Path) -> None:
    forecast = random_forecast(7)
    odd = np.float32(0.1) + np.float32(2**-27)
    pmf = forecast.pmf.copy()
    pmf[0, 0, 0, 0, :2] = odd, np.float32(1) - odd
    pmf[0, 0, 0, 0, 2:] = 0
    (first, *_) = written(tmp_path / "f.parquet", replace(forecast, pmf=pmf))
    assert np.float32(first["pmf"][0]).tobytes() == odd.tobytes()
