"""Golden numbers from public data: Los-loop speeds with the T-GCN authors' own saved predictions.

207 loop detectors, 2016 ticks of five minutes, in mph; 12 ticks are seen and 3 forecast. Cut as T-GCN cuts it: the
first 80 % of the ticks for training, the rest for the test, and windows that lie wholly in their part. Its reader
stops one window early in each part, and 1167 = 3 * 389 rows of saved predictions say so. Predictions are saved in
mph, so its scaling by the greatest value undoes itself and does not appear here.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from velib_predictor.training import metrics

SEEN, AHEAD = 12, 3
Series = npt.NDArray[np.float64]


def read(folder: Path, name: str, header: int = 0) -> Series:
    file = folder / "losloop_tgcn" / name
    if not file.exists():
        pytest.skip(f"no {file.name} in the shared data")
    return np.loadtxt(file, delimiter=",", skiprows=header)


def windows(speeds: Series) -> tuple[Series, Series]:
    """What is seen, [window, tick, sensor], and what follows it."""
    starts = range(len(speeds) - SEEN - AHEAD)  # one fewer than would fit, as in T-GCN
    seen = np.stack([speeds[start : start + SEEN] for start in starts])
    ahead = np.stack([speeds[start + SEEN : start + SEEN + AHEAD] for start in starts])
    return seen, ahead


@pytest.fixture
def speeds(shared_data: Path) -> Series:
    """[tick, sensor], mph."""
    return read(shared_data, "los_speed.csv", header=1)


def check(prediction: Series, truth: Series, rmse: float, mae: float) -> None:
    everything = np.ones(truth.shape, dtype=np.bool_)
    assert round(metrics.rmse(truth, prediction, everything), 4) == rmse
    assert round(metrics.mae(truth, prediction, everything), 4) == mae


def test_the_scores_of_the_authors_predictions(speeds: Series, shared_data: Path) -> None:
    _, truth = windows(speeds[int(0.8 * len(speeds)) :])
    assert truth.shape == (389, 3, 207)
    prediction = read(shared_data, "tgcn_pre3_test_result.csv").reshape(truth.shape)
    check(prediction, truth, rmse=5.1264, mae=3.1802)


def test_the_scores_of_persistence(speeds: Series) -> None:
    seen, truth = windows(speeds[int(0.8 * len(speeds)) :])
    check(np.repeat(seen[:, -1:], AHEAD, axis=1), truth, rmse=5.5428, mae=3.1561)


def test_the_scores_of_one_linear_model_for_all_sensors(speeds: Series) -> None:
    """AR(12) with an intercept by least squares, one set of weights for each tick ahead."""

    def design(seen: Series) -> Series:
        lags = seen.transpose(0, 2, 1).reshape(-1, SEEN)  # [window x sensor, lag]
        return np.column_stack([lags, np.ones(len(lags))])

    split = int(0.8 * len(speeds))
    seen, ahead = windows(speeds[:split])
    weights, *_ = np.linalg.lstsq(design(seen), ahead.transpose(0, 2, 1).reshape(-1, AHEAD), rcond=None)
    seen, truth = windows(speeds[split:])
    prediction = (design(seen) @ weights).reshape(len(seen), -1, AHEAD).transpose(0, 2, 1)
    check(prediction, truth, rmse=5.3382, mae=3.0645)
