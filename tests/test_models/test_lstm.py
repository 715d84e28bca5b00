"""The LSTM: windows are views and right, nothing after the origin is read, what is served is what was trained."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from tests.test_models.learned import hide_torch, need_torch, tiny, watched
from tests.test_models.panels import disturbed, small_city
from velib_predictor.data.panel import CHANNELS, MISSING, Panel
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.models.base import load_model
from velib_predictor.models.lstm.dataset import draw, history, windows
from velib_predictor.models.lstm.trainer import Lstm

need_torch()

import torch  # noqa: E402

from velib_predictor.config.models import LstmSettings  # noqa: E402
from velib_predictor.models.fitting import Together  # noqa: E402
from velib_predictor.models.lstm.fitting import LstmFitting, windows_of  # noqa: E402
from velib_predictor.models.lstm.model import Lstm as Network  # noqa: E402
from velib_predictor.models.onnx_file import as_onnx  # noqa: E402

SPEC = ForecastSpec(
    horizons=tuple(timedelta(minutes=minutes) for minutes in (15, 60, 120, 360, 720)), targets=("bikes", "docks")
)
UNTIL = datetime(2024, 10, 30, tzinfo=UTC)
WINDOW = 8
BATCH = 64
NAMES = LstmFitting.names


@pytest.fixture(scope="module")
def city() -> Panel:
    return small_city()


@pytest.fixture(scope="module")
def lengths() -> list[int]:
    """Of the batches in training, filled by `model`."""
    return []


@pytest.fixture(scope="module")
def model(city: Panel, lengths: list[int]) -> Iterator[Lstm]:
    whole = Network._steps

    def counted(network: Network, window: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        if network.training:
            lengths.append(len(window))
        return whole(network, window, size)

    settings = tiny(rows=3000, epochs=1, folds=2)
    made = Lstm(SPEC, settings.model_copy(update={"lstm": settings.lstm.model_copy(update={"batch": BATCH})}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Network, "_steps", counted)
        made.fit(city, UNTIL)
        yield made


# -- windows -------------------------------------------------------------------------------------------------


def test_windows_equal_a_slow_reference_at_gaps_and_before_the_start(city: Panel) -> None:
    cut = windows(history(city, WINDOW), WINDOW)  # [station, tick, channel, back]
    assert cut.shape == (len(city.stations), len(city), len(CHANNELS), WINDOW)
    unknown = before = 0
    for station in range(len(city.stations)):
        for tick in (*range(WINDOW + 1), *range(WINDOW + 1, len(city), 13)):
            for back in range(WINDOW):
                at = tick - (WINDOW - 1) + back
                for channel in range(len(CHANNELS)):
                    known = at >= 0 and bool(city.observed[at, station, channel])
                    expected = city.counts[at, station, channel] if known else MISSING
                    assert cut[station, tick, channel, back] == expected
                    unknown += at >= 0 and not known
                    before += at < 0
    assert unknown > 100
    assert before > 100


def test_windows_of_all_origins_take_the_memory_of_one_array(city: Panel) -> None:
    past = history(city, WINDOW)
    cut, in_torch = windows(past, WINDOW), windows_of(past, WINDOW)
    assert np.shares_memory(cut, past)
    assert cut.strides[1] == cut.strides[3] == past.strides[1]  # one tick on is the same memory, one tick later
    assert in_torch.data_ptr() == past.__array_interface__["data"][0]
    assert in_torch.untyped_storage().nbytes() == past.nbytes
    np.testing.assert_array_equal(in_torch.numpy(), cut)


def test_what_stands_behind_a_mask_is_not_read(city: Panel) -> None:
    filled = replace(city, counts=np.where(city.observed, city.counts, np.int16(17)))
    np.testing.assert_array_equal(history(filled, WINDOW), history(city, WINDOW))


def test_a_window_holds_nothing_after_its_origin(city: Panel) -> None:
    cut = windows(history(city, WINDOW), WINDOW)
    other = windows(history(disturbed(city, 301), WINDOW), WINDOW)
    np.testing.assert_array_equal(cut[:, :301], other[:, :301])
    assert (cut[:, 301] != other[:, 301]).any()


def test_training_cuts_a_batch_at_a_time(model: Lstm, lengths: list[int]) -> None:
    assert model.report is not None
    assert len(lengths) > 10
    assert max(lengths) == BATCH  # of the windows that a network is given in training


# -- examples ------------------------------------------------------------------------------------------------


def test_examples_have_origins_and_truths_that_may_be_learned_from(city: Panel) -> None:
    train = city.between(0, city.before(UNTIL))
    tick, station, horizon = draw(train, SPEC, 4000, 4)
    assert len(tick) > 3000
    ahead = np.array(SPEC.horizon_ticks)[horizon]
    assert (tick + ahead < len(train)).all()
    seen = train.observed[:, :, SPEC.channels].any(axis=2) & train.trusted
    assert (seen & train.open)[tick, station].all()
    assert seen[tick + ahead, station].all()
    each = horizon.reshape(-1, 4)
    assert (tick.reshape(-1, 4) == tick[::4, None]).all()
    assert (station.reshape(-1, 4) == station[::4, None]).all()
    distinct = np.array([len(set(row)) for row in each.tolist()])
    assert (distinct == 4).mean() > 0.6  # the others lie near the end, or before gaps
    late = tick[::4] >= len(train) - SPEC.horizon_ticks[1]
    assert late.any()
    assert (distinct[late] == 1).all()
    assert np.bincount(horizon, minlength=5).min() > 400


def test_no_example_is_drawn_where_nothing_came(city: Panel) -> None:
    nothing = replace(city, trusted=np.zeros_like(city.trusted))
    assert [len(column) for column in draw(nothing, SPEC, 400, 4)] == [0, 0, 0]


# -- the network ---------------------------------------------------------------------------------------------


SIZES = {"channels": 4, "window": WINDOW, "patch": 2, "features": 5, "stations": 6, "slots": 24, "outputs": 2}
SETTINGS = LstmSettings(hidden=16, width=24)


def given(examples: int, horizons: int) -> list[torch.Tensor]:
    """What a network is asked with: gaps, unknown stations, all slots and days."""
    random = np.random.default_rng(0)
    features = random.normal(size=(examples, horizons, SIZES["features"])).astype(np.float32)
    features[random.random(features.shape) < 0.2] = np.nan
    parts: list[npt.NDArray[np.generic]] = [
        random.integers(-1, 20, (examples, SIZES["channels"], WINDOW)).astype(np.int16),
        random.integers(10, 40, examples).astype(np.float32),
        features,
        random.integers(0, SIZES["stations"] + 1, examples),
        random.integers(0, SIZES["slots"], (examples, horizons, 2)),
        random.integers(0, 8, (examples, horizons, 2)),
        random.uniform(0.1, 4, (examples, horizons, SIZES["outputs"])).astype(np.float32),
    ]
    return [torch.from_numpy(part) for part in parts]


def trained_looking(seed: int = 1) -> Network:
    """A network whose head is no longer zero."""
    torch.manual_seed(seed)
    network = Network(**SIZES, settings=SETTINGS)
    torch.nn.init.normal_(network.head.linear.weight, std=0.3)
    return network.eval()


def test_onnx_answers_as_torch_does() -> None:
    """Several networks in one file: their components side by side, each network with its share of the weight."""
    networks = [trained_looking(seed) for seed in (1, 2)]
    session = onnxruntime.InferenceSession(as_onnx(Together(networks, "mixture"), given(4, 3), NAMES))
    for examples in (1, 2, 33):
        asked = given(examples, 3)
        with torch.no_grad():
            one, other = (network(*asked).numpy() for network in networks)
        assert one.shape == (examples, 3, 2, 3, 3)
        (found,) = session.run(None, dict(zip(NAMES, (tensor.numpy() for tensor in asked), strict=True)))
        both = np.concatenate([one, other], axis=-1)
        both[..., 0, :] /= 2
        np.testing.assert_allclose(found, both, rtol=1e-5, atol=1e-5)


def test_steps_are_shares_relative_to_now_and_masks_patch_by_patch() -> None:
    asked = given(5, 1)
    window, size = asked[:2]
    steps = trained_looking()._steps(window, size).numpy()
    assert steps.shape == (5, 4, 16)
    counts = window.numpy().astype(float)
    for example in range(5):
        for tick in range(WINDOW):
            for channel in range(4):
                value, now = counts[example, channel, tick], counts[example, channel, -1]
                both = value >= 0 and now >= 0
                share = 4 * (value - now) / float(size[example]) if both else 0.0
                step, inside = divmod(tick, 2)
                assert steps[example, step, channel * 2 + inside] == pytest.approx(share, abs=1e-5)
                assert steps[example, step, 8 + channel * 2 + inside] == (value >= 0)


def test_an_untrained_network_is_persistence_with_spread() -> None:
    network = Network(**SIZES, settings=SETTINGS).eval()
    asked = given(7, 3)
    with torch.no_grad():
        parameters = network(*asked)
    assert (parameters[..., 1, :] == 0).all()
    assert (parameters[..., 2, :] > 0).all()


def test_every_horizon_is_answered_as_if_it_were_asked_alone() -> None:
    network = trained_looking()
    window, size, features, station, slot, day, unit = given(6, 3)
    slot[:, :, 0], day[:, :, 0] = slot[:, :1, 0], day[:, :1, 0]  # horizons share their origin
    with torch.no_grad():
        together = network(window, size, features, station, slot, day, unit)
        for h in range(3):
            one = slice(h, h + 1)
            alone = network(window, size, features[:, one], station, slot[:, one], day[:, one], unit[:, one])
            torch.testing.assert_close(alone[:, 0], together[:, h])


def test_history_moves_the_answer() -> None:
    network = trained_looking()
    asked = given(6, 3)
    with torch.no_grad():
        one = network(*asked)
        asked[0] = asked[0].flip(2)
        assert not torch.allclose(one, network(*asked))


# -- the forecaster ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("minutes", "patch"), [(5, 12), (15, 4), (30, 2), (60, 1), (120, 1)])
def test_a_step_of_the_lstm_is_an_hour_where_it_can_be(minutes: int, patch: int) -> None:
    step = timedelta(minutes=minutes)
    made = Lstm(ForecastSpec(step, (step, 2 * step), ("bikes",)))
    assert (made.patch, made.window) == (patch, 24 * patch)
    assert made.lookback >= made.window - 1
    assert made.together == 2


def test_what_is_served_is_told_the_windows_of_training(
    model: Lstm, city: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "_networks", model._networks)  # put back after
    asked = watched(model)
    past = windows(history(city, model.window), model.window)
    for place in (5, 300, len(city) - 1):
        next(model.predict(city, city.ticks[[place]]))
        assert asked[-1].keys() == set(NAMES)
        np.testing.assert_array_equal(asked[-1]["window"], past[:, place])
        assert asked[-1]["features"].shape[:2] == (len(city.stations), 5)


def test_nothing_after_the_origin_is_read(model: Lstm, city: Panel) -> None:
    place = 500
    origin = city.ticks[[place]]
    forecast, moved = (next(model.predict(p, origin)) for p in (city, disturbed(city, place + 1)))
    assert forecast.pmf.tobytes() == moved.pmf.tobytes()
    assert forecast.pmf.tobytes() != next(model.predict(disturbed(city, place - 40), origin)).pmf.tobytes()


def test_a_saved_model_forecasts_the_same_bit_for_bit(model: Lstm, city: Panel, tmp_path: Path) -> None:
    model.save(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"metadata.json", "state.safetensors", "network_0.onnx"}
    loaded = Lstm.load(tmp_path)
    assert loaded.lookback == model.lookback
    for one, other in zip(*(m.predict(city, city.ticks[[40, 600]]) for m in (model, loaded)), strict=True):
        assert one.pmf.tobytes() == other.pmf.tobytes()


def test_torch_is_not_needed_to_serve(model: Lstm, city: Panel, tmp_path: Path) -> None:
    model.save(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        hide_torch(patch)
        loaded = load_model(tmp_path)
        assert next(loaded.predict(city, city.ticks[[600]])).known.any()
