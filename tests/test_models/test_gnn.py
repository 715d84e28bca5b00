"""The GNN: what nodes are told, sparse against gathered against dense sums, ONNX against torch, and the forecaster."""

import sys
import warnings
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from tests.test_models.learned import hide_torch, need_torch, tiny, watched
from tests.test_models.panels import disturbed, selected, small_city, with_new_station
from velib_predictor.data.calendar import local_time
from velib_predictor.data.feature_engineering import FeatureBuilder
from velib_predictor.data.panel import BIKES, Panel
from velib_predictor.data.profiles import CHANGE
from velib_predictor.forecast.forecast import ForecastSpec
from velib_predictor.models.base import load_model
from velib_predictor.models.gnn.dataset import Signals, draw
from velib_predictor.models.gnn.graph_builder import Graph, correlation_graph, distance_graph
from velib_predictor.models.gnn.trainer import Gnn
from velib_predictor.models.network import Given
from velib_predictor.utils.errors import UsageError

need_torch(graph=True)

import torch  # noqa: E402

from velib_predictor.config.models import GnnSettings  # noqa: E402
from velib_predictor.models.fitting import Together  # noqa: E402
from velib_predictor.models.gnn.fitting import GnnFitting, csr  # noqa: E402
from velib_predictor.models.gnn.model import Gnn as Network  # noqa: E402
from velib_predictor.models.gnn.model import Learner, Neighbours  # noqa: E402
from velib_predictor.models.onnx_file import as_onnx  # noqa: E402

Floats = npt.NDArray[np.float32]
SPEC = ForecastSpec(
    horizons=tuple(timedelta(minutes=minutes) for minutes in (15, 60, 120, 360, 720)), targets=("bikes", "docks")
)
UNTIL = datetime(2024, 10, 30, tzinfo=UTC)
LAGS = (1, 4, 9)
NAMES = GnnFitting.names
NEIGHBOURS = GnnSettings().neighbours


@pytest.fixture(scope="module")
def city() -> Panel:
    """Station 6 has no position and stands still, so that nothing joins it with any other."""
    whole = small_city()
    counts, lat = np.array(whole.counts), whole.stations.lat.copy()
    counts[:, 6], lat[6] = (4, 2, 2, 9), np.nan
    return replace(whole, counts=counts, stations=replace(whole.stations, lat=lat))


@pytest.fixture(scope="module")
def model(city: Panel) -> Gnn:
    settings = tiny(rows=3_000, epochs=1, folds=2)
    made = Gnn(SPEC, settings.model_copy(update={"gnn": settings.gnn.model_copy(update={"stations": 4})}))
    made.fit(city, UNTIL)
    return made


# -- what nodes are told -------------------------------------------------------------------------------------


def signals_of(panel: Panel, usual: npt.NDArray[np.float64]) -> Signals:
    size = np.arange(10, 10 + len(panel.stations)).astype(np.float32)
    return Signals.of(panel, SPEC.channels, [usual, 2 * usual], size, LAGS)


def usual_of(panel: Panel) -> npt.NDArray[np.float64]:
    return np.random.default_rng(4).normal(size=(len(panel), len(panel.stations))).cumsum(axis=0)


def test_signals_equal_a_slow_reference_at_gaps_and_before_the_start(city: Panel) -> None:
    usual = usual_of(city)
    told = signals_of(city, usual)
    ticks = np.array([0, 3, 4, 8, 9, 200, 201, 330, len(city) - 1])
    found = told.at(ticks)
    assert found.shape == (len(city.stations), len(ticks), 2 * (1 + len(LAGS)))
    assert found.dtype == np.float32
    gaps = 0
    for station in range(len(city.stations)):
        for origin, tick in enumerate(ticks.tolist()):
            column = iter(found[station, origin].tolist())
            for channel, times in zip(SPEC.channels, (1, 2), strict=True):
                now = float(city.counts[tick, station, channel]) if city.observed[tick, station, channel] else np.nan
                assert next(column) == pytest.approx(now / (10 + station), abs=1e-6, nan_ok=True)
                for lag in LAGS:
                    known = tick >= lag and city.observed[tick - lag, station, channel]
                    change = now - city.counts[tick - lag, station, channel] if known else np.nan
                    beyond = change - times * (usual[tick, station] - usual[tick - lag, station])
                    share = np.clip(4 * beyond / (10 + station), -6, 6)
                    assert next(column) == pytest.approx(share, abs=1e-4, nan_ok=True)
                    gaps += not known
    assert gaps > 30


