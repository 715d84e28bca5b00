"""The best forecast: right against brute force, calibrated on what happens, better than persistence."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from tests.test_simulation.small import START, city, engine, living, tiled, values
from velib_predictor.simulation.city import City
from velib_predictor.simulation.simulation import Counts, Simulation
from velib_predictor.simulation.truth import TARGETS, oracle, truth
from velib_predictor.training.metrics import rps

HORIZONS = [timedelta(minutes=m) for m in (15, 60, 180)]
Doubles = npt.NDArray[np.float64]
Probabilities = npt.NDArray[np.float32]


def forecast(
    of: Simulation, draws: int, horizons: list[timedelta] = HORIZONS, seed: int = 0
) -> npt.NDArray[np.float32]:
    shown: Counts = of.counts()
    return truth(of.city, of.now, shown.mechanical, shown.ebikes, shown.docks, horizons, draws, seed=seed)


def moments(pmf: Probabilities) -> tuple[Doubles, Doubles]:
    count = np.arange(pmf.shape[-1])
    mean = (pmf * count).sum(axis=-1)
    return mean, (pmf * count**2).sum(axis=-1) - mean**2


def test_it_is_a_distribution_within_capacity() -> None:
    pmf = forecast(living(), 40)
    capacity = city().stations.capacity
    assert pmf.shape == (30, 3, 4, capacity.max() + 1)
    assert pmf.dtype == np.float32
    assert pmf.min() >= 0
    np.testing.assert_allclose(pmf.sum(axis=-1), 1.0, atol=1e-5)
    beyond = np.arange(pmf.shape[-1]) > capacity[:, None]
    assert np.moveaxis(pmf, 0, 2)[..., beyond].max() == 0


def test_no_count_that_may_be_is_thought_impossible() -> None:
    simulation = living()
    pmf = forecast(simulation, 64, [timedelta(minutes=15)])
    bikes = simulation.counts().bikes
    near = [pmf[s, 0, 0, max(b - 2, 0) : b + 3] for s, b in enumerate(bikes) if b + 2 <= city().stations.capacity[s]]
    assert min(part.min() for part in near) > 1e-5


def test_the_same_question_has_the_same_answer() -> None:
    np.testing.assert_array_equal(forecast(living(), 20), forecast(living(), 20))
    assert not np.array_equal(forecast(living(), 20), forecast(living(), 20, seed=1))


def sleeping_city() -> City:
    """A city in which nobody rides before 7:00, so that nothing is hidden then."""
    whole = city()
    profile = whole.demand.profile * (np.arange(1440) >= 7 * 60)
    return replace(whole, demand=replace(whole.demand, profile=profile))


def test_it_agrees_with_brute_force() -> None:
    """Where nobody is under way, the true future simulated many times has the same distribution."""
    simulation = Simulation(sleeping_city(), START)
    draws, stations = 2_000, len(city())
    assert simulation.state.under_way == 0
    assert simulation.state.walkers.shape[1] == 0
    state = tiled(simulation.state, draws)
    futures = engine(simulation.city, state, seed=5, draws=draws)
    pmf = forecast(simulation, draws)
    mean, variance = moments(pmf)
    for index, horizon in enumerate(HORIZONS):
        futures.run(simulation.state.minute + horizon // timedelta(minutes=1))
        counts = np.stack([state.bikes.sum(axis=0), state.bikes[0], state.bikes[1], state.docks], axis=1)
        drawn = counts.reshape(draws, stations, len(TARGETS))
        chance = drawn.std(axis=0) * np.sqrt(2 / draws)  # of the difference of two means
        assert (abs(mean[:, index] - drawn.mean(axis=0)) < 5 * chance + 0.05).all()
        np.testing.assert_allclose(variance[:, index].sum(axis=0), drawn.var(axis=0).sum(axis=0), rtol=0.05)
        often = np.stack([(drawn == count).mean(axis=0) for count in range(pmf.shape[-1])], axis=-1)
        apart = np.abs(pmf[:, index] - often).sum(axis=-1) / 2  # total variation, [station, target]
        assert apart.mean() < 0.06


def test_the_oracle_is_brute_force() -> None:
    simulation = living()
    before = values(simulation.counts())
    draws = 300
    mean, _ = moments(oracle(simulation, [timedelta(hours=1)], draws))
    np.testing.assert_array_equal(values(simulation.counts()), before)
    state = tiled(simulation.state, draws)
    engine(city(), state, seed=5, draws=draws).run(simulation.state.minute + 60)
    drawn = state.docks.reshape(draws, len(city()))
    chance = drawn.std(axis=0) * np.sqrt(2 / draws)
    assert (abs(mean[:, 0, 3] - drawn.mean(axis=0)) < 5 * chance + 0.15).all()


def test_it_is_calibrated_and_beats_persistence() -> None:
    """A day and a half of origins: 90 % intervals hold what they say, the mean is right, and RPS is far better."""
    simulation = living()
    origins = [START + timedelta(minutes=80 * n) for n in range(28)]
    wanted = sorted({origin + horizon for origin in origins for horizon in [timedelta(0), *HORIZONS]})
    pmfs, oracles, seen = {}, {}, {}
    for at in wanted:
        simulation.advance(at)
        seen[at] = values(simulation.counts())
        if at in origins:
            pmfs[at] = forecast(simulation, 100)
            oracles[at] = oracle(simulation, HORIZONS, 100)
    pmf = np.stack([pmfs[origin] for origin in origins])  # [origin, station, horizon, target, count]
    happened = np.stack([np.stack([seen[o + h] for h in HORIZONS], axis=1) for o in origins])
    before = np.stack([seen[origin] for origin in origins])[:, :, None]
    cdf = pmf.cumsum(axis=-1)
    ours, persistence = rps(cdf, happened).mean(axis=(0, 1)), np.abs(before - happened).mean(axis=(0, 1))
    assert (ours < 0.85 * persistence).all()
    known = np.stack([oracles[origin] for origin in origins]).cumsum(axis=-1)
    assert (rps(known, happened).mean(axis=(0, 1)) < ours).all(), "who knows more does better"
    mean, _ = moments(pmf)
    assert abs((mean - happened).mean(axis=(0, 1))).max() < 0.35, "one city's days: nearby errors hang together"
    low, high = (np.argmax(cdf >= level, axis=-1) for level in (0.05, 0.95))
    covered = ((happened >= low) & (happened <= high)).mean(axis=(0, 1))
    assert ((covered > 0.88) & (covered < 0.99)).all()
    empty = pmf[..., 0].mean(axis=(0, 1)) - (happened == 0).mean(axis=(0, 1))
    assert abs(empty).max() < 0.03
