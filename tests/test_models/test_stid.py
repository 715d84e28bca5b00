"""STID: rows and moments by slow loops, what the network is told, ONNX against torch, old artifacts, bad input."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from tests.conftest import REPOSITORY
from tests.test_models.artifacts import make
from tests.test_models.learned import hide_torch, need_torch, tiny, tiny_networks, watched
from tests.test_models.panels import bare_panel, disturbed, selected, small_city, with_new_station
from velib_predictor.config.models import ModelSettings, NetworkSettings, TrainingSettings
from velib_predictor.data.calendar import local_time, public_holidays
from velib_predictor.data.feature_engineering import FeatureBuilder
from velib_predictor.data.panel import Panel
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.models import network as shared
from velib_predictor.models.base import ArtifactError, HistoryError, load_model
from velib_predictor.models.network import Network
from velib_predictor.models.stid import dataset
from velib_predictor.models.stid.dataset import CLIP, HOLIDAY, Outcomes, Scaling, draw, moments, outcomes, raw_rows
from velib_predictor.models.stid.trainer import Stid
from velib_predictor.utils.errors import UsageError

Floats = npt.NDArray[np.float32]
SPEC = ForecastSpec(horizons=(timedelta(minutes=15), timedelta(hours=1)), targets=("bikes", "docks"))
UNTIL = datetime(2024, 10, 31, tzinfo=UTC)


@pytest.fixture(scope="module")
def panel() -> Panel:
    return small_city()


# -- rows ----------------------------------------------------------------------------------------------------


def test_raw_rows_are_the_builders_side_by_side(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there are too many to make at once."""
    builders = [FeatureBuilder(channel, 15) for channel in SPEC.channels]
    sights = [builder.fit(panel) for builder in builders]
    tick, station, horizon = draw(panel, SPEC, 500)
    ahead = np.array(SPEC.horizon_ticks)[horizon]
    whole = raw_rows(builders, sights, tick, station, ahead)
    monkeypatch.setattr(dataset, "_CHUNK", 60)
    assert raw_rows(builders, sights, tick, station, ahead).tobytes() == whole.tobytes()
    column = 0
    for builder, sight in zip(builders, sights, strict=True):
        wanted = builder.rows(sight, tick, station, ahead)
        assert whole[:, column : column + wanted.shape[1]].tobytes() == wanted.tobytes()
        column += wanted.shape[1]
    assert whole.shape == (len(tick), column)


def test_drawn_rows_are_known_trusted_open_at_their_origin_and_evenly_many(panel: Panel) -> None:
    tick, station, horizon = draw(panel, SPEC, 800)
    assert np.bincount(horizon).tolist() == [400, 400]
    seen = panel.observed[:, :, SPEC.channels].any(axis=2) & panel.trusted
    ahead = np.array(SPEC.horizon_ticks)[horizon]
    assert seen[tick, station].all()
    assert seen[tick + ahead, station].all()
    assert panel.open[tick, station].all()
    everything = draw(panel, SPEC, 10**9)
    for number, steps in enumerate(SPEC.horizon_ticks):
        usable = {
            (t, s)
            for t in range(len(panel) - steps)
            for s in range(len(panel.stations))
            if seen[t, s] and panel.open[t, s] and seen[t + steps, s]
        }
        mine = everything[2] == number
        assert set(zip(everything[0][mine].tolist(), everything[1][mine].tolist(), strict=True)) == usable
        assert int(mine.sum()) == len(usable)


def test_outcomes_are_what_came_within_0_and_k(panel: Panel) -> None:
    tick, station, horizon = draw(panel, SPEC, 600)
    ahead = np.array(SPEC.horizon_ticks)[horizon]
    size = np.full(len(panel.stations), 9)
    came = outcomes(panel, SPEC, tick, station, ahead, size)
    for row in range(len(tick)):
        assert came.k[row] == 9
        for target, channel in enumerate(SPEC.channels):
            at, then = (tick[row], station[row], channel), (tick[row] + ahead[row], station[row], channel)
            assert came.known[row, target] == (panel.observed[at] and panel.observed[then])
            assert came.now[row, target] == min(max(panel.counts[at], 0), 9)
            assert came.truth[row, target] == min(max(panel.counts[then], 0), 9)
    assert not came.known.all()
    assert (came.truth == 9).any()