def test_windows_are_views_of_one_array(city: Panel) -> None:
    told = signals_of(city, usual_of(city))
    windows = told.windows  # [tick, station, channel, back]
    assert windows.shape == (len(city), len(city.stations), 2, LAGS[-1] + 1)
    assert np.shares_memory(windows, told.beyond)
    assert windows.strides[0] == windows.strides[3] == told.beyond.strides[0]
    assert told.beyond.nbytes < 1.1 * told.counts.nbytes


def test_signals_hold_nothing_after_their_origin_and_nothing_masked(city: Panel) -> None:
    usual = usual_of(city)
    later = disturbed(city, 301)
    ticks = np.array([40, 300, 301])
    one, other = signals_of(city, usual).at(ticks), signals_of(later, usual).at(ticks)
    assert one[:, :2].tobytes() == other[:, :2].tobytes()
    assert one[:, 2].tobytes() != other[:, 2].tobytes()
    filled = replace(city, counts=np.where(city.observed, city.counts, np.int16(17)))
    assert signals_of(filled, usual).at(ticks).tobytes() == one.tobytes()


# -- examples ------------------------------------------------------------------------------------------------


def test_examples_are_origins_with_some_stations_and_truths_that_may_be_learned_from(city: Panel) -> None:
    train = city.between(0, city.before(UNTIL))
    tick, station, horizon = draw(train, SPEC, 4_000, 3)
    assert 3_900 < len(tick) <= 4_000
    assert len(tick) % 3 == 0
    ahead = np.array(SPEC.horizon_ticks)[horizon]
    assert (tick + ahead < len(train)).all()
    assert np.bincount(horizon, minlength=5).min() > 600
    seen = train.observed[:, :, SPEC.channels].any(axis=2) & train.trusted
    assert (seen & train.open)[tick, station].all()
    assert seen[tick + ahead, station].all()
    ticks, stations = tick.reshape(-1, 3), station.reshape(-1, 3)
    assert (ticks == ticks[:, :1]).all()
    distinct = np.array([len(set(row)) for row in stations.tolist()])
    assert (distinct == 3).mean() > 0.9
    origins, often = np.unique(ticks[:, 0], return_counts=True)
    assert often.max() <= 3  # seven stations are two examples and a bit
    whole = 0
    for origin in origins[often > 1]:
        mine = stations[ticks[:, 0] == origin]
        whole += len(np.unique(mine[:2])) == 6  # of which the first two share nobody
    assert whole > 0.8 * (often > 1).sum()
    assert draw(train, SPEC, 4_000, 3)[1].tobytes() == station.tobytes()


def test_no_example_is_drawn_where_nothing_came(city: Panel) -> None:
    nothing = replace(city, trusted=np.zeros_like(city.trusted))
    assert [len(column) for column in draw(nothing, SPEC, 400, 3)] == [0, 0, 0]


# -- the network ---------------------------------------------------------------------------------------------

SIZES = {"signals": 5, "graphs": 2, "here": 4, "there": 3, "stations": 9, "slots": 24, "outputs": 2}
SETTINGS = GnnSettings(node_width=12, layers=2, width=16)


def graph_at_random(stations: int, neighbours: int, seed: int) -> Graph:
    """Some without neighbours, some with fewer; never themselves, nobody twice."""
    random = np.random.default_rng(seed)
    far = random.random((stations, stations))
    np.fill_diagonal(far, 2)
    near = np.argsort(far, axis=1)[:, :neighbours]
    weight = random.random(near.shape) * (random.random(near.shape) < 0.8)
    weight[0] = 0
    return Graph.of(np.where(np.take_along_axis(far, near, axis=1) < 2, near, -1), weight)


