"""A stored forecast says, within its 8 bits, what the forecast said; it comes back as it went, or is refused."""

import json
from dataclasses import fields
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from tests.test_forecast.strategies import distributions
from tests.test_inference.made import ISSUED, MINUTE, SPEC, forecast_of, issue_of, small_panel, some_issue, spread
from tests.test_models.panels import bare_panel
from velib_predictor.data.known_weather import WeatherSource
from velib_predictor.data.panel import MISSING
from velib_predictor.forecast import pmf as algebra
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.inference import postprocessor
from velib_predictor.inference.issue import ONE, Issue, Source, State
from velib_predictor.utils.errors import UsageError, VelibError

ROW = ("system_id", "issued_at", "made_at", "observed_at", "model", "version", "state", "reason")
"""What the database has columns for."""
EBIKES = SPEC.target("ebikes")


def again(issue: Issue) -> Issue:
    """What comes back from the database."""
    return Issue.from_bytes(issue.to_bytes(), **{name: getattr(issue, name) for name in ROW})


def assert_same(one: Issue, other: Issue) -> None:
    """In every bit and type."""
    for field in fields(Issue):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, np.ndarray):
            assert (left.dtype, left.shape) == (right.dtype, right.shape), field.name
            np.testing.assert_array_equal(left, right, err_msg=field.name)
        elif field.name == "stations":
            assert (left.id, left.code, left.name) == (right.id, right.code, right.name)
            np.testing.assert_array_equal([left.lat, left.lon], [right.lat, right.lon])
        else:
            assert left == right, field.name


@st.composite
def forecasts(draw: st.DrawFn) -> Forecast:
    """A few stations that differ in K, of which not everything is known; bikes above e-bikes, as a model leaves it."""
    stations = draw(st.integers(1, 4))
    k = np.array(draw(st.lists(st.integers(1, 11), min_size=stations, max_size=stations)), dtype=np.int16)
    pmf = np.zeros((stations, len(SPEC.horizons), len(SPEC.targets), int(k.max()) + 1), dtype=np.float32)
    known = np.array(draw(st.lists(st.booleans(), min_size=3 * stations, max_size=3 * stations)))
    known = known.reshape(stations, 3)
    for station, horizon, target in np.ndindex(pmf.shape[:3]):
        if not known[station, target]:
            continue
        drawn = draw(distributions(int(k[station]) + 1))
        # As often as not e-bikes are all the bikes there are: then both must be rounded to the same side.
        same = target == EBIKES and known[station, 0] and draw(st.booleans())
        pmf[station, horizon, target, : len(drawn)] = pmf[station, horizon, 0, : len(drawn)] if same else drawn
    return forecast_of(pmf, k, SPEC, known).ordered()


# -- eight bits ----------------------------------------------------------------------------------------------


@given(forecasts())
def test_every_probability_is_within_half_a_step_and_certain_from_k_on(forecast: Forecast) -> None:
    issue = issue_of(forecast, small_panel(len(forecast.stations), 11))
    stored, cdf = issue.cdf.astype(np.float64) / ONE, forecast.cdf()[0]
    assert issue.cdf.dtype == np.uint8
    known = forecast.known[0]
    off = np.abs(stored - cdf).max(axis=(1, 3))  # [station, target]
    assert off[known].max(initial=0) <= 0.5 / ONE + 1e-6
    assert (np.diff(issue.cdf.astype(int), axis=-1) >= 0).all()
    for station, k in enumerate(forecast.k[0]):
        assert (issue.cdf[station, ..., k:] == ONE).all()
        assert (issue.cdf[station][:, ~known[station], :k] == 0).all()
        assert (issue.source[station] == np.where(known[station], Source.MODEL, Source.NONE)).all()


@given(forecasts())
def test_ebikes_stay_stochastically_below_bikes(forecast: Forecast) -> None:
    issue = issue_of(forecast, small_panel(len(forecast.stations), 11))
    both = forecast.known[0, :, 0] & forecast.known[0, :, EBIKES]
    bikes, ebikes = issue.cdf[both][:, :, 0], issue.cdf[both][:, :, EBIKES]
    assert (ebikes >= bikes).all()