@pytest.mark.parametrize(
    ("first", "days", "has_holiday"),
    [
        (datetime(2024, 3, 30, tzinfo=UTC), 4, True),  # the clocks go forward; the next day is Easter Monday
        (datetime(2024, 10, 26, tzinfo=UTC), 3, False),  # they go back
        (datetime(2024, 10, 30, tzinfo=UTC), 4, True),  # All Saints' Day, a Friday
        (datetime(2024, 7, 12, tzinfo=UTC), 4, False),  # Bastille Day is a Sunday, and stays one
    ],
)
def test_moments_are_those_of_the_wall_clock(first: datetime, days: int, has_holiday: bool) -> None:
    zone, free = ZoneInfo("Europe/Paris"), public_holidays("Europe/Paris", range(2024, 2025))
    ticks = np.datetime64(first.replace(tzinfo=None), "s") + np.arange(96 * days) * np.timedelta64(15, "m")
    places = np.stack([np.arange(96 * (days - 1)), np.arange(96 * (days - 1)) + 50], axis=1)
    for slots in (48, 24):
        slot, day = moments(local_time(ticks, "Europe/Paris"), places, slots)
        for row in range(len(places)):
            for moment in range(2):
                here = (first + timedelta(minutes=15) * int(places[row, moment])).astimezone(zone)
                assert slot[row, moment] == (here.hour * 60 + here.minute) // (1440 // slots)
                holiday = here.date() in free and here.weekday() < 5
                assert day[row, moment] == (HOLIDAY if holiday else here.weekday())
        assert (day == HOLIDAY).any() == has_holiday
        assert slot.max() < slots


def test_scaling_is_that_of_a_slow_loop_and_leaves_gaps() -> None:
    random = np.random.default_rng(0)
    features = random.normal([5, -300, 0, 0], [1, 50, 1, 1], (2_000, 4)).astype(np.float32)
    features[random.random(2_000) < 0.4, 1] = np.nan
    features[:, 2], features[:, 3] = 7, np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaling = Scaling.fit(features, np.ones((1, 1), dtype=np.float32))
    for column in (0, 1):
        known = features[:, column][~np.isnan(features[:, column])].astype(np.float64)
        assert scaling.middle[column] == pytest.approx(known.mean(), rel=1e-5)
        assert scaling.width[column] == pytest.approx(known.std(), rel=1e-4)
    scaled = scaling.apply(features.copy())
    assert scaled.dtype == np.float32
    assert (np.isnan(scaled) == np.isnan(features)).all()
    assert (scaled[:, 2] == 0).all()
    far = scaling.apply(np.array([[1e9, -1e9, 1e9, 3]], dtype=np.float32))[0]
    assert far[:3].tolist() == [CLIP, -CLIP, CLIP]
    assert np.isfinite(far[3])


# -- the network ---------------------------------------------------------------------------------------------


SETTINGS = NetworkSettings(width=16, blocks=2)


def random_network(seed: int = 1, **changes: Any) -> Any:
    """STID with weights that make every input count."""
    import torch

    from velib_predictor.models.stid.model import Stid as Network

    torch.manual_seed(seed)
    made = Network(here=5, there=4, stations=5, slots=24, outputs=2, settings=SETTINGS.model_copy(update=changes))
    torch.nn.init.normal_(made.head.linear.weight, std=0.1)
    return made.eval()


def random_examples(count: int, horizons: int = 1, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """What a network is asked with: gaps, unknown stations, all slots and days."""
    random = np.random.default_rng(seed)
    here = random.normal(0, 2, (count, 5)).astype(np.float32)
    there = random.normal(0, 2, (count, horizons, 4)).astype(np.float32)
    for features in (here, there):
        features[random.random(features.shape) < 0.2] = np.nan
    return {
        "here": here,
        "there": there,
        "station": random.integers(0, 6, count),
        "slots": random.integers(0, 24, (count, horizons, 2)),
        "days": random.integers(0, 8, (count, horizons, 2)),
        "unit": random.uniform(0.05, 3, (count, horizons, 2)).astype(np.float32),
    }


def answer(network: Any, given: dict[str, npt.NDArray[Any]]) -> Floats:
    import torch

    with torch.no_grad():
        found: Floats = network(*(torch.from_numpy(part) for part in given.values())).numpy()
    return found


@pytest.mark.parametrize("kind", ["mixture", "categorical"])
def test_onnx_gives_what_torch_gives_for_any_number_of_rows(kind: Literal["mixture", "categorical"]) -> None:
    """Two networks in one file give the mean of both their distributions."""
    need_torch()
    import torch

    from velib_predictor.models.fitting import Together
    from velib_predictor.models.onnx_file import as_onnx

    networks = [random_network(seed, head=kind) for seed in (1, 2)]
    example = [torch.from_numpy(part) for part in random_examples(4, 3, seed=9).values()]
    file = as_onnx(Together(networks, kind), example, list(random_examples(1)))
    ask = Network(file)
    now, k = np.array([[0, 20]]), np.array([20], dtype=np.int16)
    for count in (1, 2, 3, 777):
        given = random_examples(count, 3, seed=count)
        found, each = ask(given), [answer(network, given) for network in networks]
        tail = found.shape[3:]
        assert found.shape == (count, 3, 2, *((3, 6) if kind == "mixture" else (41,)))
        if kind == "categorical":
            np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-5, atol=1e-5)
        many = [np.repeat(part, count, axis=0) for part in (now, k)]
        joined = shared.distributions([found.reshape(count, 3, 2, -1)], kind, *many)
        alone = [shared.distributions([one.reshape(count, 3, 2, -1)], kind, *many) for one in each]
        np.testing.assert_allclose(joined, np.mean(alone, axis=0), atol=1e-5)
        assert tail
    assert b".py" not in file  # the exporter notes where the source lies, and its lines


