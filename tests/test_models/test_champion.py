"""The champion: weights against a grid, who gets more of them, members that do not know, and other members' K."""

import itertools
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.test_models.learned import hide_torch
from tests.test_models.panels import bare_panel, small_city, with_new_station
from velib_predictor.config.config import ForecastSettings
from velib_predictor.config.models import ChampionSettings, ModelSettings
from velib_predictor.data.calendar import local_time
from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import Forecast, ForecastSpec
from velib_predictor.models import base
from velib_predictor.models.base import ArtifactError, Forecaster, HistoryError, forecaster, load_model
from velib_predictor.models.champion import gate as gating
from velib_predictor.models.champion.calibration import Calibration
from velib_predictor.models.champion.ensemble import Champion
from velib_predictor.models.champion.gate import BLOCKS, gate, weights
from velib_predictor.models.champion.judge import HeldOut, Told, ask
from velib_predictor.utils.errors import UsageError

Floats = npt.NDArray[np.float32]
SPEC = ForecastSpec(horizons=(timedelta(minutes=15), timedelta(hours=1)), targets=("bikes", "docks"))
UNTIL = datetime(2024, 10, 30, 23, tzinfo=UTC)
"""Midnight in Paris, after eight days."""


# -- weights -------------------------------------------------------------------------------------------------


def given_by(members: int, rows: int, seed: int = 0) -> Floats:
    """What members gave to what came, float32[member, station, horizon, target]; some not known."""
    random = np.random.default_rng(seed)
    given = random.beta(1.2, 2.0, (members, rows, 2, 1)) * np.linspace(1, 0.6, members)[:, None, None, None]
    given[:, random.random(rows) < 0.1] = np.nan
    given[0, random.random(rows) < 0.1, 1] = np.nan
    return given.astype(np.float32)


def start(*shares: float, horizons: int = 2) -> Floats:
    return np.repeat(np.array(shares, dtype=np.float32)[:, None, None], horizons, axis=1)


def wanted(given: Floats, first: Floats, weights: npt.NDArray[np.float64], horizon: int, prior: float) -> float:
    """What the weights maximise: the log score of rows that all know, and as many rows more as the prior counts."""
    total = 0.0
    for row in range(given.shape[1]):
        column = given[:, row, horizon, 0].astype(float)
        if not np.isnan(column).any():
            total += float(np.log(weights @ column))
    return total + prior * float(first[:, horizon, 0].astype(float) @ np.log(weights))


def grid(members: int, steps: int) -> list[npt.NDArray[np.float64]]:
    """Weights that add up to 1, in `steps` steps, none 0."""
    shares = itertools.product(range(1, steps), repeat=members - 1)
    return [np.array([*s, steps - sum(s)]) / steps for s in shares if sum(s) < steps]


@pytest.mark.parametrize(("members", "prior"), [(2, 0.5), (3, 0.5), (3, 40.0)])
def test_weights_are_the_best_of_a_grid(members: int, prior: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gating, "_PRIOR_ROWS", prior)
    monkeypatch.setattr(gating, "_ROUNDS", 3_000)
    given = given_by(members, 120)
    first = start(*[0.5, 0.3, 0.2][:members])
    first /= first.sum(axis=0)
    found = weights(given, first)
    assert found.shape == first.shape
    assert found.dtype == np.float32
    for horizon in range(2):
        ours = wanted(given, first, found[:, horizon, 0].astype(float), horizon, prior)
        best = max(grid(members, 40), key=lambda weights: wanted(given, first, weights, horizon, prior))
        assert ours >= wanted(given, first, best, horizon, prior) - 1e-4
        np.testing.assert_allclose(found[:, horizon, 0], best, atol=0.04)
    assert abs(found[:, 0] - found[:, 1]).max() > 0.005  # horizons are weighed each on its own


def test_few_rounds_come_near_the_best() -> None:
    """The number of rounds in use, on many rows."""
    given = given_by(3, 1_000)
    first = start(0.46, 0.46, 0.08)
    found = weights(given, first)
    for horizon in range(2):
        ours = wanted(given, first, found[:, horizon, 0].astype(float), horizon, gating._PRIOR_ROWS)
        many = max(wanted(given, first, tried, horizon, gating._PRIOR_ROWS) for tried in grid(3, 20))
        rows = int((~np.isnan(given[:, :, horizon, 0]).any(axis=0)).sum())
        assert ours >= many - 1e-4 * rows


