"""The chain always answers: from the model, else from what is usual, else from what was last seen; and says which."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tests.test_models.panels import bare_panel, small_city, with_new_station
from velib_predictor.data.panel import BIKES, DOCKS, EBIKES, MECHANICAL, MISSING, Panel
from velib_predictor.forecast.forecast import TARGETS, Forecast, ForecastSpec
from velib_predictor.inference.chain import Chain, Link
from velib_predictor.inference.issue import TRUST, Source
from velib_predictor.models.base import Forecaster, forecaster
from velib_predictor.models.coldstart.trainer import ColdStart

SPEC = ForecastSpec(horizons=(timedelta(minutes=15), timedelta(hours=2)))
B, M, E, D = range(4)
"""Targets."""


@pytest.fixture(scope="module")
def city() -> Panel:
    return small_city()


def fitted(name: str, panel: Panel, spec: ForecastSpec = SPEC) -> Forecaster:
    model = forecaster(name)(spec)
    model.fit(panel, datetime(2024, 10, 30, tzinfo=UTC))
    return model


@pytest.fixture(scope="module")
def model(city: Panel) -> Forecaster:
    return fitted("persistence_delta", city)


@pytest.fixture(scope="module")
def usual(city: Panel) -> Forecaster:
    return fitted("climatology", city)


def links(model: Forecaster, usual: Forecaster) -> tuple[Link, Link]:
    return Link(Source.MODEL, model), Link(Source.CLIMATOLOGY, usual)


def blinded(panel: Panel, *stations: int, ticks: int = 1, channels: tuple[int, ...] = (0, 1, 2, 3)) -> Panel:
    """The panel of which these stations were not observed at the last ticks."""
    counts, observed = panel.counts.copy(), panel.observed.copy()
    for station in stations:
        for channel in channels:
            counts[-ticks:, station, channel], observed[-ticks:, station, channel] = MISSING, False
    return replace(panel, counts=counts, observed=observed, open=panel.open & observed[:, :, BIKES])


def assert_parts(mixed: Forecast, source: np.ndarray, link: Source, part: Forecast) -> None:
    """What came from a link is what it says, bit for bit; above its own K nothing."""
    size = part.pmf.shape[-1]
    for station, target in zip(*np.nonzero(source == link), strict=True):
        np.testing.assert_array_equal(mixed.pmf[0, station, :, target, :size], part.pmf[0, station, :, target])
        assert not mixed.pmf[0, station, :, target, size:].any()


def test_each_station_and_target_has_the_first_link_that_knows_it(
    city: Panel, model: Forecaster, usual: Forecaster
) -> None:
    panel = blinded(city, 2, 5)
    mixed, source = Chain(SPEC, links(model, usual)).forecast(panel)
    said, said_usual = (next(one.predict(panel, panel.ticks[-1:])) for one in (model, usual))
    assert source.dtype == np.uint8
    assert (source[[2, 5]] == Source.CLIMATOLOGY).all()
    for station, target in np.ndindex(source.shape):
        expected = (
            Source.MODEL if said.known[0, station, target]
            else Source.CLIMATOLOGY if said_usual.known[0, station, target]
            else Source.NONE
        )  # fmt: skip
        assert source[station, target] == expected
    assert (source[0] == Source.MODEL).all()
    assert (source[1, [M, E]] == Source.NONE).all()  # it never publishes them
    assert (source[4, D]) == Source.NONE
    # Only where the links of one station differ may the order have moved its e-bikes and mechanical bikes.
    alone = np.where((source == source[:, :1]).all(axis=1)[:, None], source, Source.NONE)
    assert {Source.MODEL, Source.CLIMATOLOGY} < set(alone.ravel().tolist())
    for link, part in ((Source.MODEL, said), (Source.CLIMATOLOGY, said_usual)):
        assert_parts(mixed, alone, link, part)
        assert_parts(mixed, source[:, [B]], link, part)
    total = mixed.pmf[0].sum(axis=-1).swapaxes(1, 2)  # [station, target, horizon]
    np.testing.assert_allclose(total[source != Source.NONE], 1, atol=1e-5)
    np.testing.assert_array_equal(mixed.known[0], source != Source.NONE)
    assert (mixed.k[0] >= np.maximum(said.k[0], said_usual.k[0])).all()
    assert mixed.model == "persistence_delta"


def test_where_the_model_knows_all_it_is_the_models_forecast(city: Panel, model: Forecaster, usual: Forecaster) -> None:
    panel = city.between(0, len(city) - 50)
    whole = [n for n in range(len(panel.stations)) if panel.observed[-1, n].all()]
    panel = replace(panel, observed=np.ones_like(panel.observed), counts=np.maximum(panel.counts, 0))
    mixed, source = Chain(SPEC, links(model, usual)).forecast(panel)
    said = next(model.predict(panel, panel.ticks[-1:]))
    assert whole
    assert (source == Source.MODEL).all()
    assert_parts(mixed, source, Source.MODEL, said)


def test_what_was_last_seen_within_a_day_is_the_end_of_the_chain(city: Panel, model: Forecaster) -> None:
    """Without climatology: station 3 was seen 95 ticks ago, station 5 not for a day."""
    panel = city.between(0, len(city) - 20)
    panel = replace(panel, observed=panel.counts != MISSING)
    panel = blinded(blinded(panel, 3, ticks=95), 5, ticks=97)
    seen = panel.counts[:, 3][panel.observed[:, 3, BIKES]][-1]
    mixed, source = Chain(SPEC, [Link(Source.MODEL, model)]).forecast(panel)
    assert (source[3] == Source.PERSISTENCE).all()
    assert (source[5] == Source.NONE).all()
    assert not mixed.known[0, 5].any()
    assert not mixed.pmf[0, 5].any()
    for target, channel in enumerate((BIKES, MECHANICAL, EBIKES, DOCKS)):
        np.testing.assert_array_equal(mixed.pmf[0, 3, :, target].argmax(axis=-1), seen[channel])
        np.testing.assert_array_equal(mixed.pmf[0, 3, :, target].max(axis=-1), 1)


def test_the_day_counts_from_the_origin_to_the_tick(city: Panel) -> None:
    chain = Chain(SPEC, [])
    assert chain.lookback == 96
    panel = replace(city, observed=city.counts != MISSING)
    for silent, source in ((96, Source.PERSISTENCE), (97, Source.NONE)):
        found = chain.forecast(blinded(panel, 6, ticks=silent))[1]
        assert (found[6] == source).all()


def test_a_chain_without_links_is_persistence(city: Panel) -> None:
    panel = city.between(0, len(city) - 50)
    mixed, source = Chain(SPEC, []).forecast(panel)
    same = fitted("persistence", city)
    said = next(same.predict(panel, panel.ticks[-1:]))
    assert mixed.model == "persistence"
    there = said.known[0]
    assert (source[there] == Source.PERSISTENCE).all()
    np.testing.assert_array_equal(mixed.median()[0].swapaxes(1, 2)[there], said.median()[0].swapaxes(1, 2)[there])


def test_the_answer_has_the_models_name_or_that_of_what_stands_in(
    city: Panel, model: Forecaster, usual: Forecaster
) -> None:
    assert Chain(SPEC, links(model, usual)).forecast(city)[0].model == "persistence_delta"
    assert Chain(SPEC, links(model, usual)[1:]).forecast(city)[0].model == "climatology"


def test_a_never_seen_station_is_forecast_as_far_as_anything_is_known(
    city: Panel, model: Forecaster, usual: Forecaster
) -> None:
    panel = city.between(0, len(city) - 50)
    chain = Chain(SPEC, links(model, usual))
    seen = with_new_station(panel)
    assert (chain.forecast(seen)[1][-1] == Source.MODEL).all()
    silent = with_new_station(panel, silent=True)
    mixed, source = chain.forecast(silent)
    assert (source[-1] == Source.NONE).all()  # not even its size is known
    sized = replace(silent, capacity=np.where(np.arange(8) == 7, 20, silent.capacity).astype(np.int16))
    mixed, source = chain.forecast(sized)
    assert (source[-1] == Source.CLIMATOLOGY).all()
    assert mixed.k[0, -1] == 20


def test_a_model_without_ebikes_leaves_them_to_the_next(city: Panel, usual: Forecaster) -> None:
    """Fitted on a history without them: the source says so target by target, and the order is kept."""
    poor = blinded(city, *range(7), ticks=len(city), channels=(EBIKES, MECHANICAL))
    model = fitted("climatology", poor)
    panel = city.between(0, len(city) - 50)
    chain = Chain(SPEC, [Link(Source.MODEL, model), Link(Source.CLIMATOLOGY, usual)])
    mixed, source = chain.forecast(panel)
    expected = np.tile([Source.MODEL, Source.CLIMATOLOGY, Source.CLIMATOLOGY, Source.MODEL], (7, 1))
    expected[1, [M, E]] = expected[4, D] = Source.NONE  # they never told these
    np.testing.assert_array_equal(source, expected)
    assert_ordered(mixed)


def assert_ordered(forecast: Forecast) -> None:
    cdf, known = forecast.cdf()[0], forecast.known[0]
    for part in (M, E):
        both = known[:, B] & known[:, part]
        assert both.any()
        assert (cdf[both][:, :, part] >= cdf[both][:, :, B] - 1e-6).all()


def test_ebikes_never_exceed_bikes_whichever_links_they_come_from(
    city: Panel, model: Forecaster, usual: Forecaster
) -> None:
    """At the last tick one tells its bikes alone, another its e-bikes alone: bikes and e-bikes from different links."""
    panel = replace(city, observed=city.counts != MISSING).between(0, len(city) - 50)
    panel = blinded(panel, 2, channels=(EBIKES, MECHANICAL))
    panel = blinded(panel, 5, channels=(BIKES,))
    panel.counts[-1, 2, BIKES], panel.counts[-1, 5, EBIKES] = 0, 9
    mixed, source = Chain(SPEC, links(model, usual)).forecast(panel)
    assert source[2].tolist() == [Source.MODEL, Source.CLIMATOLOGY, Source.CLIMATOLOGY, Source.MODEL]
    assert source[5].tolist() == [Source.CLIMATOLOGY, Source.MODEL, Source.MODEL, Source.MODEL]
    assert_ordered(mixed)


def test_ebikes_that_were_seen_before_the_bikes_left_are_not_more_than_these() -> None:
    """No link at all: 5 of 5 are electric; then 1 bike is left, and nobody says of what kind."""
    counts = np.zeros((2, 1, len(TARGETS)), dtype=np.int16)
    counts[0, 0], counts[1, 0] = (5, 0, 5, 5), (1, MISSING, MISSING, 9)
    panel = bare_panel(counts, np.array([10]), observed=counts != MISSING)
    mixed, source = Chain(SPEC, []).forecast(panel)
    assert (source == Source.PERSISTENCE).all()
    assert mixed.median()[0, 0, 0].tolist() == [1, 0, 1, 9]
    assert_ordered(mixed)


def test_the_lookback_is_the_longest_of_its_links_and_at_least_a_day(model: Forecaster) -> None:
    assert Chain(SPEC, [Link(Source.MODEL, model)]).lookback == 96

    class Thoughtful(type(model)):  # type: ignore[misc]
        lookback = 700

    assert Chain(SPEC, [Link(Source.MODEL, model), Link(Source.CLIMATOLOGY, Thoughtful(SPEC))]).lookback == 700
    hourly = ForecastSpec(timedelta(hours=1), (timedelta(hours=1),))
    assert Chain(hourly, []).lookback == 24


# -- the cold-start model ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cold() -> Forecaster:
    return ColdStart.ready(SPEC, "small", timedelta(minutes=15))


def test_the_cold_start_model_answers_before_what_is_usual(city: Panel, usual: Forecaster, cold: Forecaster) -> None:
    panel = blinded(city.between(0, len(city) - 50), 2)
    chain = Chain(SPEC, [Link(Source.COLDSTART, cold), Link(Source.CLIMATOLOGY, usual)])
    mixed, source = chain.forecast(panel)
    said = next(cold.predict(panel, panel.ticks[-1:]))
    assert mixed.model == "coldstart"
    np.testing.assert_array_equal(source == Source.COLDSTART, said.known[0])
    assert (source[2] == Source.CLIMATOLOGY).all()  # it is silent: nothing is known of it now
    assert (source[1, [M, E]] == Source.NONE).all()  # it never told these
    assert_parts(mixed, source[:, [B]], Source.COLDSTART, said)
    assert_ordered(mixed)


def test_a_station_that_is_new_to_the_model_is_left_to_the_cold_start_model(
    city: Panel, model: Forecaster, usual: Forecaster, cold: Forecaster
) -> None:
    panel = with_new_station(city.between(0, len(city) - 50))
    first, last = links(model, usual)
    mixed, source = Chain(SPEC, [first, Link(Source.COLDSTART, cold), last]).forecast(panel)
    assert (source[-1] == Source.COLDSTART).all()
    assert Source.COLDSTART not in source[:-1]
    assert mixed.model == "persistence_delta"
    assert_parts(mixed, source, Source.COLDSTART, next(cold.predict(panel, panel.ticks[-1:])))
    assert_parts(mixed, source[:, [B]], Source.MODEL, next(model.predict(panel, panel.ticks[-1:])))


def test_where_the_cold_start_model_fails_the_model_speaks_of_new_stations_itself(
    city: Panel, model: Forecaster, usual: Forecaster, cold: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = with_new_station(city.between(0, len(city) - 50))
    first, last = links(model, usual)
    chain = Chain(SPEC, [first, Link(Source.COLDSTART, cold), last])

    def failing(_self: ColdStart, _seen: Panel) -> Forecast:
        raise RuntimeError("no weights")

    monkeypatch.setattr(ColdStart, "_predict", failing)
    assert (chain.forecast(panel)[1][-1] == Source.MODEL).all()
    assert chain.trouble == "the model coldstart failed (RuntimeError)"


def test_the_cold_start_model_is_not_asked_where_the_model_has_said_everything(
    city: Panel, model: Forecaster, cold: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs as much as a model, and in the rule there is nothing left to say."""
    asked: list[Panel] = []
    predict = ColdStart._predict

    def watched(self: ColdStart, seen: Panel) -> Forecast:
        asked.append(seen)
        return predict(self, seen)

    monkeypatch.setattr(ColdStart, "_predict", watched)
    chain = Chain(SPEC, [Link(Source.MODEL, model), Link(Source.COLDSTART, cold)])
    panel = city.between(0, len(city) - 50)
    chain.forecast(panel)
    assert not asked
    chain.forecast(with_new_station(panel))
    assert asked


def test_stored_numbers_keep_their_meaning_and_trust_has_an_order_of_its_own() -> None:
    assert {source.name: int(source) for source in Source} == {
        "MODEL": 0, "CLIMATOLOGY": 1, "PERSISTENCE": 2, "NONE": 3, "COLDSTART": 4,
    }  # fmt: skip
    assert sorted(TRUST) == sorted(Source)
    assert [source.name for source in TRUST] == ["MODEL", "COLDSTART", "CLIMATOLOGY", "PERSISTENCE", "NONE"]
