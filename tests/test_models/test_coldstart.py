"""The cold-start model: it knows nobody by name, needs no history, and its weights come with the package."""

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.conftest import REPOSITORY
from tests.test_models.learned import hide_torch, need_torch
from tests.test_models.panels import CELLS, bare_panel, disturbed, selected, small_city
from velib_predictor.data.calendar import local_time
from velib_predictor.data.panel import BIKES, DOCKS, EBIKES, MECHANICAL, MISSING, Panel
from velib_predictor.forecast.forecast import DEFAULT_HORIZONS, Forecast, ForecastSpec
from velib_predictor.models.coldstart import trainer
from velib_predictor.models.coldstart.dataset import Examples, Lesson
from velib_predictor.models.coldstart.features import NAMES, View, lookback, sizes, typical_change
from velib_predictor.models.coldstart.places import REACHES_M, Places
from velib_predictor.models.coldstart.trainer import NETWORK, ColdStart
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.spatial import distance_m

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
QUARTER = 15 * MINUTE
SPEC = ForecastSpec()
WEIGHTS = REPOSITORY / "src/velib_predictor/models/coldstart/weights"
B, M, E, D = range(4)


def ready(spec: ForecastSpec = SPEC) -> ColdStart:
    return ColdStart.ready(spec, "small", QUARTER)


def forecast(panel: Panel, spec: ForecastSpec = SPEC) -> Forecast:
    """From the panel's last tick."""
    return next(ready(spec).predict(panel, panel.ticks[-1:]))


def scattered(panel: Panel, seed: int = 0) -> Panel:
    """The panel with its stations anywhere, none as far from one as from another."""
    random = np.random.default_rng(seed)
    count = len(panel.stations)
    lat, lon = 48.85 + random.normal(0, 0.01, count), 2.35 + random.normal(0, 0.015, count)
    return replace(panel, stations=replace(panel.stations, lat=lat, lon=lon))


@pytest.fixture(scope="module")
def city() -> Panel:
    """Nine days, in which everything happens that real data does."""
    return scattered(small_city(days=9))


def assert_whole(said: Forecast, known: npt.NDArray[np.bool_]) -> None:
    """Distributions where something is known, nothing elsewhere and above K."""
    np.testing.assert_array_equal(said.known[0], known)
    total = said.pmf[0].sum(axis=-1)  # [station, horizon, target]
    np.testing.assert_allclose(total, np.broadcast_to(known[:, None], total.shape), atol=1e-5)
    assert (said.pmf >= 0).all()
    above = np.arange(said.pmf.shape[-1]) > said.k[0][:, None, None, None]
    assert not np.where(above, said.pmf[0], 0).any()


# -- nobody is known by name ---------------------------------------------------------------------------------


def test_stations_in_another_order_are_forecast_alike(city: Panel) -> None:
    order = np.random.default_rng(3).permutation(len(city.stations))
    one, other = forecast(city), forecast(selected(city, order))
    np.testing.assert_array_equal(other.k, one.k[:, order])
    np.testing.assert_allclose(other.pmf, one.pmf[:, order], atol=1e-5)


def test_two_cities_in_the_same_state_are_forecast_alike(city: Panel) -> None:
    """Other names, another place on the globe, another number of the same stations' neighbours' names: all one."""
    table = city.stations
    names = tuple(f"other-{name}" for name in table.id)
    moved = replace(table, id=names, code=names, name=names, lon=table.lon - 40)
    other = replace(city, system_id="elsewhere", stations=moved)
    np.testing.assert_allclose(forecast(other).pmf, forecast(city).pmf, atol=1e-5)


def test_twice_the_city_is_forecast_like_the_city_once(city: Panel) -> None:
    """How many stations there are is not asked: with a twin of the city far away nothing changes but positions."""
    blind = replace(city, stations=replace(city.stations, lat=np.full(7, np.nan), lon=np.full(7, np.nan)))
    twice = selected(blind, np.tile(np.arange(7), 2))
    np.testing.assert_allclose(forecast(twice).pmf[:, :7], forecast(blind).pmf, atol=1e-5)


# -- as much past as there is --------------------------------------------------------------------------------


