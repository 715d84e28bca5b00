"""What every model promises, asked of every name in `MODELS`."""

import json
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.test_models.learned import LEARNED, need_torch, tiny
from tests.test_models.panels import CELLS, disturbed, selected, small_city, with_new_station
from velib_predictor.data.panel import DOCKS, Panel
from velib_predictor.forecast import pmf as algebra
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.models.base import MODELS, ArtifactError, Forecaster, HistoryError, forecaster, load_model
from velib_predictor.utils.errors import UsageError, VelibError

SPEC = ForecastSpec(
    horizons=tuple(timedelta(minutes=minutes) for minutes in (15, 60, 120)), targets=("bikes", "ebikes", "docks")
)
UNTIL = datetime(2024, 10, 29, tzinfo=UTC)
"""End of training: two days after the clocks went back, two days before the panel's end."""
ORIGIN = 96 * 6 + 30
OF_ONE_STATION = {"persistence", "persistence_delta", "climatology", "queueing"}
"""Models whose forecast for a station does not ask how the others are now."""
PLACES = np.array([ORIGIN - 20, ORIGIN, ORIGIN + 1, 96 * 8 - 1])


@dataclass(frozen=True, eq=False)
class Case:
    """A model fitted on the small city."""

    model: Forecaster
    panel: Panel

    def forecasts(self, panel: Panel | None = None, places: npt.NDArray[np.int64] = PLACES) -> list[Forecast]:
        """Its forecasts from these ticks of its panel, or of another one."""
        panel = panel or self.panel
        return list(self.model.predict(panel, panel.ticks[places]))


# The champion without its LSTM, which is tested as one of the models.
TINY = tiny(epochs=1, folds=1, xgboost=0.5, stid=0.4, queueing=0.05, persistence_delta=0.03, climatology=0.02)


@pytest.fixture(scope="module", autouse=True)
def tiny_fits() -> Iterator[None]:
    """The contract does not ask how good a model is: few trees, few rows."""
    sizes = {
        "baseline.linear._ROUNDS": 12, "baseline.linear._SPREAD_ROUNDS": 6, "baseline.linear.XGBoost.most_rows": 6000,
        "baseline.queueing.ROWS": 300, "champion.judge._ORIGINS": 8, "base.DEFAULTS": TINY,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(f"velib_predictor.models.{name}", size)
        yield


@pytest.fixture(scope="module")
def city() -> Panel:
    return small_city()


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest, city: Panel) -> Case:
    if request.param in LEARNED:
        need_torch(graph=request.param == "gnn")
    model = forecaster(request.param)(SPEC)
    model.fit(city, UNTIL)
    return Case(model, city)


def assert_identical(ones: list[Forecast], others: list[Forecast]) -> None:
    """Bit for bit."""
    assert len(ones) == len(others) > 0
    for one, other in zip(ones, others, strict=True):
        assert one.spec == other.spec
        assert tuple(one.stations) == tuple(other.stations)
        for name in ("origins", "k", "known", "pmf"):
            left, right = getattr(one, name), getattr(other, name)
            assert left.dtype == right.dtype
            assert left.shape == right.shape
            assert left.tobytes() == right.tobytes(), name


# -- shape and probabilities ---------------------------------------------------------------------------------


def test_a_forecast_has_the_shape_and_the_types_that_the_contract_says(case: Case) -> None:
    forecasts = case.forecasts()
    assert len(forecasts) == len(PLACES)
    for place, forecast in zip(PLACES, forecasts, strict=True):
        stations = len(case.panel.stations)
        assert forecast.model == case.model.name
        assert forecast.spec == SPEC
        assert forecast.origins.tolist() == case.panel.ticks[[place]].tolist()
        assert tuple(forecast.stations) == case.panel.stations.id
        assert forecast.k.dtype == np.int16
        assert forecast.k.shape == (1, stations)
        assert forecast.known.dtype == np.bool_
        assert forecast.known.shape == (1, stations, 3)
        assert forecast.pmf.dtype == np.float32
        assert forecast.pmf.shape == (1, stations, 3, 3, forecast.k.max() + 1)


