"""NumPy's linear percentile from two order statistics, so that a framework need not sort on the host."""

from __future__ import annotations

import math

import numpy as np


def percentile_position(count: int, percent: float) -> tuple[int, float]:
    """Return the index (from 0) of the lower of the two neighbouring sorted values and the fraction towards the next."""
    position = percent / 100 * (count - 1)
    lower = min(max(math.floor(position), 0), count - 1)
    return lower, position - lower


def interpolate_percentile(lower: float, upper: float, fraction: float) -> np.float32:
    """Return the percentile as ``numpy.percentile`` computes it for float32 values, rounded to float32.

    NumPy subtracts in float32, scales in float64 and works from the nearer end; doing the same keeps ties exact.
    """
    low, high = np.float32(lower), np.float32(upper)
    difference = float(high - low)
    if fraction >= 0.5:
        return np.float32(float(high) - difference * (1 - fraction))
    return np.float32(float(low) + difference * fraction)
