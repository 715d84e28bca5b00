"""Forecasts at any time against mixtures worked out by hand, and how they are written."""

import csv
import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from tests.test_models.panels import bare_panel
from velib_predictor.data.panel import BIKES, DOCKS, MISSING, Panel
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.inference import postprocessor as post
from velib_predictor.utils.errors import UsageError

MINUTE = timedelta(minutes=1)
ISSUED = datetime(2024, 10, 23, 0, 15, tzinfo=UTC)
SPEC = ForecastSpec(horizons=(15 * MINUTE, 60 * MINUTE), targets=("bikes", "docks"))
HOSTILE = 'Bât. "B", rez-de-chaussée;\r\n=cmd()\x1b[31m'


@pytest.fixture
def panel() -> Panel:
    """Two ticks of two stations; at the second one 0 has 1 bike and 2 docks, of 1 only 5 docks are known."""
    counts = np.zeros((2, 2, 4), dtype=np.int16)
    counts[-1, 0, [BIKES, DOCKS]] = 1, 2
    counts[-1, 1, [BIKES, DOCKS]] = MISSING, 5
    observed = counts != MISSING
    made = bare_panel(counts, np.array([3, 3]), observed=observed)
    names = ("Place", HOSTILE)
    lat, lon = np.array([48.85, np.nan]), np.array([2.35, 2.36])
    return replace(made, stations=replace(made.stations, code=("16107", None), name=names, lat=lat, lon=lon))


@pytest.fixture
def forecast(panel: Panel) -> Forecast:
    """Counts 0 to 3."""
    pmf = np.zeros((1, 2, 2, 2, 4), dtype=np.float32)  # [origin, station, horizon, target, count]
    pmf[0, 0, 0, 0], pmf[0, 0, 1, 0] = [0.2, 0.8, 0, 0], [0.4, 0, 0.6, 0]
    pmf[0, 0, 0, 1], pmf[0, 0, 1, 1] = [0, 0, 1, 0], [0.5, 0, 0, 0.5]
    pmf[0, 1, 0, 1], pmf[0, 1, 1, 1] = [0, 0, 0.5, 0.5], [0, 0, 0, 1]
    known = np.array([[[True, True], [False, True]]])
    return Forecast(SPEC, "any", panel.ticks[-1:], panel.stations.id, pmf, np.full((1, 2), 3, np.int16), known)


# -- at any time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minutes", "bikes", "docks"),
    [
        (0, [0, 1, 0, 0], [0, 0, 1, 0]),  # what is there now
        (5, [0.2 / 3, 2 / 3 + 0.8 / 3, 0, 0], [0, 0, 1, 0]),  # a third of the way to the first horizon
        (15, [0.2, 0.8, 0, 0], [0, 0, 1, 0]),
        (30, [0.2 + 0.2 / 3, 0.8 * 2 / 3, 0.6 / 3, 0], [0.5 / 3, 0, 2 / 3, 0.5 / 3]),  # a third between the two
        (59.5, [0.4 - 0.2 / 90, 0.8 / 90, 0.6 - 0.6 / 90, 0], [0.5 - 0.5 / 90, 0, 1 / 90, 0.5 - 0.5 / 90]),
        (60, [0.4, 0, 0.6, 0], [0.5, 0, 0, 0.5]),
    ],
)
def test_at_any_time_it_is_the_mixture_by_hand(
    forecast: Forecast, panel: Panel, minutes: float, bikes: list[float], docks: list[float]
) -> None:
    found = post.at_time(forecast, panel, ISSUED + minutes * MINUTE)
    assert found.shape == (2, 2, 4)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0, 0], bikes, atol=1e-6)
    np.testing.assert_allclose(found[0, 1], docks, atol=1e-6)


def test_what_lies_above_k_now_counts_as_k_and_what_is_not_known_now_as_the_first_horizon(
    forecast: Forecast, panel: Panel
) -> None:
    at_once = post.at_time(forecast, panel, ISSUED)
    np.testing.assert_array_equal(at_once[1, 1], [0, 0, 0, 1])  # 5 docks of 3
    blind = replace(panel, observed=np.zeros_like(panel.observed))
    np.testing.assert_array_equal(
        post.at_time(forecast, blind, ISSUED)[0, 0], np.array([0.2, 0.8, 0, 0], dtype=np.float32)
    )


@pytest.mark.parametrize("ahead", [-MINUTE, -timedelta(microseconds=1), 60 * MINUTE + timedelta(microseconds=1)])
def test_beyond_the_reach_is_refused_with_how_far_it_is(forecast: Forecast, panel: Panel, ahead: timedelta) -> None:
    with pytest.raises(UsageError, match="issued at 2024-10-23T00:15:00Z reach to 1h after it"):
        post.at_time(forecast, panel, ISSUED + ahead)


# -- records -------------------------------------------------------------------------------------------------


