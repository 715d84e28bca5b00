"""The report's own arithmetic."""

import numpy as np
import pytest

from velib_predictor.evaluation.report import _central


@pytest.mark.parametrize(("share", "bins"), [(0.8, range(2, 18)), (0.9, range(1, 19))])
def test_the_central_share_counts_the_bins_between_the_tails(share: float, bins: range) -> None:
    assert _central(np.full(20, 5.0), share) == pytest.approx(share)
    for place in range(20):
        one = np.zeros(20)
        one[place] = 3.0
        assert _central(one, share) == float(place in bins)
    assert _central(np.zeros(20), share) is None