def test_rows_do_not_ask_what_others_there_are() -> None:
    """Nearly the same answer for the first rows of many and for these alone, in onnxruntime."""
    model = load_model(make.FOLDER / "stid")
    assert isinstance(model, Stid)
    (first, *_) = model._networks
    given = watched(model)
    make.forecasts(model)
    whole = first(given[0])
    for count in (1, 2, 3, len(make.panel().stations)):
        part = first({name: values[:count] for name, values in given[0].items()})
        np.testing.assert_allclose(part, whole[:count], rtol=1e-5, atol=1e-6)


def test_every_horizon_is_answered_as_if_it_were_asked_alone() -> None:
    need_torch()
    network, given = random_network(), random_examples(6, 3)
    for name in ("slots", "days"):
        given[name][:, :, 0] = given[name][:, :1, 0]  # horizons share their origin
    together = answer(network, given)
    for horizon in range(3):
        one = {n: part if n in ("here", "station") else part[:, horizon : horizon + 1] for n, part in given.items()}
        np.testing.assert_allclose(answer(network, one)[:, 0], together[:, horizon], atol=1e-5)


def test_a_gap_is_not_a_nought_and_every_input_counts() -> None:
    need_torch()
    network, given = random_network(), random_examples(40)
    for name, part in given.items():
        part[:] = 0 if name in ("here", "there") else part[0]
    given["station"][:] = 1
    given["here"][1, 3] = np.nan
    given["station"][2] = 5
    given["slots"][3, 0, 0] += 1
    given["slots"][4, 0, 1] += 1
    given["days"][5, 0, 0] = (given["days"][5, 0, 0] + 1) % 8
    given["days"][6, 0, 1] = (given["days"][6, 0, 1] + 1) % 8
    given["here"][7, 4] = 1
    given["there"][8, 0, 3] = 1
    given["there"][9, 0, 0] = np.nan
    given["slots"] %= 24
    found = answer(network, given)
    for row in range(1, 10):
        assert abs(found[row] - found[0]).max() > 1e-4, row
    np.testing.assert_allclose(found[10:], np.broadcast_to(found[0], found[10:].shape), atol=1e-6)


def test_stations_are_hidden_in_training_alone() -> None:
    need_torch()
    import torch

    given = {name: np.repeat(part[:1], 2_000, axis=0) for name, part in random_examples(1).items()}
    given["station"][:] = 2
    network = random_network(station_dropout=0.25, dropout=0.0)
    told = answer(network, given)
    given["station"][:] = 5
    hidden = answer(network, given)
    assert abs(told - hidden).max() > 1e-3
    given["station"][:] = 2
    network.train()
    torch.manual_seed(0)
    mixed = answer(network, given)
    like_hidden = np.isclose(mixed, hidden, atol=1e-6).all(axis=(1, 2, 3, 4))
    like_told = np.isclose(mixed, told, atol=1e-6).all(axis=(1, 2, 3, 4))
    assert (like_hidden ^ like_told).all()
    assert like_hidden.mean() == pytest.approx(0.25, abs=0.04)


