"""Small learned models: made in seconds where torch is, skipped with the reason where it is not."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

LEARNED = ("stid", "lstm", "gnn", "champion")
"""Models that are fitted with torch; served without it."""


def need_torch() -> None:
    """Skip the test where networks cannot be trained."""
    for module in ("torch", "lightning", "onnx", "onnxscript"):
        pytest.importorskip(module, reason=f"{module} is not installed (`make setup-deep`): no network is trained here")
    if find_spec("torch_geometric") is None:  # not imported here: that takes seconds, and only one model needs it
        pytest.skip("torch_geometric is not installed (`make setup-deep`): no network is trained here")


def hide_torch(patch: pytest.MonkeyPatch) -> None:
    """As where torch is not installed."""
    hidden = ("torch", "torch_geometric", "lightning", "onnx", "onnxscript")
    for name in list(sys.modules):
        if name.split(".")[0] in hidden:
            patch.delitem(sys.modules, name)
    for name in hidden:
        patch.setitem(sys.modules, name, None)
    for name in ("heads", "stid.fitting", "stid.model", "lstm.fitting", "lstm.model", "gnn.fitting", "gnn.model"):
        patch.delitem(sys.modules, f"velib_predictor.models.{name}", raising=False)


@contextmanager
def tiny_networks(rows: int = 4_000, epochs: int = 2, folds: int = 3) -> Iterator[None]:
    """Inside, networks are fitted that are good for little."""
    from velib_predictor.models.stid import fitting

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("velib_predictor.models.network.NetworkModel.most_rows", rows)
        patch.setattr("velib_predictor.models.network.NetworkModel.epochs", epochs)
        patch.setattr("velib_predictor.models.network.FOLDS", folds)
        sizes = {"width": 8, "blocks": 1, "station_width": 2, "time_width": 2}
        patch.setattr(fitting, "SMALL", sizes)
        patch.setattr("velib_predictor.models.gnn.trainer.Gnn.small", {"node_width": 4, **sizes})
        yield
