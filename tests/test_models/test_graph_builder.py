"""Graphs of stations against slow references; nothing after the end of training, nobody their own neighbour."""

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from tests.test_models.panels import disturbed, selected, small_city, with_new_station
from velib_predictor.data.panel import BIKES, Panel, Stations
from velib_predictor.models.gnn.graph_builder import (
    REACH_M,
    Graph,
    correlation_graph,
    distance_graph,
    flow_graph,
)

Dense = npt.NDArray[np.float64]
TRAIN = 96 * 6


def dense(graph: Graph) -> Dense:
    """The graph as a matrix [station, station], by a loop."""
    found = np.zeros((len(graph.near), len(graph.near)))
    for station, (near, weight) in enumerate(zip(graph.near, graph.weight, strict=True)):
        for neighbour, share in zip(near.tolist(), weight.tolist(), strict=True):
            found[station, neighbour] += share
    return found


def strongest(weight: Dense, neighbours: int) -> Dense:
    """The greatest positive weights of each row off the diagonal, as shares; lower places first among equals."""
    found = np.zeros_like(weight)
    for station, row in enumerate(weight):
        others = sorted((-value, place) for place, value in enumerate(row) if place != station and value > 0)
        for value, place in others[:neighbours]:
            found[station, place] = -value
        if found[station].any():
            found[station] /= found[station].sum()
    return found


def scattered(count: int, seed: int) -> Stations:
    """Places around Paris; two at the same, one without a position."""
    random = np.random.default_rng(seed)
    lat, lon = random.uniform(48.8, 48.9, count), random.uniform(2.25, 2.42, count)
    lat[1], lon[1] = lat[2], lon[2]
    lat[4] = np.nan
    return Stations(tuple(map(str, range(count))), (None,) * count, (None,) * count, lat, lon)


def metres(one: int, other: int, stations: Stations) -> float:
    """The haversine formula, written out."""
    a, c = math.radians(stations.lat[one]), math.radians(stations.lat[other])
    b, d = math.radians(stations.lon[one]), math.radians(stations.lon[other])
    half = math.sin((c - a) / 2) ** 2 + math.cos(a) * math.cos(c) * math.sin((d - b) / 2) ** 2
    return 2 * 6_371_000 * math.asin(math.sqrt(half))


def well_formed(graph: Graph, neighbours: int) -> None:
    stations = len(graph.near)
    assert graph.near.shape == graph.weight.shape == (stations, neighbours)
    assert graph.near.dtype == np.int64
    assert graph.weight.dtype == np.float32
    assert (graph.weight >= 0).all()
    assert (graph.near[graph.weight == 0] == 0).all()
    total = graph.weight.sum(axis=1)
    np.testing.assert_allclose(total[total > 0], 1, rtol=1e-6)
    for station in range(stations):
        heard = graph.near[station, graph.weight[station] > 0].tolist()
        assert station not in heard
        assert len(set(heard)) == len(heard)


@pytest.mark.parametrize(("count", "neighbours"), [(40, 5), (6, 12)])
def test_distances_equal_a_slow_reference(count: int, neighbours: int) -> None:
    stations = scattered(count, seed=count)
    weight = np.zeros((count, count))
    for one in range(count):
        for other in range(count):
            if one != other and 4 not in (one, other):
                weight[one, other] = math.exp(-metres(one, other, stations) / REACH_M)
    graph = distance_graph(stations, neighbours)
    well_formed(graph, neighbours)
    np.testing.assert_allclose(dense(graph), strongest(weight, neighbours), atol=1e-6)
    assert not graph.weight[4].any()


def test_far_out_all_neighbours_still_weigh_something() -> None:
    """A hundred kilometres away exp(-d / reach) is nought in float32; relative to the nearest it is not."""
    lat = np.array([48.85, 48.86, 48.87, 50.0])
    stations = Stations(tuple("abcd"), (None,) * 4, (None,) * 4, lat, np.full(4, 2.35))
    assert distance_graph(stations, 2).weight[3].sum() == pytest.approx(1)


def test_only_candidates_are_neighbours() -> None:
    stations = scattered(12, seed=3)
    candidates = np.arange(12) % 3 == 0
    graph = distance_graph(stations, 4, candidates)
    heard = graph.weight > 0
    assert set(graph.near[heard].tolist()) == {0, 3, 6, 9}
    assert heard[5].any()  # who is none hears others all the same


@pytest.mark.parametrize("step", [1, 4])
def test_correlations_equal_those_of_numpy_over_common_ticks(step: int) -> None:
    """At 15 minutes, and at an hour."""
    city = small_city(days=6, stations=9)
    quiet = np.array(city.observed)
    quiet[:, 8] = False  # never observed
    quiet[96:, 7] = False  # too short a time
    city = replace(city, observed=quiet)
    if step > 1:
        cells = {name: getattr(city, name)[::step] for name in ("counts", "observed", "trusted", "open", "capacity")}
        city = replace(city, ticks=city.ticks[::step], step=city.step * step, **cells)
    hour = 4 // step
    use = city.observed[:, :, BIKES] & city.trusted
    weight = np.zeros((9, 9))
    for one in range(9):
        for other in range(9):
            both = [
                tick
                for tick in range(hour, len(city))
                if use[tick, one] and use[tick - hour, one] and use[tick, other] and use[tick - hour, other]
            ]
            moved = [
                [int(city.counts[tick, place, BIKES]) - int(city.counts[tick - hour, place, BIKES]) for tick in both]
                for place in (one, other)
            ]
            if len(both) >= 24 * hour:
                weight[one, other] = np.asarray(np.corrcoef(moved))[0, 1]
    graph = correlation_graph(city, BIKES, 3)
    well_formed(graph, 3)
    np.testing.assert_allclose(dense(graph), strongest(weight, 3), atol=1e-5)
    assert (weight[:7, :7] < 0).any()  # some are unlike: not neighbours
    assert not graph.weight[8].any()