def test_weights_add_up_to_one_and_nothing_seen_leaves_the_first() -> None:
    first = start(0.6, 0.3, 0.1)
    found = weights(given_by(3, 500), first)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-6)
    nothing = np.full((3, 40, 2, 1), np.nan, dtype=np.float32)
    np.testing.assert_allclose(weights(nothing, first), first, atol=1e-6)


def test_a_member_that_gave_nothing_to_what_came_costs_no_nan() -> None:
    given = np.zeros((2, 5_000, 1, 1), dtype=np.float32)
    given[0] = 0.3
    found = weights(given, start(0.5, 0.5, horizons=1))
    assert found[0, 0, 0] > 0.95
    given[0] = 0.0
    assert np.isfinite(weights(given, start(0.5, 0.5, horizons=1))).all()


# -- members of a known kind ---------------------------------------------------------------------------------


class Stated(Forecaster):
    """Says of every station what its class says, whatever it saw; K may be more than others'."""

    at: int
    more = 0
    blind: tuple[str, ...] = ()
    """Stations that it knows nothing of."""

    def _fit(self, train: Panel) -> tuple[int, dict[str, Any]]:
        fitted.append((self.name, len(train)))
        return 1, {}

    def _predict(self, seen: Panel) -> Forecast:
        k = self.greatest(seen) + np.int16(self.more)
        shape = (len(k), len(self.spec.horizons), len(self.spec.targets), int(k.max()) + 1)
        pmf = np.zeros(shape, dtype=np.float32)
        pmf[..., self.at] = 0.9
        pmf[..., 0] += 0.1
        known = self.now(seen, k)[1]
        known = known & ~np.isin(seen.stations.id, self.blind)[:, None]
        return self.block(seen, pmf, k, known)


class Right(Stated):
    name, at = "right", 3


class Wrong(Stated):
    name, at = "wrong", 2


class Wide(Stated):
    name, at, more = "wide", 3, 4


class Blind(Stated):
    name, at, blind = "blind", 2, ("101",)


fitted: list[tuple[str, int]] = []


@pytest.fixture(autouse=True)
def known_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {kind.name: f"{__name__}:{kind.__name__}" for kind in (Right, Wrong, Wide, Blind)}
    monkeypatch.setattr(base, "MODELS", {**base.MODELS, **kinds})
    fitted.clear()


def champion(*members: str, first: tuple[float, ...] | None = None) -> Champion:
    shares = dict(zip(members, first or (1.0,) * len(members), strict=True))
    return Champion(SPEC, ModelSettings(champion=ChampionSettings(members=shares)))


def still(days: int = 8) -> Panel:
    """Four stations of 6 docks that hold 3 bikes all the time."""
    counts = np.full((96 * days, 4, 4), 3, dtype=np.int16)
    counts[:, :, 1], counts[:, :, 2] = 2, 1
    return bare_panel(counts, np.full(4, 6))


def test_who_is_right_gets_more_weight() -> None:
    model = champion("wrong", "right", first=(0.7, 0.3))
    report = model.fit(still(), UNTIL)
    assert report.details["weighed_on_days"] == 1
    assert (model.weights[:, 1] > 0.5).all()
    np.testing.assert_allclose(model.weights.sum(axis=1), 1, atol=1e-6)
    table = report.details["weights"]
    assert list(table) == ["wrong", "right"]
    mean = model.weights[:, 1].mean(axis=0)
    np.testing.assert_allclose(json.loads(json.dumps(table["right"])), mean, atol=6e-4)


def test_the_blend_has_members_of_its_own_and_is_fitted_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_torch(monkeypatch)
    settings = ModelSettings(champion=ChampionSettings(members={"stid": 1.0}))
    assert Champion(SPEC, settings).made[0].name == "stid"
    made = forecaster("blend")(SPEC, settings)
    assert isinstance(made, Champion)
    assert made.members == ("coldstart", "xgboost")
    made.check_tools()
    with pytest.raises(UsageError, match="setup-deep"):
        forecaster("champion")(SPEC, settings).check_tools()
    assert ForecastSettings().train_model == "blend"


def test_members_are_weighed_on_days_that_they_had_not_seen_and_fitted_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model = champion("wrong", "right")
    asked: list[HeldOut] = []

    def note(train: Panel, held_out: HeldOut, judges: Any) -> Told:
        asked.append(held_out)
        return ask(train, held_out, judges)

    monkeypatch.setattr("velib_predictor.models.champion.ensemble.ask", note)
    panel = still(days=15)
    model.fit(panel, datetime(2024, 11, 6, 23, tzinfo=UTC))  # 15 local days
    (one, short), (other, also), *last = fitted
    assert {one, other} == {"wrong", "right"}
    assert short == also
    assert last == [("wrong", 96 * 15 - 4), ("right", 96 * 15 - 4)]
    (held_out,) = asked
    first = int(held_out.origins.min())
    assert first - SPEC.horizon_ticks[-1] >= short  # no truth of the days that are weighed on was learned
    assert first == 96 * 12 - 4  # the last three local days: a fifth
    assert held_out.days == 3


