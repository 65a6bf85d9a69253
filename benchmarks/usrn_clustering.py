"""``python -m benchmarks.usrn_clustering``: time and memory of balanced k-means for more and more points, made-up features.

Every size has the same number of rounds and clusters, so that what grows is the number of points alone. ``--full`` adds the
background of VOC 662 (1.4 million points, 132 clusters), a few rounds of it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

from benchmarks.harness import options, run_cases
from common.command_line import number, positive, run_command
from common.errors import CheckFailed

SIZES = (2_000, 6_000, 20_000, 60_000, 200_000)
FULL = 1_400_000
DIMENSIONS = 256


def main(arguments: list[str] | None = None) -> None:
    """Let all sizes run in turn and save times, memory and growth."""
    parser = options("usrn_clustering", "Time and memory of balanced k-means by number of points.", turns=1)
    parser.add_argument("--clusters", type=positive, default=132, help="default: 132, the background of VOC 662")
    parser.add_argument("--rounds", type=positive, default=5, help="rounds of every size (default: 5)")
    parser.add_argument(
        "--full", type=number(0, kind=int), default=0, metavar="ROUNDS", help="also 1.4 million points, so many rounds"
    )
    sizes = (*SIZES, FULL) if parser.parse_args(arguments).full else SIZES
    forms = {f"{size} points": lambda parsed, size=size: clustering(size, parsed) for size in sizes}
    figures = run_cases("usrn_clustering", {"k-means": forms}, parser, arguments)
    if figures:
        growth = figures["k-means"]["over_first"][f"{SIZES[-1]} points"]["cpu"]["median"]
        expected = SIZES[-1] * math.log(SIZES[-1]) / (SIZES[0] * math.log(SIZES[0]))
        print(f"{SIZES[-1] // SIZES[0]} times the points take {growth:.0f} times as long; n log n: {expected:.0f}")
        if growth > expected:
            raise CheckFailed(f"time grows faster than n log n: {growth / expected:.2f} times as fast")


def clustering(points: int, parsed: argparse.Namespace) -> Callable[[], Any]:
    """Return a function that runs the rounds: an exact assignment and new centres each."""
    from common.make_subclasses.balanced_kmeans import balanced_kmeans
    from common.rng import generator

    features, rounds = made_up(points), parsed.full if points == FULL else parsed.rounds
    return lambda: balanced_kmeans(
        features, parsed.clusters, generator(0, "benchmark"), max_rounds=rounds - 1, report=lambda *_: None
    )


def made_up(points: int):
    """Return int16 ``[points,256]``: 40 clouds of very unequal size, non-negative as features behind a ReLU are."""
    import numpy as np

    rng = np.random.default_rng(0)
    centers = np.maximum(rng.standard_normal((40, DIMENSIONS)), 0)
    clouds = rng.choice(40, points, p=rng.dirichlet(np.full(40, 0.7)))
    features = np.empty((points, DIMENSIONS), np.int16)
    for first in range(0, points, 8192):
        part = clouds[first : first + 8192]
        values = np.maximum(centers[part] + 0.6 * rng.standard_normal((len(part), DIMENSIONS)), 0)
        features[first : first + 8192] = np.minimum(1000 * values, 32767)
    return features


if __name__ == "__main__":
    raise SystemExit(run_command(main))