def test_a_row_that_is_told_part_of_the_past_is_a_row_of_a_panel_that_begins_there(city: Panel) -> None:
    """Training rows are served rows: each told `reach` ticks equals the row of a panel of so many, bit for bit."""
    view = View.of(city, Places.of(city.stations), sizes(city))
    random = np.random.default_rng(0)
    tick = random.integers(700, len(city) - 97, 40)
    station, ahead = random.integers(0, 7, 40), random.integers(1, 97, 40)
    reach = np.array([0, 1, 2, 4, 5, 16, 30, 95, 96, 97, 192, 400, 672, 676])[np.arange(40) % 14]
    rows = view.rows(tick, station, ahead, reach, reach)
    for row in range(40):
        cut = city.between(tick[row] - reach[row], tick[row] + 1)
        alone = View.of(cut, view.places, sizes(cut))
        place, all_of_it = np.array([reach[row]]), np.array([reach[row]])
        told = alone.rows(place, station[[row]], ahead[[row]], all_of_it, all_of_it)[0]
        for name, left, right in zip(NAMES, rows[row], told, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6, err_msg=f"{name}, told {reach[row]} ticks")


def test_what_is_not_told_is_not_read(city: Panel) -> None:
    tick, station, ahead = np.full(7, 760), np.arange(7), np.full(7, 4)
    for reach in (0, 3, 50):
        told = np.full(7, reach)
        plain = View.of(city, Places.of(city.stations), sizes(city)).rows(tick, station, ahead, told, told)
        counts = city.counts.copy()
        counts[: 760 - reach] = np.where(city.observed[: 760 - reach], 1, MISSING)
        other = replace(disturbed(city, 761), counts=np.concatenate([counts[:761], disturbed(city, 761).counts[761:]]))
        again = View.of(other, Places.of(city.stations), sizes(city)).rows(tick, station, ahead, told, told)
        np.testing.assert_array_equal(plain, again)


def test_a_station_may_be_told_less_than_the_network(city: Panel) -> None:
    view = View.of(city, Places.of(city.stations), sizes(city))
    one, none, all_of_it = np.array([760]), np.array([0]), np.array([676])
    young = dict(zip(NAMES, view.rows(one, one * 0, one * 0 + 4, none, all_of_it)[0], strict=True))
    assert np.isnan(young["change_60m"])
    assert not np.isnan(young["network_change_60m"])
    assert young["days_known"] == 0