def test_probabilities_sum_to_one_where_known_and_are_nought_elsewhere_and_above_k(case: Case) -> None:
    some_unknown = False
    for forecast in case.forecasts():
        total = forecast.pmf.sum(axis=-1)  # [origin, station, horizon, target]
        known = np.broadcast_to(forecast.known[:, :, None], total.shape)
        assert known.any()
        some_unknown |= not known.all()
        np.testing.assert_allclose(total[known], 1, atol=1e-5)
        assert (forecast.pmf[~known] == 0).all()
        assert (forecast.pmf >= 0).all()
        above = np.arange(forecast.pmf.shape[-1]) > forecast.k[:, :, None, None, None]
        assert (np.where(above, forecast.pmf, 0) == 0).all()
    assert some_unknown or case.model.name == "climatology"


def test_k_is_the_most_of_capacity_total_now_and_total_in_training(case: Case) -> None:
    counts = case.panel.counts.copy()
    counts[ORIGIN, 5, DOCKS] += 50
    panel = replace(case.panel, counts=counts)
    train = panel.between(0, panel.before(UNTIL))
    sizes = np.maximum(panel.totals(), panel.counts.max(axis=-1))  # a count alone is a least size
    for place, forecast in zip(PLACES, case.forecasts(panel), strict=True):
        for station in range(len(panel.stations)):
            seen = sizes[: len(train), station][train.trusted[:, station]].max()
            assert forecast.k[0, station] == max(seen, sizes[place, station], panel.capacity[place, station], 1)


def test_quantiles_rise_with_their_level_and_lie_within_k(case: Case) -> None:
    for forecast in case.forecasts():
        levels = np.stack([forecast.quantile(q) for q in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)])
        known = np.broadcast_to(forecast.known[:, :, None], levels.shape[1:])
        assert (np.diff(levels, axis=0)[:, known] >= 0).all()
        assert (levels <= forecast.k[:, :, None, None])[:, known].all()


def test_ebikes_are_nowhere_stochastically_above_bikes(case: Case) -> None:
    for forecast in case.forecasts():
        cdf = np.cumsum(forecast.pmf, axis=-1)
        target = SPEC.target("ebikes")
        both = (forecast.known[:, :, 0] & forecast.known[:, :, target])[:, :, None, None]
        excess = np.where(both, cdf[:, :, :, 0] - cdf[:, :, :, target], 0)
        assert excess.max() <= 1e-5


# -- leakage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_no_forecast_moves_when_all_that_comes_after_its_origin_changes(case: Case, seed: int) -> None:
    other = disturbed(case.panel, ORIGIN + 1, seed)
    until_now = PLACES[PLACES <= ORIGIN]
    assert_identical(case.forecasts(places=until_now), case.forecasts(other, until_now))
    assert case.forecasts()[-1].pmf.tobytes() != case.forecasts(other)[-1].pmf.tobytes()  # the disturbance is one


def test_a_panel_that_ends_at_the_origin_gives_the_same_forecast(case: Case) -> None:
    for place in PLACES:
        ended = case.panel.between(0, int(place) + 1)
        only = np.array([place])
        assert_identical(case.forecasts(places=only), case.forecasts(ended, only))


def test_a_panel_that_starts_where_the_model_looks_back_to_gives_the_same_forecast(case: Case) -> None:
    last = len(case.panel) - 1
    assert case.model.lookback < last, "a longer panel is needed to tell"
    short = case.panel.between(last - case.model.lookback, last + 1)
    assert_identical(case.forecasts(places=np.array([last])), case.forecasts(short, np.array([len(short) - 1])))


def test_no_forecast_reads_what_hindsight_trusts(case: Case) -> None:
    for trusted in (np.zeros_like(case.panel.trusted), np.ones_like(case.panel.trusted)):
        assert_identical(case.forecasts(), case.forecasts(replace(case.panel, trusted=trusted)))


def test_forecasts_leave_the_model_and_the_panel_as_they_were(case: Case) -> None:
    before = {name: getattr(case.panel, name).tobytes() for name in CELLS}
    first, again = case.forecasts(), case.forecasts(places=PLACES[::-1])[::-1]
    assert_identical(first, again)
    assert {name: getattr(case.panel, name).tobytes() for name in CELLS} == before


def test_fit_reads_nothing_at_or_after_the_end_of_training(case: Case) -> None:
    model = type(case.model)(SPEC)
    report = model.fit(disturbed(case.panel, case.panel.before(UNTIL)), UNTIL)
    assert report == case.model.report
    assert_identical(case.forecasts(), Case(model, case.panel).forecasts())


