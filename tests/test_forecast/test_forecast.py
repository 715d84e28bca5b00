"""The specification says what is allowed; one forecast's numbers agree, also across its targets."""

import json
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velib_predictor.forecast import pmf as algebra
from velib_predictor.forecast.forecast import DEFAULT_HORIZONS, TARGETS, Forecast, ForecastSpec
from velib_predictor.utils.errors import UsageError

MINUTE = timedelta(minutes=1)


def forecast(targets: tuple[str, ...] = TARGETS, seed: int = 0, size: int = 9) -> Forecast:
    """Random pmfs of two origins, three stations with different K, and two horizons."""
    random = np.random.default_rng(seed)
    spec = ForecastSpec(horizons=(15 * MINUTE, 30 * MINUTE), targets=targets)
    k = np.array([[size - 1, 4, 2], [size - 1, 4, 3]], dtype=np.int16)
    pmf = random.dirichlet(np.ones(size), size=(2, 3, 2, len(targets))).astype(np.float32)
    pmf = algebra.censor(pmf, np.broadcast_to(k[:, :, None, None], pmf.shape[:-1]))
    origins = np.array(["2024-11-05T08:00", "2024-11-05T08:15"], dtype="datetime64[s]")
    known = np.ones((2, 3, len(targets)), dtype=np.bool_)
    return Forecast(spec, "random", origins, ("a", "b", "c"), pmf, k, known)


# -- the specification -----------------------------------------------------------------------------------------


def test_the_default_is_the_documented_one() -> None:
    spec = ForecastSpec()
    assert spec.step == 15 * MINUTE
    assert [horizon // MINUTE for horizon in spec.horizons] == [
        15, 30, 45, 60, 90, 120, 180, 240, 360, 720, 1080, 1440
    ]  # fmt: skip
    assert spec.targets == ("bikes", "mechanical", "ebikes", "docks")
    assert spec.horizon_ticks == (1, 2, 3, 4, 6, 8, 12, 16, 24, 48, 72, 96)
    assert spec.channels == [0, 1, 2, 3]


def test_horizons_and_targets_are_put_in_order() -> None:
    spec = ForecastSpec(5 * MINUTE, (60 * MINUTE, 5 * MINUTE, 60 * MINUTE), ("docks", "bikes"))
    assert spec.horizons == (5 * MINUTE, 60 * MINUTE)
    assert spec.horizon_ticks == (1, 12)
    assert spec.targets == ("bikes", "docks")
    assert spec.channels == [0, 3]
    assert spec.target("docks") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": timedelta(0)}, "the step of a forecast must be positive, such as 15m"),
        ({"step": -MINUTE}, "the step of a forecast must be positive, such as 15m"),
        ({"horizons": ()}, "no horizon given; write them as 15m,30m,1h"),
        ({"horizons": (20 * MINUTE,)}, "the horizon 20m is no multiple of the step 15m"),
        ({"horizons": (timedelta(0),)}, "the horizon 0s is no multiple of the step 15m"),
        ({"targets": ()}, "no target given; there are: bikes, mechanical, ebikes, docks"),
        ({"targets": ("bikes", "cars")}, "unknown target 'cars'; there are: bikes, mechanical, ebikes, docks"),
    ],
)
def test_what_cannot_be_forecast_is_refused_with_what_can(arguments: dict[str, tuple[str]], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        ForecastSpec(**arguments)  # type: ignore[arg-type]
    assert str(raised.value) == message


def test_a_target_that_is_not_forecast_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError) as raised:
        ForecastSpec(targets=("bikes", "docks")).target("ebikes")
    assert str(raised.value) == "no target 'ebikes' in this forecast; there are: bikes, docks"


@given(
    step=st.integers(1, 120),
    ticks=st.lists(st.integers(1, 2000), min_size=1, max_size=6),
    targets=st.lists(st.sampled_from(TARGETS), min_size=1, max_size=4),
)
def test_a_specification_comes_back_from_json(step: int, ticks: list[int], targets: list[str]) -> None:
    spec = ForecastSpec(step * MINUTE, tuple(tick * step * MINUTE for tick in ticks), tuple(targets))
    again = ForecastSpec.from_dict(json.loads(json.dumps(spec.as_dict())))
    assert again == spec
    assert again.horizon_ticks == tuple(sorted(set(ticks)))