def test_features_are_those_of_a_slow_loop(city: Panel) -> None:
    view = View.of(city, Places.of(city.stations), sizes(city))
    tick, station, ahead = 762, 6, 8
    whole = np.array([tick])
    found = dict(zip(NAMES, view.rows(whole, np.array([station]), np.array([ahead]), whole, whole)[0], strict=True))

    def bikes(at: int, who: int = station, channel: int = BIKES) -> float:
        return float(city.counts[at, who, channel]) if city.observed[at, who, channel] else np.nan

    def size(who: int = station, at: int = tick) -> float:
        total = bikes(at, who) + bikes(at, who, DOCKS)
        return float(np.nanmax([city.capacity[at, who], total, *city.counts[at, who], 1]))

    hourly = [bikes(tick - 4 * hour) for hour in range(25)]
    moves = [abs(one - other) for one, other in pairwise(hourly)]
    assert found["bikes_share"] == pytest.approx(bikes(tick) / size())
    assert found["change_60m"] == pytest.approx((hourly[0] - hourly[1]) / size())
    assert found["log_moves_4h"] == pytest.approx(np.log(np.nanmean(moves[:4]) + 0.05), abs=1e-5)
    assert found["log_moves_24h"] == pytest.approx(np.log(np.nanmean(moves) + 0.05), abs=1e-5)
    assert found["share_24h"] == pytest.approx(np.nanmean(hourly) / size(), abs=1e-6)
    shares = [(bikes(tick, who), size(who)) for who in range(7) if not np.isnan(bikes(tick, who))]
    assert found["network_share"] == pytest.approx(sum(b for b, _ in shares) / sum(s for _, s in shares), abs=1e-6)
    steps = [[abs(bikes(t, who) - bikes(t - 1, who)) for who in range(7)] for t in range(tick - 3, tick + 1)]
    quarter = np.nanmean([np.nanmean(step) for step in steps]) * 4
    assert found["network_log_moves_15m"] == pytest.approx(np.log(quarter + 0.05), abs=1e-5)
    local = local_time(city.ticks, city.timezone)
    then = tick + ahead
    changes = {d: bikes(then - 96 * d) - bikes(tick - 96 * d) for d in range(1, 8)}
    assert found["bikes_yesterday_change"] == pytest.approx(changes[1] / size(), nan_ok=True)
    assert found["bikes_usual_change"] == pytest.approx(np.nanmean(list(changes.values())) / size(), abs=1e-6)
    same = [c for d, c in changes.items() if local.day_type[then - 96 * d] == local.day_type[then]]
    assert found["bikes_usual_change_same_kind"] == pytest.approx(np.nanmean(same) / size(), abs=1e-6)
    assert found["days_known"] == pytest.approx(np.mean(~np.isnan(list(changes.values()))))
    table = city.stations
    weights, near = [], []
    for who in range(7):
        if who != station and not np.isnan(bikes(tick, who)):
            apart = distance_m(table.lat[[station]], table.lon[[station]], table.lat[[who]], table.lon[[who]])[0]
            weights.append(np.exp(-apart / REACHES_M[1]))
            near.append(bikes(tick, who) / size(who))
    assert found["wide_share"] == pytest.approx(np.average(near, weights=weights), abs=1e-5)
    minute = int(local.minute[then])
    assert found["sin_2_then"] == pytest.approx(np.sin(2 * 2 * np.pi * minute / 1440), abs=1e-5)


def test_one_poll_is_enough() -> None:
    """The first minute of a system: an empty station stays empty rather than a half full one runs empty."""
    counts = np.zeros((1, 5, 4), dtype=np.int16)
    counts[0, :, BIKES] = counts[0, :, MECHANICAL] = [0, 2, 10, 18, 20]
    counts[0, :, DOCKS] = 20 - counts[0, :, BIKES]
    said = forecast(bare_panel(counts, np.full(5, 20), ticks=np.array(["2024-10-23T12:00:00"], dtype="datetime64[s]")))
    assert_whole(said, np.ones((5, 4), dtype=bool))
    none = said.pmf[0, :, 0, B, 0]  # in a quarter of an hour
    assert none[0] > 0.4
    assert none[0] > none[1] + 0.2
    assert none[1] > none[2] >= none[3]
    assert none[3] < 0.02
    assert said.pmf[0, 4, 0, D, 0] > 0.4
    width = [said.quantile(0.9)[0, 2, h, B] - said.quantile(0.1)[0, 2, h, B] for h in (0, 3, 8)]
    assert width[0] < width[1] < width[2], "what is further away is less certain"


# -- what systems lack ---------------------------------------------------------------------------------------


def without(panel: Panel, *channels: int) -> Panel:
    counts, observed = panel.counts.copy(), panel.observed.copy()
    counts[:, :, channels], observed[:, :, channels] = MISSING, False
    return replace(panel, counts=counts, observed=observed)


@pytest.mark.parametrize("channels", [(EBIKES, MECHANICAL), (DOCKS,), (EBIKES, MECHANICAL, DOCKS), (BIKES,)])
def test_what_is_not_published_is_not_forecast_and_costs_the_rest_little(
    city: Panel, channels: tuple[int, ...]
) -> None:
    poor = without(city, *channels)
    said = forecast(poor)
    assert_whole(said, poor.observed[-1])
    assert said.known[0].any()


def test_an_unknown_capacity_is_what_was_seen(city: Panel) -> None:
    unknown = replace(city, capacity=np.zeros_like(city.capacity))
    said = forecast(unknown)
    np.testing.assert_array_equal(said.k[0], sizes(unknown)[-lookback(900) - 1 :].max(axis=0))
    assert_whole(said, city.observed[-1])
    lonely = forecast(replace(without(unknown, DOCKS), open=city.open))
    assert_whole(lonely, without(city, DOCKS).observed[-1])