def test_a_second_fit_forgets_the_first_and_needs_no_later_ticks(case: Case) -> None:
    model = type(case.model)(SPEC)
    model.fit(small_city(seed=5, days=7, stations=5), UNTIL)
    model.fit(case.panel.between(0, case.panel.before(UNTIL)), UNTIL)
    assert_identical(case.forecasts(), Case(model, case.panel).forecasts())


# -- stations ------------------------------------------------------------------------------------------------


def test_stations_in_another_order_get_the_same_forecasts(case: Case) -> None:
    order = np.random.default_rng(3).permutation(len(case.panel.stations))
    shuffled = case.forecasts(selected(case.panel, order))
    for one, other in zip(case.forecasts(), shuffled, strict=True):
        assert tuple(other.stations) == tuple(one.stations[place] for place in order)
        np.testing.assert_array_equal(other.k, one.k[:, order])
        np.testing.assert_array_equal(other.known, one.known[:, order])
        np.testing.assert_allclose(other.pmf, one.pmf[:, order], atol=2e-5)


@pytest.mark.parametrize("silent", [False, True])
def test_an_unknown_station_gets_a_forecast_or_none(case: Case, silent: bool) -> None:
    wider = case.forecasts(with_new_station(case.panel, silent=silent))
    for one, other in zip(case.forecasts(), wider, strict=True):
        assert other.stations[-1] == "new"
        total = other.pmf[0, -1].sum(axis=-1)  # [horizon, target]
        np.testing.assert_allclose(total, np.broadcast_to(other.known[0, -1], total.shape), atol=1e-5)
        np.testing.assert_array_equal(one.known, other.known[:, :-1])
        if silent or case.model.name in OF_ONE_STATION:
            size = one.pmf.shape[-1]
            np.testing.assert_allclose(one.pmf, other.pmf[:, :-1, ..., :size], atol=2e-5)
        assert other.k[0, -1] == 1 if silent else other.k[0, -1] >= case.panel.capacity[-1, -1]
    assert silent or any(forecast.known[0, -1].any() for forecast in wider)


def test_a_panel_of_one_station_that_was_never_seen_is_no_error(case: Case) -> None:
    wider = with_new_station(case.panel)
    alone = selected(wider, np.array([len(wider.stations) - 1]))
    for forecast in case.forecasts(alone):
        assert forecast.pmf.shape[:4] == (1, 1, 3, 3)
        assert np.isfinite(forecast.pmf).all()


# -- keeping -------------------------------------------------------------------------------------------------


def pickles(folder: Path) -> list[Path]:
    """Files that a pickle reader would take, or that are named like one."""
    found = []
    for file in folder.rglob("*"):
        if not file.is_file():
            continue
        content = file.read_bytes()
        try:
            list(pickletools.genops(content))
            is_pickle = True
        except Exception:
            is_pickle = False
        named = file.suffix in {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".bin", ".npy", ".npz"}
        if (
            is_pickle
            or named
            or content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04"))
        ):
            found.append(file)
    return found


def test_pickles_are_found(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "model.json").write_bytes(pickle.dumps({"weights": [1.0]}))
    (tmp_path / "old.json").write_bytes(pickle.dumps({"weights": [1.0]}, protocol=0))
    (tmp_path / "fine.json").write_text("{}")
    assert {file.name for file in pickles(tmp_path)} == {"model.json", "old.json"}


def test_a_saved_model_forecasts_the_same_and_holds_no_pickle(case: Case, tmp_path: Path) -> None:
    case.model.save(tmp_path)
    assert_identical(case.forecasts(), Case(type(case.model).load(tmp_path), case.panel).forecasts())
    loaded = load_model(tmp_path)
    assert type(loaded) is type(case.model)
    assert loaded.report == case.model.report
    assert_identical(case.forecasts(), Case(loaded, case.panel).forecasts())
    assert pickles(tmp_path) == []


