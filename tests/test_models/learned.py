"""Small learned models: made in seconds where torch is, skipped with the reason where it is not."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

LEARNED = ("stid", "lstm", "champion")
"""Models that are fitted with torch; served without it."""


def need_torch() -> None:
    """Skip the test where networks cannot be trained."""
    for module in ("torch", "lightning", "onnx", "onnxscript"):
        pytest.importorskip(module, reason=f"{module} is not installed (`make setup-deep`): no network is trained here")


@contextmanager
def tiny_networks(rows: int = 4_000, epochs: int = 2, folds: int = 3) -> Iterator[None]:
    """Inside, networks are fitted that are good for little."""
    from velib_predictor.models.stid import fitting

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("velib_predictor.models.network.NetworkModel.most_rows", rows)
        patch.setattr("velib_predictor.models.network.NetworkModel.epochs", epochs)
        patch.setattr("velib_predictor.models.network.FOLDS", folds)
        patch.setattr(fitting, "SMALL", {"width": 8, "blocks": 1, "station_width": 2, "time_width": 2})
        yield