def test_a_specification_is_readable() -> None:
    assert ForecastSpec(horizons=DEFAULT_HORIZONS[3:5], targets=("bikes",)).as_dict() == {
        "step": "15m",
        "horizons": ["1h", "1h30m"],
        "targets": ["bikes"],
    }


# -- the forecast ----------------------------------------------------------------------------------------------


def test_all_that_is_asked_of_a_forecast_comes_from_its_pmf() -> None:
    made = forecast()
    shape = made.pmf.shape[:-1]
    assert made.cdf().shape == made.pmf.shape
    for answer in (made.mean(), made.median(), made.quantile(0.9), made.at_least(1)):
        assert answer.shape == shape
    assert (made.at_least(1) == 1 - made.pmf[..., 0]).all()
    assert (made.median() == made.quantile(0.5)).all()
    tails = sum(made.at_least(count) for count in range(1, made.pmf.shape[-1]))
    np.testing.assert_allclose(made.mean(), tails, atol=1e-5)
    assert (made.quantile(1.0) <= made.k[:, :, None, None]).all()


@pytest.mark.parametrize("seed", range(5))
def test_ordered_puts_bikes_above_both_kinds_and_moves_nothing_else(seed: int) -> None:
    made = forecast(seed=seed)
    before = made.pmf.copy()
    ordered = made.ordered()
    assert (made.pmf == before).all()
    assert (ordered.pmf[:, :, :, [0, 3]] == before[:, :, :, [0, 3]]).all()
    assert not np.allclose(ordered.pmf, before), "there was something to move"
    for count in range(before.shape[-1] + 1):
        tail = ordered.at_least(count)
        assert (tail[..., 1] <= tail[..., 0] + 1e-5).all()
        assert (tail[..., 2] <= tail[..., 0] + 1e-5).all()
    for q in (0.05, 0.5, 0.95):
        assert (ordered.quantile(q)[..., 1:3] <= ordered.quantile(q)[..., :1]).all()
    above = np.arange(before.shape[-1]) > made.k[:, :, None, None, None]
    assert (np.where(above, ordered.pmf, 0) == 0).all()
    np.testing.assert_allclose(ordered.pmf.sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(ordered.ordered().pmf, ordered.pmf, atol=1e-6)
    assert (ordered.spec, ordered.model, ordered.stations) == (made.spec, made.model, made.stations)


def test_ordering_asks_nothing_of_what_is_not_known() -> None:
    made = forecast()
    made.known[0, 0, 0] = False  # no bikes: its e-bikes have nothing to be compared with
    made.known[1, 1, 2] = False
    made.pmf[~np.broadcast_to(made.known[:, :, None, :], made.pmf.shape[:-1])] = 0
    ordered = made.ordered()
    assert (ordered.pmf[0, 0] == made.pmf[0, 0]).all()
    assert (ordered.pmf[1, 1, :, 2] == 0).all()
    everywhere = forecast().ordered()
    assert (ordered.pmf[1, 0] == everywhere.pmf[1, 0]).all()
    assert (ordered.pmf[1, 1, :, 1] == everywhere.pmf[1, 1, :, 1]).all()


@pytest.mark.parametrize("targets", [("bikes",), ("docks",), ("bikes", "docks"), ("mechanical", "ebikes")])
def test_without_a_pair_there_is_nothing_to_order(targets: tuple[str, ...]) -> None:
    made = forecast(targets)
    assert made.ordered() is made


def test_one_kind_alone_is_ordered_too() -> None:
    made = forecast(("bikes", "ebikes"), seed=3)
    both = forecast(seed=3)
    both.pmf[:, :, :, [0, 2]] = made.pmf
    assert (made.ordered().pmf == both.ordered().pmf[:, :, :, [0, 2]]).all()
