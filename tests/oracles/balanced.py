"""The cheapest balanced partition by trying all of them: for a handful of points."""

from __future__ import annotations

import itertools

import numpy as np


def cheapest_partition(costs: np.ndarray) -> float:
    """Return the least total of ``costs`` ``[k,n]`` over all partitions into sizes floor(n/k) and ceil(n/k)."""
    k, count = costs.shape
    sizes = {count // k, -(-count // k)}
    best = np.inf
    for choice in itertools.product(range(k), repeat=count):
        if set(np.bincount(choice, minlength=k).tolist()) <= sizes:
            best = min(best, float(costs[list(choice), np.arange(count)].sum()))
    return best