def test_a_saved_model_of_another_kind_is_refused_with_the_reason(case: Case, tmp_path: Path) -> None:
    case.model.save(tmp_path)
    other = forecaster("persistence" if case.model.name != "persistence" else "climatology")
    with pytest.raises(ArtifactError, match=rf"holds the model '{case.model.name}', not '{other.name}'"):
        other.load(tmp_path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "metadata.json").unlink(), "there is no model"),
        (lambda folder: (folder / "metadata.json").write_text("{"), "there is no model"),
        (lambda folder: edit(folder, schema=99), "layout 99"),
        (lambda folder: (folder / "state.safetensors").unlink(), "damaged"),
        (lambda folder: (folder / "state.safetensors").write_bytes(b"\x00" * 20), "damaged"),
    ],
)
def test_a_damaged_model_is_refused_with_the_reason(
    case: Case, tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    case.model.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ArtifactError, match=reason):
        type(case.model).load(tmp_path)


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# -- refusals ------------------------------------------------------------------------------------------------


def test_too_little_history_is_refused_with_what_there_is_and_what_is_needed(case: Case) -> None:
    model = type(case.model)(SPEC)
    panel = small_city(seed=2, days=2)
    with pytest.raises(HistoryError, match=r"4 usable ticks .* \d+ are needed"):
        model.fit(replace(panel, trusted=np.ones_like(panel.trusted)), datetime(2024, 10, 23, 1, tzinfo=UTC))
    with pytest.raises(HistoryError, match=r"0 usable ticks .* \d+ are needed"):
        model.fit(panel, datetime(2024, 10, 22, tzinfo=UTC))
    with pytest.raises(HistoryError, match=r"0 usable ticks .* \d+ are needed"):
        model.fit(replace(panel, trusted=np.zeros_like(panel.trusted)), UNTIL)
    with pytest.raises(VelibError, match="before it was fitted"):
        next(model.predict(panel, panel.ticks[-1:]))


def test_a_panel_of_another_step_is_refused(case: Case) -> None:
    hourly = replace(case.panel, step=timedelta(hours=1))
    with pytest.raises(UsageError, match="the panel's step is 1h, the forecast's 15m"):
        type(case.model)(SPEC).fit(hourly, UNTIL)
    with pytest.raises(UsageError, match="the panel's step is 1h, the forecast's 15m"):
        case.forecasts(hourly)


@pytest.mark.parametrize("minutes", [7, -96 * 15 * 30, 96 * 15 * 30])
def test_an_origin_that_is_no_tick_is_refused(case: Case, minutes: int) -> None:
    origin = case.panel.ticks[PLACES] + np.timedelta64(minutes, "m")
    with pytest.raises(UsageError, match="is no tick of"):
        next(case.model.predict(case.panel, origin))


def test_a_model_that_was_not_fitted_neither_forecasts_nor_is_saved(case: Case, tmp_path: Path) -> None:
    model = type(case.model)(SPEC)
    with pytest.raises(VelibError, match=f"{case.model.name} is asked for forecasts before it was fitted"):
        next(model.predict(case.panel, case.panel.ticks[PLACES]))
    with pytest.raises(VelibError, match=f"{case.model.name} was not fitted"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_report_says_what_was_read(case: Case) -> None:
    report = case.model.report
    assert report is not None
    assert (report.system_id, report.model) == ("small", case.model.name)
    assert (report.first, report.until) == ("2024-10-23T00:00:00Z", "2024-10-29T00:00:00Z")
    assert report.days == 7  # in Paris: the first tick is at 2 o'clock, the last after midnight
    assert (report.rows > 0) == (case.model.name != "coldstart")  # which learned elsewhere
    json.dumps(report.details)


def test_every_listed_model_bears_its_name() -> None:
    for name, address in MODELS.items():
        cls = forecaster(name)
        assert cls.name == name
        module, _, attribute = address.partition(":")
        assert getattr(import_module(module), attribute) is cls


def test_an_unknown_model_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="unknown model 'oracle'; there are: persistence, persistence_delta"):
        forecaster("oracle")


def test_one_target_alone_is_forecast_as_among_others(case: Case) -> None:
    """A specification of one target and one horizon is no special case."""
    spec = ForecastSpec(horizons=(timedelta(minutes=60),), targets=("docks",))
    model = type(case.model)(spec)
    model.fit(case.panel, UNTIL)
    for alone, among in zip(Case(model, case.panel).forecasts(), case.forecasts(), strict=True):
        assert alone.pmf.shape[2:4] == (1, 1)
        np.testing.assert_array_equal(alone.known[:, :, 0], among.known[:, :, SPEC.target("docks")])
        total = algebra.to_cdf(alone.pmf)[alone.known[:, :, 0]][..., -1]
        assert (total == 1).all()