def dense(graph: Graph) -> npt.NDArray[np.float64]:
    found = np.zeros((len(graph.near), len(graph.near)))
    for station, (near, weight) in enumerate(zip(graph.near, graph.weight, strict=True)):
        for neighbour, share in zip(near.tolist(), weight.tolist(), strict=True):
            found[station, neighbour] += share
    return found


@pytest.mark.parametrize("stations", [2, 9, 60])
def test_sparse_gathered_and_dense_sums_are_the_same_and_so_are_their_gradients(stations: int) -> None:
    graph = graph_at_random(stations, 5, seed=stations)
    values = np.random.default_rng(0).normal(size=(stations, 7)).astype(np.float32)
    expected = dense(graph) @ values
    slopes = []
    for edges in (csr(graph), (torch.from_numpy(graph.near), torch.from_numpy(graph.weight))):
        given = torch.from_numpy(values).requires_grad_()
        found = Neighbours()(given, edges)
        np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-6)
        (found * torch.arange(7)).sum().backward()
        assert given.grad is not None
        slopes.append(given.grad.numpy())
    wanted = dense(graph).sum(axis=0)[:, None] * np.arange(7)
    np.testing.assert_allclose(slopes[0], wanted, atol=1e-5)
    np.testing.assert_allclose(slopes[1], wanted, atol=1e-5)