@pytest.mark.parametrize("stations", [[3], list(range(7))])
def test_positions_may_be_unknown(city: Panel, stations: list[int]) -> None:
    lat, lon = city.stations.lat.copy(), city.stations.lon.copy()
    lat[stations], lon[stations] = np.nan, np.nan
    assert_whole(forecast(replace(city, stations=replace(city.stations, lat=lat, lon=lon))), city.observed[-1])


def test_closed_stations_and_silent_ones(city: Panel) -> None:
    assert_whole(forecast(replace(city, open=np.zeros_like(city.open))), city.observed[-1])
    silent = without(city, *range(4))
    assert not forecast(silent).known.any()


@pytest.mark.parametrize("minutes", [5, 15, 30, 60, 120, 1440, 7, 1 / 30])
def test_any_step_will_do(minutes: float) -> None:
    """What does not lie on the grid is not known; a grid without days, or of seconds, has no yesterday."""
    step = timedelta(minutes=minutes)
    counts = np.abs(np.random.default_rng(0).integers(2, 5, (200, 6, 4))).astype(np.int16)
    stamps = np.datetime64("2024-10-23") + np.arange(200) * np.timedelta64(int(minutes * 60), "s")
    panel = bare_panel(counts, np.full(6, 20), ticks=stamps.astype("datetime64[s]"), step=step, tolerance=step)
    said = forecast(panel, ForecastSpec(step, (step, 3 * step)))
    assert_whole(said, np.ones((6, 4), dtype=bool))
    assert (lookback(int(60 * minutes)) > 0) == (minutes not in (7, 1 / 30))


def test_an_hourly_panel_is_forecast_like_the_quarters_that_it_was_taken_from(city: Panel) -> None:
    """All that both know is the same; only moves within the hour are not."""
    last = len(city) - 1
    hourly = replace(
        city.between(last % 4, last + 1), step=HOUR,
        **{name: getattr(city, name)[last % 4 :: 4] for name in ("ticks", *CELLS)},
    )  # fmt: skip
    spec = ForecastSpec(HOUR, (HOUR, 6 * HOUR))
    one, other = forecast(hourly, spec), forecast(city, replace(SPEC, horizons=(HOUR, 6 * HOUR)))
    np.testing.assert_array_equal(one.known, other.known)
    assert np.abs(one.pmf - other.pmf).sum(axis=-1).mean() < 0.2


def test_horizons_beyond_a_day_are_as_a_day(city: Panel) -> None:
    assert_whole(forecast(city, ForecastSpec(QUARTER, (24 * HOUR, 48 * HOUR))), city.observed[-1])


def test_the_unit_of_change_is_known_beforehand() -> None:
    unit = typical_change(np.array([20, 20, 40, 1], dtype=np.float32), np.array([900, 86_400, 900, 900]))
    assert unit[0] == pytest.approx(0.25 * 20 * np.sqrt(0.25 / 4.25))
    assert unit[0] < unit[1] < 5
    assert unit[2] == 2 * unit[0]
    assert unit[3] == pytest.approx(0.3)


# -- what is learned from ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lesson(city: Panel) -> Lesson:
    return Lesson("small", city, replace(SPEC, horizons=DEFAULT_HORIZONS[:6]), 3_000)


def test_rows_are_told_anything_from_one_poll_to_a_week(lesson: Lesson) -> None:
    rows = Examples.of(lesson, 0)
    known = ~np.isnan(rows.features)
    share = dict(zip(NAMES, known.mean(axis=0), strict=True))
    assert share["bikes_share"] == 1
    assert 0.5 < share["change_15m"] < 0.8
    assert 0.2 < share["change_1d"] < 0.7
    assert share["network_change_60m"] > share["change_60m"] + 0.02, "new stations in known networks"
    hidden = known[:, NAMES.index("bikes_share")] & ~known[:, NAMES.index("near_share")]
    assert 0.05 < hidden.mean() < 0.2
    np.testing.assert_array_equal(Examples.of(lesson, 0).features, rows.features)
    assert not np.array_equal(Examples.of(lesson, 1).came.truth, rows.came.truth)


