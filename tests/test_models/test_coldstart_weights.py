"""The weights that come with the package: small, served without torch, honest about their origin, worth something."""

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.test_models.panels import bare_panel, small_city
from tests.test_models.test_coldstart import HOUR, MINUTE, QUARTER, WEIGHTS, forecast, ready
from velib_predictor.data.panel import BIKES, Panel
from velib_predictor.forecast.forecast import TARGETS, ForecastSpec
from velib_predictor.models.base import ArtifactError
from velib_predictor.models.baseline.persistence import PersistenceDelta
from velib_predictor.models.coldstart.trainer import ABOUT, NETWORK, ColdStart
from velib_predictor.simulation.city import City, CityConfig
from velib_predictor.simulation.simulation import Simulation
from velib_predictor.training import metrics
from velib_predictor.utils.temporal import format_time

_SERVE = """
import sys
for name in ("torch", "lightning", "onnx", "onnxscript"):
    sys.modules[name] = None
from tests.test_models.test_coldstart import forecast, small_city
sys.stdout.buffer.write(forecast(small_city()).pmf.tobytes())
"""


def test_they_are_served_without_torch(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", _SERVE], cwd=tmp_path, capture_output=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'src'}"},
    )  # fmt: skip
    assert found.stderr.decode() == ""
    assert found.stdout == forecast(small_city()).pmf.tobytes()


def test_they_are_small_and_packed_with_the_program() -> None:
    files = {file.name: file for file in WEIGHTS.iterdir() if not file.name.startswith(".")}
    assert set(files) == {NETWORK, ABOUT, "PROVENANCE.md"}
    assert sum(file.stat().st_size for file in files.values()) < 1_000_000
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert "models/coldstart/weights/*" in project["tool"]["setuptools"]["package-data"]["velib_predictor"]


def test_they_say_where_they_come_from_and_have_not_seen_what_models_are_judged_on() -> None:
    """The tests' windows of V15, V60 and S15 (docs/model_details.md), and Bordeaux at all."""
    about = json.loads((WEIGHTS / ABOUT).read_text(encoding="utf-8"))
    assert about["version"] == hashlib.sha256((WEIGHTS / NETWORK).read_bytes()).hexdigest()[:12]
    assert set(about["windows"]) == set(about["systems"])
    judged = {
        "velib": [("2024-11-04T23:00:00Z", "2024-11-06T23:00:00Z"), ("2022-06-01T22:00:00Z", "2022-06-09T22:00:00Z")],
        "baywheels": [("2023-04-01T07:00:00Z", "2023-05-01T07:00:00Z")],
    }
    provenance = (WEIGHTS / "PROVENANCE.md").read_text(encoding="utf-8")
    for name, (first, last) in about["windows"].items():
        assert name.split("@")[0].split("_")[0] in ("velib", "baywheels", "synthetic")
        for begins, ends in judged.get(name.split("_")[0], []):
            assert last < begins or first >= ends, name
        assert name.split("@")[0].replace("synthetic_", "synthetic @").split("@")[0].strip() in provenance


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / NETWORK).write_bytes(b"nothing"), "damaged"),
        (lambda folder: (folder / NETWORK).unlink(), "damaged"),
        (lambda folder: (folder / ABOUT).write_text("{"), "damaged"),
        (lambda folder: (folder / ABOUT).write_text('{"features": ["one"]}'), "other features"),
    ],
)
def test_damaged_weights_are_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any, words: str
) -> None:
    for name in (NETWORK, ABOUT):
        (tmp_path / name).write_bytes((WEIGHTS / name).read_bytes())
    monkeypatch.setattr(ColdStart, "folder", tmp_path)
    ready()
    damage(tmp_path)
    with pytest.raises(ArtifactError, match=words):
        ready()


def living(config: CityConfig, days: float) -> Panel:
    """A synthetic city from a Monday on, as its feed tells it."""
    city = City.make(config)
    start = datetime(2025, 9, 15, tzinfo=UTC)
    simulation = Simulation(city, start)
    values = []
    for quarter in range(int(days * 96)):
        simulation.advance(start + quarter * QUARTER)
        counts = simulation.counts()
        values.append(np.stack([counts.bikes, counts.mechanical, counts.ebikes, counts.docks], axis=1))
    panel = bare_panel(np.stack(values).astype(np.int16), np.asarray(city.stations.capacity))
    stamps = np.datetime64(format_time(start)[:-1], "s") + np.arange(len(panel)) * np.timedelta64(900, "s")
    place = replace(panel.stations, lat=city.stations.lat, lon=city.stations.lon)
    return replace(panel, ticks=stamps, stations=place, timezone=config.timezone)


def test_a_city_never_seen_is_forecast_better_than_by_what_it_knows_itself() -> None:
    """A seed that no weight has seen, its third day; beside it the spread of changes, learned on its first two."""
    panel = living(CityConfig(stations=40, seed=907), 3)
    spec = ForecastSpec(QUARTER, (15 * MINUTE, HOUR, 4 * HOUR), TARGETS[:1])
    spread = PersistenceDelta(spec)
    spread.fit(panel, datetime(2025, 9, 17, tzinfo=UTC))
    origins = np.arange(2 * 96 + 20, 3 * 96 - 16, 4)
    scores = {}
    young = [panel.between(origin, origin + 1) for origin in origins.tolist()]
    for name, said in {
        "cold": list(ready(spec).predict(panel, panel.ticks[origins])),
        "first poll": [forecast(one, spec) for one in young],
        "spread": list(spread.predict(panel, panel.ticks[origins])),
    }.items():
        truth = np.stack([panel.counts[origin + np.array(spec.horizon_ticks), :, BIKES].T for origin in origins])
        each = [metrics.rps(one.cdf()[0, :, :, 0], came) for one, came in zip(said, truth, strict=True)]
        scores[name] = np.mean(each, axis=(0, 1))  # [horizon]
    now = panel.counts[origins][:, :, BIKES]
    still = np.stack([np.abs(panel.counts[origins + h][:, :, BIKES] - now).mean() for h in spec.horizon_ticks])
    assert (scores["cold"] < 0.9 * still).all()
    assert (scores["first poll"] < 0.95 * still).all()
    assert scores["cold"].mean() < scores["spread"].mean()
