"""Values of overlapping windows, summed or averaged in place, in arrays of NumPy and of PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

from common.arrays import Box
from common.prediction.sliding import join_windows

WINDOWS = [Box(0, 0, 2, 2), Box(0, 1, 2, 3), Box(0, 1, 2, 3)]


def zeros(kind: str, *shape: int):
    return np.zeros(shape, np.float32) if kind == "numpy" else pytest.importorskip("torch").zeros(shape)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_sums_and_means(kind):
    def values(window: Box):
        return zeros(kind, 1, 2, 2) + (1 + window.left)

    total = join_windows(WINDOWS, values, zeros(kind, 1, 2, 3), None)
    np.testing.assert_array_equal(total, [[[1, 5, 4]] * 2])
    mean = join_windows(WINDOWS, values, zeros(kind, 1, 2, 3), zeros(kind, 2, 3))
    np.testing.assert_allclose(mean, [[[1, 5 / 3, 2]] * 2])