def test_what_members_said_is_that_of_a_slow_loop() -> None:
    """P(count < truth) and P(count <= truth), where origin and truth are known and may be learned from."""
    panel = small_city(days=8)
    judges = [forecaster(name)(SPEC) for name in ("persistence_delta", "queueing")]
    held_out = HeldOut.of(panel.between(0, panel.before(UNTIL)), SPEC.horizon_ticks[-1])
    assert held_out is not None
    for judge_ in judges:
        judge_.fit(panel, held_out.until)
    few = replace(held_out, origins=held_out.origins[[0, 40]])
    told = ask(panel, few, judges)
    stations = len(panel.stations)
    assert told.upto.shape == (2, 2 * stations, 2, 2)
    counted = 0
    for place, origin in enumerate(few.origins.tolist()):
        forecasts = [next(j.predict(panel, panel.ticks[[origin]])) for j in judges]
        for station, horizon, target in np.ndindex(stations, 2, 2):
            channel, at = SPEC.channels[target], origin + SPEC.horizon_ticks[horizon]
            use = panel.observed[origin, station, channel] and panel.open[origin, station]
            use = use and panel.observed[at, station, channel] and panel.trusted[at, station]
            row = place * stations + station
            for member, forecast in enumerate(forecasts):
                below, upto = (part[member, row, horizon, target] for part in (told.below, told.upto))
                if not (use and all(f.known[0, station, target] for f in forecasts)):
                    assert np.isnan(below)
                    assert np.isnan(upto)
                    continue
                truth = min(int(panel.counts[at, station, channel]), int(forecast.k[0, station]))
                pmf = forecast.pmf[0, station, horizon, target]
                assert below == pytest.approx(pmf[:truth].sum(), abs=1e-5)
                assert upto == pytest.approx(pmf[: truth + 1].sum(), abs=1e-5)
                counted += 1
    assert counted > 10
    assert told.hour.tolist() == np.repeat(local_time(panel.ticks[few.origins], panel.timezone).hour, stations).tolist()


def by_hours(days: int) -> Told:
    """The first of two members is right before noon, the second after."""
    hour = np.tile(np.arange(24, dtype=np.int8), 400)
    right = np.where(hour < 12, 0.9, 0.1)
    upto = np.stack([right, 1 - right]).astype(np.float32)[:, :, None, None]
    return Told(np.zeros_like(upto), upto, hour, days)


def test_hours_are_told_apart_as_far_as_days_allow() -> None:
    few, many = (gate(by_hours(days), start(0.5, 0.5, horizons=1)) for days in (1, 1_000))
    assert few.shape == (BLOCKS, 2, 1, 1)
    np.testing.assert_allclose(few.sum(axis=1), 1, atol=1e-6)
    assert (many[:4, 0] > 0.8).all()
    assert (many[4:, 0] < 0.2).all()
    assert (abs(few[:, 0] - 0.5) < 0.05).all()
    assert (few[:4, 0] > few[4:, 0]).all()


def test_an_hour_without_rows_has_the_weights_of_all() -> None:
    told = by_hours(1_000)
    morning = told.hour < 3
    told = Told(told.below[:, ~morning], told.upto[:, ~morning], told.hour[~morning], told.days)
    first = start(0.5, 0.5, horizons=1)
    np.testing.assert_allclose(gate(told, first)[0], weights(told.given, first))


@pytest.mark.parametrize("days", [1, 2])
def test_a_short_history_keeps_the_first_weights(days: int) -> None:
    model = champion("wrong", "right", first=(3.0, 1.0))
    report = model.fit(still(days=days), UNTIL)
    assert report.details["weighed_on_days"] == 0
    np.testing.assert_allclose(model.weights[0, :, 0, 0], [0.75, 0.25])


def test_a_second_fit_forgets_the_weights_of_the_first() -> None:
    model = champion("wrong", "right", first=(3.0, 1.0))
    model.fit(still(), UNTIL)
    assert (model.weights[:, 1] > 0.3).all()
    model.fit(still(days=2), UNTIL)
    np.testing.assert_allclose(model.weights[0, :, 0, 0], [0.75, 0.25])