def test_a_station_never_seen_is_forecast_as_any_of_those_seen() -> None:
    """Half of the stations always gain two bikes, half lose two: who is not known may do either."""
    need_torch()
    import torch

    from velib_predictor.models.heads import distribution
    from velib_predictor.models.stid.fitting import StidFitting

    rows = 6_000
    station = np.arange(rows) % 6
    random = np.random.default_rng(0)
    told: list[npt.NDArray[Any]] = [
        random.normal(size=(rows, 1)).astype(np.float32),
        np.zeros((rows, 1, 1), dtype=np.float32),
        station,
        np.zeros((rows, 1, 2), dtype=np.int64),
        np.zeros((rows, 1, 2), dtype=np.int64),
        np.full((rows, 1, 1), 2, dtype=np.float32),
    ]
    now = np.full((rows, 1, 1), 10, dtype=np.float32)
    truth = now + np.where(station % 2 == 0, 2, -2)[:, None, None].astype(np.float32)
    came = Outcomes(now, truth, np.ones((rows, 1, 1), dtype=bool), np.full((rows, 1), 20, dtype=np.float32))
    settings = NetworkSettings(
        width=16, blocks=1, station_dropout=0.2, dropout=0.0, epochs=8, patience=8, batch=128, rate=0.02
    )
    fitting = StidFitting(told, came, 1, settings, TrainingSettings(), stations=6, slots=1)
    network, _ = fitting.fit(np.arange(rows), np.arange(rows), 0)

    def chances(who: int) -> list[float]:
        one = [torch.from_numpy(part[:1]) for part in told]
        one[2] = torch.tensor([who])
        with torch.no_grad():
            pmf = distribution(network(*one)[0], torch.full((1, 1), 10.0), torch.full((1, 1), 20.0), 21)[0, 0]
        return [float(pmf[8]), float(pmf[12])]

    assert chances(0) == pytest.approx([0, 1], abs=0.1)
    assert chances(1) == pytest.approx([1, 0], abs=0.1)
    assert chances(6) == pytest.approx([0.5, 0.5], abs=0.15)


# -- the model -----------------------------------------------------------------------------------------------


