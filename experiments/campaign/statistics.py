"""Means, spreads and the interval of a difference of means of small samples."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

T_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t for 97.5 % and 1 to 30 degrees of freedom."""

NORMAL = 1.960


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation of a sample (n - 1), 0 of a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def half_width(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return half of Welch's 95 % interval of the difference of two means; None with fewer than two values on a side."""
    if min(len(first), len(second)) < 2:
        return None
    shares = [spread(values) ** 2 / len(values) for values in (first, second)]
    variance = sum(shares)
    if variance == 0:
        return 0.0
    degrees = variance**2 / sum(share**2 / (len(values) - 1) for share, values in zip(shares, (first, second)))
    place = math.floor(degrees) - 1
    return math.sqrt(variance) * (T_QUANTILES[max(place, 0)] if place < len(T_QUANTILES) else NORMAL)