def test_hidden_targets_are_not_learned_and_whole_days_are_held_out(lesson: Lesson) -> None:
    rows = Examples.of(lesson, 0)
    for target, column in ((E, "ebikes_share"), (M, "mechanical_share"), (D, "docks_share")):
        told = ~np.isnan(rows.features[:, NAMES.index(column)])
        assert not rows.came.known[~told, target].any()
        assert rows.came.known[told, target].any()
    assert 0.02 < rows.held_out.mean() < 0.3
    assert ((rows.came.truth >= 0) & (rows.came.truth <= rows.came.k[:, None]))[rows.came.known].all()
    part = Examples.of(replace(lesson, whole=False), 0)
    for name in ("network_share", "near_share", "from_middle"):
        assert np.isnan(part.features[:, NAMES.index(name)]).all()
    both = Examples.joined([rows, part])
    assert len(both.features) == len(both.held_out) == len(both.came.k) == 2 * len(rows.features)


def test_nothing_is_learned_from_what_is_not_trusted(lesson: Lesson) -> None:
    """Frozen spells: neither origins nor truths."""
    panel = replace(lesson.panel, trusted=lesson.panel.trusted & (np.arange(len(lesson.panel)) < 300)[:, None])
    marked = panel.counts.copy()
    marked[300:, :, BIKES] = 50
    rows = Examples.of(replace(lesson, panel=replace(panel, counts=marked)), 0)
    assert not (rows.came.truth[:, B] == 50).any()
    assert not (rows.came.now[:, B] == 50).any()


def test_weights_are_made_anew_the_same_and_forecast(lesson: Lesson, tmp_path: Path) -> None:
    need_torch()
    about = [trainer.pretrain([lesson], tmp_path / name, epochs=1) for name in "ab"]
    assert about[0] == about[1]
    assert (tmp_path / "a" / NETWORK).read_bytes() == (tmp_path / "b" / NETWORK).read_bytes()
    made = ColdStart(SPEC)
    made.folder = tmp_path / "a"
    report = made.fit(lesson.panel, datetime(2024, 10, 29, tzinfo=UTC))
    assert report.rows == 0  # of this system
    assert report.details["rows_elsewhere"] == about[0]["rows"] > 1_000
    assert report.details["systems"] == ["small"]
    assert_whole(next(made.predict(lesson.panel, lesson.panel.ticks[-1:])), lesson.panel.observed[-1])


def test_onnx_gives_what_torch_gives(lesson: Lesson) -> None:
    need_torch()
    import torch

    from velib_predictor.models.coldstart.model import ColdStart as TorchNetwork
    from velib_predictor.models.coldstart.model import ColdStartConfig
    from velib_predictor.models.fitting import Together
    from velib_predictor.models.network import Network
    from velib_predictor.models.onnx_file import as_onnx

    torch.manual_seed(1)
    torch_network = TorchNetwork(ColdStartConfig(len(NAMES), 4, width=16)).eval()
    torch.nn.init.normal_(torch_network.head.linear.weight, std=0.1)
    torch_network.standardise(torch.randn(len(NAMES)), torch.rand(len(NAMES)) + 0.5)
    rows = Examples.of(lesson, 0)
    asked = [torch.from_numpy(rows.features), torch.from_numpy(rows.unit)]
    ask = Network(as_onnx(Together([torch_network], "mixture"), [part[:4] for part in asked], ("features", "unit")))
    with torch.no_grad():
        wanted = torch_network(*asked).numpy()
    for count in (1, 2, 900):
        given = {"features": rows.features[:count], "unit": rows.unit[:count]}
        np.testing.assert_allclose(ask(given), wanted[:count], rtol=1e-5, atol=1e-5)


def test_making_weights_without_torch_is_refused(
    lesson: Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_torch(monkeypatch)
    monkeypatch.delitem(sys.modules, "velib_predictor.models.coldstart.fitting", raising=False)
    monkeypatch.delitem(sys.modules, "velib_predictor.models.coldstart.model", raising=False)
    with pytest.raises(UsageError, match="training coldstart needs torch and Lightning"):
        trainer.pretrain([lesson], tmp_path)