@pytest.fixture
def small() -> Iterator[None]:
    need_torch()
    with tiny_networks(rows=2_000, epochs=1, folds=1):
        yield


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("days", "slots"), [(5, 1), (8, 24), (15, 48)])
def test_the_time_of_day_is_learned_from_seven_days_on_and_finer_from_fourteen(days: int, slots: int) -> None:
    city = small_city(days=days)
    model = Stid(SPEC)
    until = datetime(2024, 10, 23, tzinfo=UTC) + timedelta(days=days)
    report = model.fit(city, until)
    assert model.slots == slots
    asked = watched(model)
    list(model.predict(city, city.ticks[[-40, -1]]))
    for place, given in zip((-40, -1), asked, strict=True):
        if slots == 1:
            assert not given["slots"].any()
            assert not given["days"].any()
            continue
        steps = SPEC.horizon_ticks
        local = local_time(city.ticks[place] + np.arange(99) * np.timedelta64(15, "m"), city.timezone)
        minute = local.minute.tolist()
        expected = [[minute[0] * slots // 1440, minute[at] * slots // 1440] for at in steps]
        assert given["slots"].tolist() == [expected] * len(city.stations)
        assert given["slots"].any()
    assert days <= report.details["days"] <= days + 1  # the last one begins an hour or two before the end, in Paris
    assert ("minute_of_day" in model.builders[0].names) == (slots > 1)


def test_a_station_that_training_did_not_see_is_asked_about_as_unknown() -> None:
    """Each station by its number in training, wherever it stands in the panel."""
    model = load_model(make.FOLDER / "stid")
    assert isinstance(model, Stid)
    asked = watched(model)
    wider = selected(with_new_station(make.panel()), np.array([5, 2, 0]))
    list(model.predict(wider, wider.ticks[-1:]))
    assert asked[0]["station"].tolist() == [5, 5, 2, 2, 0, 0]  # two horizons each


@pytest.mark.usefixtures("small")
def test_what_is_never_published_is_no_warning_and_asks_nothing_of_the_others(panel: Panel) -> None:
    """A system without e-bikes; and a first one that appears later is forecast all the same."""
    observed = panel.observed.copy()
    observed[:, :, 2] = False
    counts = np.where(observed, panel.counts, -1).astype(np.int16)
    without = replace(panel, observed=observed, counts=counts)
    model = Stid(replace(SPEC, targets=("bikes", "ebikes")))
    model.fit(without, UNTIL)
    (forecast,) = model.predict(without, without.ticks[-1:])
    assert forecast.known[0, :, 0].any()
    assert not forecast.known[0, :, 1].any()
    (later,) = model.predict(panel, panel.ticks[-1:])
    known = later.known[0, :, 1]
    assert known.any()
    np.testing.assert_allclose(later.pmf[0, known][:, :, 1].sum(axis=-1), 1, atol=1e-5)


@pytest.mark.usefixtures("small")
def test_nothing_to_learn_from_is_too_little_history(panel: Panel) -> None:
    closed = replace(panel, open=np.zeros_like(panel.open))
    with pytest.raises(HistoryError, match="too little history to fit stid"):
        Stid(SPEC).fit(closed, UNTIL)


@pytest.mark.parametrize("minutes", [7, 0.5, 100, 2880])
def test_a_step_that_does_not_divide_the_day_is_refused(minutes: float) -> None:
    step = timedelta(minutes=minutes)
    with pytest.raises(UsageError, match="the model stid needs a step of whole minutes that divides a day"):
        Stid(ForecastSpec(step=step, horizons=(step,)))


def test_a_rule_is_learned() -> None:
    """Counts that swing with the time of day, with a bike more or less at random: the next hours are known."""
    need_torch()
    random = np.random.default_rng(0)
    hour = (np.arange(96 * 10) / 4)[:, None]
    bikes = np.rint(12 + 8 * np.sin((hour - random.uniform(0, 24, 12)) * np.pi / 12)).astype(np.int16)
    bikes += random.integers(-1, 2, bikes.shape).astype(np.int16)
    city = bare_panel(np.stack([bikes, bikes, 0 * bikes, 24 - bikes], axis=2), np.full(12, 24))
    settings = ModelSettings(stid=NetworkSettings(folds=1, epochs=15))
    model = Stid(ForecastSpec(horizons=(timedelta(hours=4),), targets=("bikes",)), settings)
    model.fit(city, UNTIL)
    places = np.arange(96 * 8 + 20, 96 * 9 + 20, 8)
    ours, still = [], []
    for place, forecast in zip(places, model.predict(city, city.ticks[places]), strict=True):
        truth = bikes[place + 16]
        ours.append(np.abs(forecast.median()[0, :, 0, 0] - truth).mean())
        still.append(np.abs(bikes[place] - truth).mean())
    assert np.mean(ours) < 1.5
    assert np.mean(still) > 5


def test_training_without_torch_is_refused_in_a_plain_sentence(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_torch(monkeypatch)
    with pytest.raises(UsageError, match=r"training stid needs torch and Lightning, and \w+ is not installed"):
        Stid(SPEC, tiny(rows=200)).fit(panel, UNTIL)


# -- keeping -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stid", "gnn", "champion"])
def test_an_old_artifact_loads_and_forecasts_what_it_did(name: str) -> None:
    model = load_model(make.FOLDER / name)
    assert (model.name, model.spec) == (name, make.SPEC)
    recorded = load_file(make.FOLDER / f"{name}.forecasts.safetensors")["pmf"]
    np.testing.assert_allclose(make.forecasts(model), recorded, atol=1e-5)
    assert recorded.shape[:4] == (len(make.PLACES), 5, 2, 1)
    other = disturbed(make.panel(), 96 * 8)
    (moved,) = model.predict(other, other.ticks[[make.PLACES[0]]])
    assert moved.pmf.shape != recorded[:1].shape or abs(moved.pmf - recorded[:1]).max() > 0.01


@pytest.mark.parametrize("name", ["stid", "gnn", "champion"])
def test_old_artifacts_are_small(name: str) -> None:
    assert sum(file.stat().st_size for file in (make.FOLDER / name).rglob("*") if file.is_file()) < 80_000


_SERVE = """
import sys
for name in ("torch", "torch_geometric", "lightning", "onnx", "onnxscript"):
    sys.modules[name] = None
from tests.test_models.artifacts import make
from velib_predictor.models.base import load_model
model = load_model(make.FOLDER / sys.argv[1])
first = make.forecasts(model)
from pathlib import Path
model.save(Path("again"))
assert make.forecasts(load_model(Path("again"))).tobytes() == first.tobytes()
sys.stdout.buffer.write(first.tobytes())
"""


@pytest.mark.parametrize("name", ["stid", "gnn", "champion"])
def test_serving_and_keeping_need_no_torch(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", _SERVE, name]
    found = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'src'}"},
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert found.stderr.decode() == ""
    assert found.returncode == 0
    assert found.stdout == make.forecasts(load_model(make.FOLDER / name)).tobytes()


@pytest.mark.parametrize("damage", [b"\x00" * 20, b"", None])
def test_a_damaged_network_is_refused(damage: bytes | None, tmp_path: Path) -> None:
    load_model(make.FOLDER / "stid").save(tmp_path)
    file = tmp_path / "network_1.onnx"
    file.unlink() if damage is None else file.write_bytes(damage)
    with pytest.raises(ArtifactError, match="damaged"):
        load_model(tmp_path)