def test_sums_that_differ_in_the_last_bit_are_not_rounded_apart() -> None:
    """127.5 of 255 beside the float before it: to the nearest, one is 128 and the other 127."""
    half, below = np.float32(0.5), np.nextafter(np.float32(0.5), np.float32(0))
    pmf = np.zeros((1, 2, 3, 2), dtype=np.float32)
    pmf[..., 0], pmf[..., 1] = half, half
    pmf[0, :, EBIKES] = below, 1 - below
    bikes, ebikes, _ = issue_of(forecast_of(pmf, np.array([1], np.int16)), small_panel(1)).cdf[0, 0, :, 0]
    assert (bikes, ebikes) == (128, 128)


@given(forecasts())
def test_the_median_moves_only_where_it_was_within_rounding_of_another(forecast: Forecast) -> None:
    issue = issue_of(forecast, small_panel(len(forecast.stations), 11))
    cdf = forecast.cdf()[0]
    stored = algebra.quantile(issue.cdf.astype(np.float32) / np.float32(ONE), 0.5)
    moved = (stored != forecast.median()[0]) & forecast.known[0][:, None]
    close = (np.abs(cdf - 0.5) <= 0.5 / ONE + 1e-5).any(axis=-1)
    assert (close | ~moved).all()


# -- at any time ---------------------------------------------------------------------------------------------


@given(forecasts(), st.integers(0, 3600), st.data())
def test_at_any_time_it_is_the_mixture_that_the_unrounded_forecast_gives(
    forecast: Forecast, seconds: int, data: st.DataObject
) -> None:
    stations = len(forecast.stations)
    panel = small_panel(stations, 11)
    seen = np.array(data.draw(st.lists(st.booleans(), min_size=stations, max_size=stations)))
    panel.observed[-1, ~seen] = False
    panel.counts[-1, ~seen] = MISSING
    issue, when = issue_of(forecast, panel), ISSUED + timedelta(seconds=seconds)
    expected = algebra.to_cdf(postprocessor.at_time(forecast, panel, when))
    found = issue.at(when)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    known = forecast.known[0]
    np.testing.assert_allclose(found[known], expected[known], atol=0.5 / ONE + 1e-5)
    some = np.arange(stations)[::-2].astype(np.int64)
    np.testing.assert_array_equal(issue.at(when, some), found[some])
    assert (np.diff(found, axis=-1) >= -1e-6).all()
    assert (found[..., -1] == 1).all()


def test_at_a_horizon_it_is_what_is_stored_and_beyond_the_reach_nothing() -> None:
    issue = some_issue()
    for place, horizon in enumerate(SPEC.horizons):
        np.testing.assert_array_equal(issue.at(ISSUED + horizon), issue.cdf[:, place] * np.float32(1 / ONE))
    assert issue.until == ISSUED + 60 * MINUTE
    for ahead in (-timedelta(microseconds=1), 60 * MINUTE + timedelta(microseconds=1)):
        with pytest.raises(UsageError, match="issued at 2024-10-23T00:15:00Z reach to 1h after it"):
            issue.at(ISSUED + ahead)


def test_what_is_there_now_counts_as_k_above_k() -> None:
    forecast = spread(stations=2, size=4)
    issue = issue_of(forecast, small_panel(2, 9))  # of which 9 and 8 docks are free
    docks = SPEC.target("docks")
    np.testing.assert_array_equal(issue.at(ISSUED)[:, docks], [[0, 0, 0, 0, 1]] * 2)


# -- there and back ------------------------------------------------------------------------------------------


@given(forecasts())
def test_it_comes_back_bit_for_bit(forecast: Forecast) -> None:
    issue = issue_of(forecast, small_panel(len(forecast.stations), 11))
    assert_same(again(issue), issue)


def test_names_places_and_what_is_not_known_come_back() -> None:
    issue = some_issue(state=State.DEGRADED, reason="no xgboost", version=None, observed_at=None)
    table = issue.stations
    lat = np.array([48.85, np.nan, -33.9])
    odd = type(table)(table.id, ("16107", None, ""), ('Bât. "B"\n🚲', None, " "), lat, table.lon)
    issue = some_issue(stations=odd, now=np.full((3, 4), -1, np.int16), open=np.array([True, False, True]))
    assert_same(again(issue), issue)
    assert again(issue.with_state(State.STALE, "too old")).reason == "too old"