def test_records_are_the_known_forecasts_with_their_numbers(forecast: Forecast, panel: Panel) -> None:
    rows = post.records(forecast, panel)
    assert [(r["station_id"], r["target_at"][11:16], r["target"]) for r in rows] == [
        ("100", "00:30", "bikes"),
        ("100", "00:30", "docks"),
        ("100", "01:15", "bikes"),
        ("100", "01:15", "docks"),
        ("101", "00:30", "docks"),
        ("101", "01:15", "docks"),
    ]
    assert all(tuple(row) == post.COLUMNS for row in rows)
    assert rows[2] == {
        "system_id": "small",
        "model": "any",
        "station_id": "100",
        "code": "16107",
        "name": "Place",
        "lat": 48.85,
        "lon": 2.35,
        "issued_at": "2024-10-23T00:15:00Z",
        "target_at": "2024-10-23T01:15:00Z",
        "target": "bikes",
        "now": 1,
        "k": 3,
        "mean": 1.2,
        "median": 2,
        "q10": 0,
        "q90": 2,
        "p_ge_1": 0.6,
    }
    assert (rows[4]["lat"], rows[4]["lon"], rows[4]["code"]) == (None, 2.36, None)
    json.dumps(rows, allow_nan=False)


def test_records_of_chosen_stations_and_times(forecast: Forecast, panel: Panel) -> None:
    when = ISSUED + 30 * MINUTE
    rows = post.records(forecast, panel, stations=[1], times=[when])
    assert [(row["station_id"], row["target_at"], row["mean"]) for row in rows] == [
        ("101", "2024-10-23T00:45:00Z", pytest.approx((2.5 * 2 + 3) / 3, abs=1e-3))
    ]
    assert post.records(forecast, panel, stations=[]) == []


def test_csv_is_read_back_as_it_was_whatever_the_names_are(forecast: Forecast, panel: Panel) -> None:
    rows = post.records(forecast, panel)
    text = post.as_csv(rows)
    read = list(csv.DictReader(io.StringIO(text, newline="")))
    assert tuple(read[0]) == post.COLUMNS
    assert len(read) == len(rows)
    for line, row in zip(read, rows, strict=True):
        assert line == {key: "" if value is None else str(value) for key, value in row.items()}
    assert read[4]["name"] == HOSTILE


@pytest.mark.parametrize("name", ["a\rb", "a\nb", 'a"b', "a,b", "a", " a "])
def test_no_name_breaks_a_line_of_csv(forecast: Forecast, panel: Panel, name: str) -> None:
    odd = replace(panel, stations=replace(panel.stations, name=(name, name)))
    (row,) = csv.DictReader(io.StringIO(post.as_csv(post.records(forecast, odd)[:1]), newline=""))
    assert row["name"] == name
    assert row["p_ge_1"] == "0.8"


def test_no_rows_are_a_head_line() -> None:
    assert post.as_csv([]).splitlines() == [",".join(f'"{name}"' for name in post.COLUMNS)]


def test_geojson_has_longitude_first_and_no_place_where_none_is_known(forecast: Forecast, panel: Panel) -> None:
    rows = post.records(forecast, panel)
    data = json.loads(json.dumps(post.as_geojson(rows), allow_nan=False))
    assert data["type"] == "FeatureCollection"
    assert len(data["features"]) == len(rows)
    first, unplaced = data["features"][0], data["features"][4]
    assert first["type"] == "Feature"
    assert first["geometry"] == {"type": "Point", "coordinates": [2.35, 48.85]}
    assert unplaced["geometry"] is None
    assert unplaced["properties"]["name"] == HOSTILE
    assert set(first["properties"]) == set(post.COLUMNS) - {"lat", "lon"}
    assert first["id"] == "100/2024-10-23T00:30:00Z/bikes"
    assert len({feature["id"] for feature in data["features"]}) == len(rows)


def test_the_table_tells_local_times_and_keeps_its_lines(forecast: Forecast, panel: Panel) -> None:
    lines = post.as_table(post.records(forecast, panel), "Europe/Paris").split("\n")
    assert lines[0] == "small, any, issued 2024-10-23 02:15 (Europe/Paris)"
    assert lines[1].split()[:3] == ["station", "name", "at"]
    assert lines[2].split() == ["16107", "Place", "Wed", "02:30", "bikes", "1", "0.8", "0-1", "80%"]
    assert lines[6].split()[-5:] == ["docks", "5", "2.5", "2-3", "100%"]
    assert len(lines) == 2 + 6
    assert all(line.isprintable() for line in lines)
    assert post.as_table([], "Europe/Paris") == "no forecast: nothing recent is known of these stations"


def test_numbers_of_a_record_are_those_of_the_forecast(panel: Panel) -> None:
    """Whatever the pmf: mean, quantiles and chance are the forecast's own."""
    random = np.random.default_rng(3)
    pmf = random.dirichlet(np.ones(4), (1, 2, 2, 2)).astype(np.float32)
    known = np.ones((1, 2, 2), dtype=bool)
    forecast = Forecast(SPEC, "any", panel.ticks[-1:], panel.stations.id, pmf, np.full((1, 2), 3, np.int16), known)
    derived: dict[str, Any] = {
        "mean": forecast.mean(),
        "median": forecast.median(),
        "q10": forecast.quantile(0.1),
        "q90": forecast.quantile(0.9),
        "p_ge_1": forecast.at_least(1),
    }
    rows = iter(post.records(forecast, panel))
    for station, horizon, target in np.ndindex(2, 2, 2):
        row = next(rows)
        for name, values in derived.items():
            assert row[name] == pytest.approx(float(values[0, station, horizon, target]), abs=6e-4)