def test_a_member_whose_history_is_too_short_for_weights_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be fitted on all days, not on those before the ones that are held out."""
    monkeypatch.setattr(Right, "least_days", 7.5, raising=False)
    model = champion("wrong", "right")
    assert model.fit(still(), UNTIL).details["weighed_on_days"] == 0
    monkeypatch.setattr(Right, "least_days", 30)
    with pytest.raises(HistoryError, match="too little history to fit right"):
        model.fit(still(), UNTIL)


def test_the_mixture_is_that_of_a_slow_loop_and_who_knows_nothing_leaves_its_share() -> None:
    panel = still()
    model = champion("right", "blind", "climatology")
    model.fit(panel, UNTIL)
    random = np.random.default_rng(0)
    model.weights = np.moveaxis(random.dirichlet(np.ones(3), (BLOCKS, 2, 2)), 3, 1).astype(np.float32)
    model.calibration = Calibration.none(2, 2)
    block = int(local_time(panel.ticks[-1:], panel.timezone).hour[0]) // 3
    (mixed,) = model.predict(panel, panel.ticks[-1:])
    parts = [next(member.predict(panel, panel.ticks[-1:])) for member in model.made]
    for station, horizon, target in np.ndindex(4, 2, 2):
        members = [0, 2] if station == 1 else [0, 1, 2]
        shares = model.weights[block, members, horizon, target]
        pmfs = np.stack([parts[member].pmf[0, station, horizon, target] for member in members])
        expected = shares @ pmfs / shares.sum()
        np.testing.assert_allclose(mixed.pmf[0, station, horizon, target], expected, atol=1e-6)
    assert mixed.known.all()


def test_members_may_differ_in_k() -> None:
    panel = still()
    model = champion("right", "wide", "wrong", first=(0.2, 0.3, 0.5))
    model.fit(panel, UNTIL)
    model.calibration = Calibration.none(2, 2)
    (forecast,) = model.predict(panel, panel.ticks[-1:])
    assert (forecast.k == 10).all()
    assert forecast.pmf.shape[-1] == 11
    np.testing.assert_allclose(forecast.pmf.sum(axis=-1), 1, atol=1e-6)
    block = int(local_time(panel.ticks[-1:], panel.timezone).hour[0]) // 3
    share = model.weights[block, :2].sum(axis=0)
    np.testing.assert_allclose(forecast.pmf[0, 0, :, :, 3], 0.9 * share, atol=1e-6)


def test_what_climatology_alone_knows_is_not_known() -> None:
    panel = small_city(days=8)
    model = champion("persistence_delta", "climatology")
    model.fit(panel, UNTIL)
    observed = panel.observed.copy()
    observed[-1, 2] = False
    silent = replace(panel, observed=observed)
    (forecast,) = model.predict(with_new_station(silent, silent=True), silent.ticks[-1:])
    assert not forecast.known[0, 2].any()
    assert not forecast.known[0, -1].any()
    assert forecast.known[0, 0].any()
    assert (forecast.pmf[0, 2] == 0).all()


# -- keeping -------------------------------------------------------------------------------------------------


def test_it_is_kept_with_its_members_whoever_the_next_program_takes(tmp_path: Path) -> None:
    panel = small_city(days=8)
    model = champion("persistence_delta", "climatology", "right", first=(0.5, 0.4, 0.1))
    model.fit(panel, UNTIL)
    model.save(tmp_path / "kept")
    (before,) = model.predict(panel, panel.ticks[-1:])
    champion("persistence", "linear")
    loaded = load_model(tmp_path / "kept")
    assert isinstance(loaded, Champion)
    assert loaded.weights.tobytes() == model.weights.tobytes()
    assert loaded.calibration.curve.tobytes() == model.calibration.curve.tobytes()
    assert loaded.lookback == model.lookback
    (after,) = loaded.predict(panel, panel.ticks[-1:])
    assert after.pmf.tobytes() == before.pmf.tobytes()
    loaded.save(tmp_path / "again")
    assert [member.name for member in Champion.load(tmp_path / "again").made] == [m.name for m in model.made]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("climatology/state.safetensors", b"\x00" * 20),
        ("climatology/metadata.json", None),
        ("members.json", None),
        ("members.json", b"[1"),
        ("members.json", b'["right"]'),
        ("members.json", b'["right", "oracle"]'),
        ("members.json", b"7"),
    ],
)
def test_a_damaged_champion_is_refused(tmp_path: Path, file: str, content: bytes | None) -> None:
    model = champion("right", "climatology")
    model.fit(still(), UNTIL)
    model.save(tmp_path)
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_bytes(content)
    with pytest.raises(ArtifactError):
        load_model(tmp_path)