def given(stations: int, horizons: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Inputs at random: gaps, a node of which nothing is known, unknown stations."""
    random = np.random.default_rng(seed)

    def gaps(*shape: int) -> npt.NDArray[np.float32]:
        values = random.normal(size=shape).astype(np.float32)
        values[random.random(shape) < 0.2] = np.nan
        return values

    graphs = [graph_at_random(stations, 4, seed=seed + g) for g in range(SIZES["graphs"])]
    slot, day = random.integers(0, 24, (2, horizons)), random.integers(0, 8, (2, horizons))
    slot[0], day[0] = slot[0, 0], day[0, 0]  # all have the origin's
    parts: dict[str, npt.NDArray[np.generic]] = {
        "signals": gaps(stations, SIZES["signals"]),
        "near": np.stack([np.pad(g.near, ((0, 0), (0, 4 - g.near.shape[1]))) for g in graphs], axis=1),
        "weight": np.stack([np.pad(g.weight, ((0, 0), (0, 4 - g.weight.shape[1]))) for g in graphs], axis=1),
        "here": gaps(stations, SIZES["here"]),
        "there": gaps(stations, horizons, SIZES["there"]),
        "station": random.integers(0, SIZES["stations"] + 1, stations),
        "slots": np.broadcast_to(slot.T, (stations, horizons, 2)).copy(),
        "days": np.broadcast_to(day.T, (stations, horizons, 2)).copy(),
        "unit": random.uniform(0.1, 4, (stations, horizons, SIZES["outputs"])).astype(np.float32),
    }
    parts["signals"][-1] = np.nan
    assert tuple(parts) == NAMES
    return {name: torch.from_numpy(part) for name, part in parts.items()}


def trained_looking(seed: int = 1) -> Network:
    """A network whose head is no longer zero."""
    torch.manual_seed(seed)
    network = Network(**SIZES, settings=SETTINGS)
    torch.nn.init.normal_(network.stid.head.linear.weight, std=0.3)
    return network.eval()


def ask(network: Network, asked: dict[str, torch.Tensor]) -> Floats:
    with torch.no_grad():
        found: Floats = network(**asked).numpy()
    return found


def test_onnx_answers_as_torch_does() -> None:
    """Two networks in one file: their components side by side, each network with half the weight."""
    networks = [trained_looking(seed) for seed in (1, 2)]
    file = as_onnx(Together(networks, "mixture"), list(given(4, 3).values()), NAMES)
    session = onnxruntime.InferenceSession(file)
    for stations in (1, 2, 33, 200):
        asked = given(stations, 3, seed=stations)
        expected = np.concatenate([ask(network, asked) for network in networks], axis=-1)
        expected[..., 0, :] /= 2
        assert expected.shape == (stations, 3, 2, 3, 6)
        (found,) = session.run(None, {name: tensor.numpy() for name, tensor in asked.items()})
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_what_learns_is_the_network_that_is_served(model: Gnn, city: Panel) -> None:
    """Sparse sums of several origins at once and some of their stations, against gathered ones of each and all."""
    sights = [builder.fit(city) for builder in (FeatureBuilder(channel, 15) for channel in SPEC.channels)]
    told = Signals.of(city, SPEC.channels, [sight.change for sight in sights], sights[0].size, model.lags)
    stations, ticks = len(city.stations), np.array([40, 400, 401])
    signals = told.at(ticks)
    torch.manual_seed(3)
    sizes = {**SIZES, "signals": signals.shape[2], "stations": stations}
    network = Network(**sizes, settings=SETTINGS).eval()
    torch.nn.init.normal_(network.stid.head.linear.weight, std=0.3)
    asked = [given(stations, 3, seed=seed) for seed in range(3)]
    for origin, one in enumerate(asked):
        one["signals"] = torch.from_numpy(signals[:, origin].copy())
        one["station"] = torch.arange(stations)
        for name in ("near", "weight"):
            one[name] = torch.from_numpy(np.stack([getattr(graph, name) for graph in model.graphs], axis=1))
    some = torch.tensor([[0, 3, 5], [6, 1, 1], [2, 0, 4]])
    chosen = {n: torch.stack([one[n][few] for one, few in zip(asked, some, strict=True)]) for n in NAMES[3:]}
    learner = Learner(network, [csr(graph) for graph in model.graphs]).eval()
    with torch.no_grad():
        found = learner(torch.from_numpy(signals), **chosen).numpy()
    for origin, one in enumerate(asked):
        np.testing.assert_allclose(found[origin], ask(network, one)[some[origin]], rtol=1e-4, atol=1e-5)


def test_who_is_hidden_in_training_is_hidden_as_a_node_and_as_a_row() -> None:
    """All hidden: no embedding of a station but the last is asked, so that none of them learns."""
    network = Network(**SIZES, settings=SETTINGS.model_copy(update={"station_dropout": 0.999999}))
    torch.nn.init.normal_(network.stid.head.linear.weight, std=0.3)
    learner = Learner(network, [csr(graph_at_random(9, 4, seed)) for seed in (0, 1)]).train()
    asked = given(9, 2)
    asked["station"] = torch.arange(9)
    learner(asked["signals"][:, None], **{name: asked[name][None] for name in NAMES[3:]}).sum().backward()
    slope = network.stid.station.weight.grad
    assert slope is not None
    assert not slope[:9].any()
    assert slope[9].any()


def test_neighbours_are_heard_as_far_as_there_are_layers_and_no_others() -> None:
    """A chain: station n hears n - 1. Two layers: n - 2 is heard, n - 3 is not."""
    network, asked = trained_looking(), given(9, 2)
    asked["signals"] = torch.randn(9, SIZES["signals"], generator=torch.Generator().manual_seed(0))
    asked["near"] = (torch.arange(9) - 1).clamp(min=0)[:, None, None].expand(9, 2, 1).contiguous()
    asked["weight"] = torch.ones(9, 2, 1)
    asked["weight"][0] = 0
    before = ask(network, asked)
    asked["signals"][4] += 1
    moved = abs(ask(network, asked) - before).max(axis=(1, 2, 3, 4))
    assert (moved[4:7] > 1e-4).all()
    assert not moved[[0, 1, 2, 3, 7, 8]].any()


def test_what_is_not_known_of_neighbours_is_left_out_of_their_mean() -> None:
    """Station 0 hears 1 and 2: if nothing is known of 2, it is as if it heard 1 alone."""
    network, asked = trained_looking(), given(3, 2)
    asked["signals"] = torch.randn(3, SIZES["signals"], generator=torch.Generator().manual_seed(0))
    asked["signals"][2] = torch.nan
    asked["near"] = torch.tensor([1, 2]).expand(3, 2, 2).contiguous()
    asked["weight"] = torch.zeros(3, 2, 2)
    asked["weight"][0] = torch.tensor([0.5, 0.5])
    both = ask(network, asked)[0]
    asked["weight"][0] = torch.tensor([1.0, 0.0])
    np.testing.assert_allclose(ask(network, asked)[0], both, atol=1e-5)
    asked["weight"][0] = torch.tensor([0.0, 1.0])
    nothing = ask(network, asked)[0]
    assert abs(nothing - both).max() > 1e-3
    asked["weight"][0] = 0
    np.testing.assert_allclose(ask(network, asked)[0], nothing, atol=1e-5)  # as of who has no neighbours


def test_stations_in_another_order_get_the_same_answers() -> None:
    network, asked, order = trained_looking(), given(20, 3), torch.randperm(20, generator=torch.Generator())
    place = torch.argsort(order)
    shuffled = {name: part[order] for name, part in asked.items()}
    shuffled["near"] = place[shuffled["near"]]
    np.testing.assert_allclose(ask(network, shuffled), ask(network, asked)[order.numpy()], atol=1e-5)


def test_every_input_counts() -> None:
    network, asked = trained_looking(), given(6, 2)
    before = ask(network, asked)
    asked["signals"] = asked["signals"].nan_to_num(0.0)
    for name in NAMES:
        other = dict(asked)
        if asked[name].is_floating_point():
            other[name] = asked[name] * 1.5 + 0.1
        else:
            other[name] = (asked[name] + 1) % 6
        assert abs(ask(network, other) - ask(network, asked)).max() > 1e-4, name
    assert abs(ask(network, asked) - before).max() > 1e-4  # a gap is not a nought


def test_an_untrained_network_is_persistence_with_spread() -> None:
    asked = given(7, 3)
    with torch.no_grad():
        parameters = Network(**SIZES, settings=SETTINGS).eval()(**asked)
    assert (parameters[..., 1, :] == 0).all()
    assert (parameters[..., 2, :] > 0).all()


# -- the forecaster ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("minutes", "lags"), [(15, (1, 2, 4, 8, 16, 24)), (60, (1, 2, 4, 6)), (240, (1,))])
def test_lags_are_whole_ticks_each_once(minutes: int, lags: tuple[int, ...]) -> None:
    step = timedelta(minutes=minutes)
    made = Gnn(ForecastSpec(step, (step, 2 * step), ("bikes",)))
    assert made.lags == lags
    assert made.lookback >= made.lags[-1]


def asked_of(model: Gnn, panel: Panel, place: int) -> Given:
    """What the networks are asked with."""
    networks = model._networks
    noted = watched(model)
    next(model.predict(panel, panel.ticks[[place]]))
    model._networks = networks
    return noted[0]


def test_what_is_served_is_told_the_signals_of_the_whole_panel(model: Gnn, city: Panel) -> None:
    """Made from the last hours alone."""
    local_usual = []
    for builder in model.builders:
        sight = builder.sight(city, np.arange(len(city.stations)), 1)
        assert builder.profile is not None
        changes = builder.profile.at(local_time(city.ticks, city.timezone), np.arange(len(city.stations)))[CHANGE]
        local_usual.append(np.cumsum(changes, axis=0, dtype=np.float64))
    told = Signals.of(city, SPEC.channels, local_usual, sight.size, model.lags)
    for place in (5, 300, len(city) - 1):
        found = asked_of(model, city.between(0, place + 1), place)
        assert found.keys() == set(NAMES)
        np.testing.assert_allclose(found["signals"][:6], told.at(np.array([place]))[:6, 0], atol=2e-5)
        assert found["there"].shape[:2] == (len(city.stations), len(SPEC.horizons))


def test_the_graphs_are_of_training_alone(model: Gnn, city: Panel) -> None:
    train = disturbed(city, city.before(UNTIL)).between(0, city.before(UNTIL))
    seen = np.ones(len(city.stations), dtype=bool)
    wanted = distance_graph(train.stations, NEIGHBOURS, seen), correlation_graph(train, BIKES, NEIGHBOURS)
    for one, other in zip(model.graphs, wanted, strict=True):
        assert one.near.tobytes() == other.near.tobytes()
        assert one.weight.tobytes() == other.weight.tobytes()
    longer = correlation_graph(city, BIKES, NEIGHBOURS)
    assert model.graphs[1].weight.tobytes() != longer.weight.tobytes()


def test_nothing_after_the_origin_is_read(model: Gnn, city: Panel) -> None:
    place = 500
    origin = city.ticks[[place]]
    forecast, moved = (next(model.predict(p, origin)) for p in (city, disturbed(city, place + 1)))
    assert forecast.pmf.tobytes() == moved.pmf.tobytes()
    assert forecast.pmf.tobytes() != next(model.predict(disturbed(city, place - 40), origin)).pmf.tobytes()


def test_a_station_joined_with_no_other_hears_nobody_and_is_heard_by_nobody(model: Gnn, city: Panel) -> None:
    found = asked_of(model, city, 600)
    assert not found["weight"][6].any()
    assert not (found["weight"] > 0)[found["near"] == 6].any()
    assert (found["weight"][:6].sum(axis=2) > 0).any(axis=1).all()
    forecast = next(model.predict(city, city.ticks[[600]]))
    np.testing.assert_allclose(forecast.pmf[0, 6].sum(axis=-1), 1, atol=1e-5)


def test_a_new_station_hears_the_nearest_as_one_unknown(model: Gnn, city: Panel) -> None:
    wider = with_new_station(city)
    lat, lon = wider.stations.lat.copy(), wider.stations.lon.copy()
    lat[-1], lon[-1] = lat[2] + 1e-4, lon[2]
    wider = replace(wider, stations=replace(wider.stations, lat=lat, lon=lon))
    found, before = asked_of(model, wider, 600), asked_of(model, city, 600)
    assert found["station"].tolist() == [*range(7), 7]
    assert (found["near"][7][:, 0] == 2).all()
    np.testing.assert_array_equal(found["near"][:7], before["near"])
    np.testing.assert_array_equal(found["weight"][:7], before["weight"])
    some = selected(wider, np.array([7, 2, 0]))
    fewer = asked_of(model, some, 600)
    assert fewer["station"].tolist() == [7, 2, 0]
    assert (fewer["near"][0][:, 0] == 1).all()


def test_training_without_torch_geometric_is_refused_in_a_plain_sentence(city: Panel) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] == "torch_geometric"]:
            patch.delitem(sys.modules, name)
        for part in ("fitting", "model"):
            patch.delitem(sys.modules, f"velib_predictor.models.gnn.{part}")
        patch.setitem(sys.modules, "torch_geometric", None)
        with pytest.raises(UsageError, match=r"training gnn needs torch .*, and torch_geometric is not installed"):
            Gnn(SPEC).fit(city, UNTIL)


def test_a_saved_model_forecasts_the_same_bit_for_bit(model: Gnn, city: Panel, tmp_path: Path) -> None:
    model.save(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"metadata.json", "state.safetensors", "network_0.onnx"}
    loaded = Gnn.load(tmp_path)
    for one, other in zip(*(m.predict(city, city.ticks[[40, 600]]) for m in (model, loaded)), strict=True):
        assert one.pmf.tobytes() == other.pmf.tobytes()


def test_torch_is_not_needed_to_serve(model: Gnn, city: Panel, tmp_path: Path) -> None:
    model.save(tmp_path)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        hide_torch(patch)
        loaded = load_model(tmp_path)
        assert next(loaded.predict(city, city.ticks[[600]])).known.any()