@pytest.mark.parametrize("kept", [0, 1, 20, -1])
def test_a_cut_body_is_refused_in_a_sentence(kept: int) -> None:
    with pytest.raises(VelibError, match="the issue of 2024-10-23T00:15:00Z is damaged: "):
        Issue.from_bytes(some_issue().to_bytes()[:kept], issued_at=ISSUED)


def test_no_flipped_bit_passes_for_a_forecast() -> None:
    """Whatever bit falls over: the issue is refused, or it is as it was."""
    issue = some_issue()
    body = issue.to_bytes()
    columns = {name: getattr(issue, name) for name in ROW}
    refused = 0
    for place in range(len(body)):
        flipped = bytearray(body)
        flipped[place] ^= 1 << place % 8
        try:
            read = Issue.from_bytes(bytes(flipped), **columns)
        except VelibError:
            refused += 1
        else:
            assert_same(read, issue)
    assert refused > len(body) * 0.9


def repacked(body: bytes, **changes: Any) -> bytes:
    arrays = load(zstandard.ZstdDecompressor().decompress(body))
    arrays.update(changes)
    return zstandard.ZstdCompressor().compress(save(arrays))


@pytest.mark.parametrize("about", [b"{", b"{}", b"[]"])
def test_a_body_that_does_not_say_what_it_is_is_damaged(about: bytes) -> None:
    body = repacked(some_issue().to_bytes(), about=np.frombuffer(about, dtype=np.uint8))
    with pytest.raises(VelibError, match="is damaged"):
        Issue.from_bytes(body, issued_at=ISSUED)


def test_a_newer_programs_issue_is_refused_with_what_helps() -> None:
    about = np.frombuffer(b'{"layout": 2}', dtype=np.uint8)
    with pytest.raises(VelibError, match="has layout 2, this program reads 1: install the newer program"):
        Issue.from_bytes(repacked(some_issue().to_bytes(), about=about), issued_at=ISSUED)


# -- room ----------------------------------------------------------------------------------------------------


def test_a_day_of_a_large_system_takes_less_than_150_mb() -> None:
    """1,500 stations, 12 horizons, 4 targets, spread as counts spread: sums of comings and goings, cut at 0 and K."""
    random = np.random.default_rng(3)
    spec, stations = ForecastSpec(), 1500
    k = random.integers(15, 70, stations).astype(np.int16)
    now = random.integers(0, k + 1)  # [station]
    hours = np.array([horizon / timedelta(hours=1) for horizon in spec.horizons])
    width = random.uniform(1.0, 4.0, stations)[:, None] * np.sqrt(hours)[None]  # [station, horizon]
    middle = now[:, None] + random.normal(0, 1, (stations, 1)) * np.minimum(hours, 6)[None]
    counts = np.arange(int(k.max()) + 1)
    pmf = np.zeros((stations, len(hours), 4, len(counts)), dtype=np.float32)
    for target, share in enumerate((1.0, 0.6, 0.4, -1.0)):
        mean = middle * share if share > 0 else k[:, None] - middle
        density = np.exp(-(((counts - mean[..., None]) / width[..., None]) ** 2) / 2) + 1e-9
        density *= counts <= k[:, None, None]
        pmf[:, :, target] = density / density.sum(axis=-1, keepdims=True)
    table = np.zeros((2, stations, 4), dtype=np.int16)
    table[..., 0], table[..., 3] = now, k - now
    issue = issue_of(forecast_of(pmf, k, spec), bare_panel(table, k))
    size = len(issue.to_bytes())
    assert 96 * size < 150e6, f"{size} bytes"
    assert size > 200_000  # the forecasts are no trifle: nothing was rounded away


def test_what_of_the_weather_was_known_comes_back_and_an_older_issue_says_none() -> None:
    issue = some_issue(weather=WeatherSource.CACHE)
    body = issue.to_bytes()
    assert again(issue).weather is WeatherSource.CACHE
    about = json.loads(load(zstandard.ZstdDecompressor().decompress(body))["about"].tobytes())
    assert about.pop("weather") == "cache"
    older = repacked(body, about=np.frombuffer(json.dumps(about).encode(), dtype=np.uint8))
    columns = {name: getattr(issue, name) for name in ROW}
    assert Issue.from_bytes(older, **columns).weather is WeatherSource.NONE
