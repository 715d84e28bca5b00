"""Small learned models: made in seconds where torch is, skipped with the reason where it is not."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from velib_predictor.config.models import ModelSettings
from velib_predictor.models.base import MODELS
from velib_predictor.models.network import Floats, Given, Network, NetworkModel

LEARNED = ("stid", "lstm", "gnn", "champion")
"""Models that are fitted with torch; served without it."""


_TOOLS = ("torch", "lightning", "onnx", "onnxscript", "torch_geometric")


def can_be_fitted() -> list[str]:
    """The models that can be fitted with what is installed here."""
    able = all(find_spec(module) for module in _TOOLS)
    return [name for name in MODELS if able or name not in LEARNED]


def need_torch(*, graph: bool = False) -> None:
    """Skip the test where networks cannot be trained; `graph`: those of a graph."""
    for module in _TOOLS[:-1]:
        pytest.importorskip(module, reason=f"{module} is not installed (`make setup-deep`): no network is trained here")
    if graph and find_spec("torch_geometric") is None:  # not imported: that takes seconds
        pytest.skip("torch_geometric is not installed (`make setup-deep`): no graph network is trained here")


def hide_torch(patch: pytest.MonkeyPatch) -> None:
    """As where torch is not installed."""
    for name in list(sys.modules):
        if name.split(".")[0] in _TOOLS:
            patch.delitem(sys.modules, name)
    for name in _TOOLS:
        patch.setitem(sys.modules, name, None)
    ours = (f"{kind}.{part}" for kind in ("stid", "lstm", "gnn") for part in ("fitting", "model"))
    for name in ("heads", "fitting", "onnx_file", *ours):
        patch.delitem(sys.modules, f"velib_predictor.models.{name}", raising=False)


def tiny(rows: int = 4_000, epochs: int = 2, folds: int = 3, **champion: float) -> ModelSettings:
    """Settings of networks that are made in seconds and good for little; `champion`: its members."""
    sizes = {"width": 8, "blocks": 1, "station_width": 2, "time_width": 2}
    own = {"rows": rows, "epochs": epochs, "folds": folds, "small": sizes}
    said: dict[str, object] = {
        "stid": own,
        "lstm": {**own, "small": {**sizes, "hidden": 8}},
        "gnn": {**own, "small": {**sizes, "node_width": 4}},
    }
    if champion:
        said["champion"] = {"members": champion}
    return ModelSettings.model_validate(said)


class Watched:
    """A network that notes what it is asked with."""

    def __init__(self, network: Network) -> None:
        self.network, self.inputs, self.file = network, network.inputs, network.file
        self.asked: list[Given] = []

    def __call__(self, given: Given) -> Floats:
        self.asked.append(given)
        return self.network(given)


def watched(model: NetworkModel) -> list[Given]:
    """What the model's first network is asked with from now on; the others are not asked any more."""
    network = Watched(model._networks[0])
    model._networks = [network]  # type: ignore[list-item]
    return network.asked


@contextmanager
def tiny_networks(rows: int = 4_000, epochs: int = 2, folds: int = 3, **champion: float) -> Iterator[None]:
    """Inside, models are made with `tiny` settings where nothing else is said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("velib_predictor.models.base.DEFAULTS", tiny(rows, epochs, folds, **champion))
        yield