def test_what_is_not_trusted_or_masked_is_not_read() -> None:
    city = small_city(days=6)
    whole = correlation_graph(city, BIKES, 4)
    unread = ~(city.observed[:, :, BIKES] & city.trusted)
    assert unread.mean() > 0.02
    for hidden, same in ((unread, True), (~unread, False)):
        counts = np.where(hidden[:, :, None], np.int16(50), city.counts)
        counts[::2] = np.where(hidden[::2, :, None], np.int16(0), counts[::2])
        other = correlation_graph(replace(city, counts=counts), BIKES, 4)
        assert (other.weight.tobytes() == whole.weight.tobytes()) == same


def test_stations_that_never_change_are_alike_to_nobody() -> None:
    city = small_city(days=4)
    counts = np.array(city.counts)
    counts[:, 2] = 3
    graph = correlation_graph(replace(city, counts=counts), BIKES, 4)
    well_formed(graph, 4)
    assert not graph.weight[2].any()
    assert 2 not in graph.near[graph.weight > 0]


def test_the_same_graph_each_time_and_of_training_alone() -> None:
    city = small_city()
    train = city.between(0, TRAIN)
    first = correlation_graph(train, BIKES, 4)
    later = correlation_graph(disturbed(city, TRAIN).between(0, TRAIN), BIKES, 4)
    assert first.near.tobytes() == later.near.tobytes()
    assert first.weight.tobytes() == later.weight.tobytes()
    assert first.weight.tobytes() != correlation_graph(disturbed(city, TRAIN - 96), BIKES, 4).weight.tobytes()


@pytest.mark.parametrize("neighbours", [3, 30])
def test_trips_equal_a_slow_count(neighbours: int) -> None:
    random = np.random.default_rng(5)
    start, end = random.integers(-1, 20, 3_000), random.integers(-1, 20, 3_000)
    start[start == 7] = 8  # nobody starts at 7 or ends there
    end[end == 7] = 8
    weight = np.zeros((20, 20))
    for a, b in zip(start.tolist(), end.tolist(), strict=True):
        if a >= 0 and b >= 0 and a != b:
            weight[a, b] += 1
            weight[b, a] += 1
    graph = flow_graph(start, end, 20, neighbours)
    well_formed(graph, neighbours)
    np.testing.assert_allclose(dense(graph), strongest(weight, neighbours), atol=1e-6)
    assert not graph.weight[7].any()


def test_no_trips_are_a_graph_without_edges() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    assert not flow_graph(nothing, nothing, 5, 3).weight.any()


def test_the_sparse_matrix_is_the_same_graph() -> None:
    graph = distance_graph(scattered(15, seed=2), 4)
    pointers, columns, values = graph.csr()
    found = np.zeros((15, 15))
    for station in range(15):
        row = slice(pointers[station], pointers[station + 1])
        assert (np.diff(columns[row]) > 0).all()
        found[station, columns[row]] = values[row]
    np.testing.assert_array_equal(found, dense(graph))


# -- other stations ------------------------------------------------------------------------------------------


def graph_of(city: Panel) -> Graph:
    return correlation_graph(city, BIKES, 3)


def test_stations_in_another_order_hear_the_same_ones() -> None:
    city = small_city(stations=9)
    graph, order = graph_of(city), np.random.default_rng(1).permutation(9)
    shuffled = selected(city, order)
    found = dense(graph.at(shuffled.stations.positions_in(city.stations.id), shuffled.stations))
    np.testing.assert_allclose(found, dense(graph)[np.ix_(order, order)], atol=1e-7)


def test_who_is_gone_is_heard_no_more_and_the_others_make_up_for_it() -> None:
    city = small_city(stations=9)
    graph, left = graph_of(city), np.array([0, 2, 3, 5, 8])
    fewer = selected(city, left)
    found = graph.at(fewer.stations.positions_in(city.stations.id), fewer.stations)
    well_formed(found, 3)
    whole = dense(graph)[np.ix_(left, left)]
    total = whole.sum(axis=1, keepdims=True)
    assert (total < 0.999).any()
    np.testing.assert_allclose(dense(found), np.divide(whole, total, where=total > 0, out=0 * whole), atol=1e-6)


def test_a_new_station_hears_the_nearest_and_nobody_hears_it() -> None:
    city = small_city(stations=9)
    wider = with_new_station(city)
    lat, lon = wider.stations.lat.copy(), wider.stations.lon.copy()
    lat[-1], lon[-1] = lat[4] + 0.0001, lon[4]
    stations = replace(wider.stations, lat=lat, lon=lon)
    graph = graph_of(city)
    found = graph.at(stations.positions_in(city.stations.id), stations)
    well_formed(found, 3)
    np.testing.assert_array_equal(dense(found)[:9, :9], dense(graph))
    assert not dense(found)[:, 9].any()
    assert found.near[9, np.argmax(found.weight[9])] == 4
    without = graph.at(wider.stations.positions_in(city.stations.id), wider.stations)
    assert not without.weight[9].any()  # no position
