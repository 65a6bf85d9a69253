"""``python -m benchmarks.usrn_clustering``: time and memory of balanced k-means for more and more points, made-up features.

Each size runs in a process of its own, with the same number of rounds and clusters, so that what grows is the number of
points alone. ``--full`` adds the background of VOC 662 (1.4 million points, 132 clusters), a few rounds of it.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time

from common.command_line import run_command
from common.errors import CheckFailed
from common.paths import PROJECT

SIZES = (2_000, 6_000, 20_000, 60_000, 200_000)
FULL = 1_400_000
DIMENSIONS = 256


def main(arguments: list[str] | None = None) -> None:
    """Run all sizes in turn and save times, memory and growth."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.usrn_clustering",
        description="Time and memory of balanced k-means by number of points.",
    )
    parser.add_argument("--clusters", type=int, default=132, help="default: 132, the background of VOC 662")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of every size (default: 5)")
    parser.add_argument("--full", type=int, default=0, metavar="ROUNDS", help="also 1.4 million points, so many rounds")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parsed = parser.parse_intermixed_args(arguments)
    if parsed.one:
        print(json.dumps(measure(parsed.one, parsed.clusters, parsed.rounds)))
        return
    from benchmarks.machine import save

    rows = [run(size, parsed.clusters, parsed.rounds) for size in SIZES]
    first = rows[0]
    for row in rows:
        row["times_n_log_n"] = round(
            row["seconds_per_round"] * first["points"] * math.log(first["points"])
            / (first["seconds_per_round"] * row["points"] * math.log(row["points"])), 3,
        )  # fmt: skip
    figures = {"clusters": parsed.clusters, "dimensions": DIMENSIONS, "sizes": rows}
    if parsed.full:
        figures["full"] = run(FULL, parsed.clusters, parsed.full)
    save("usrn_clustering", " ".join(["python -m benchmarks.usrn_clustering", *(arguments or sys.argv[1:])]), figures)
    if rows[-1]["times_n_log_n"] > 1:
        raise CheckFailed(f"time grows faster than n log n: {rows[-1]['times_n_log_n']} times as fast")


def run(points: int, clusters: int, rounds: int) -> dict:
    """Measure one size in a process of its own."""
    options = ["--one", str(points), "--clusters", str(clusters), "--rounds", str(rounds)]
    command = [sys.executable, "-m", "benchmarks.usrn_clustering", *options]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    row = json.loads(done.stdout.splitlines()[-1])
    print(f"{points:9} points: {row['seconds_per_round']:.2f} s a round, {row['peak_gib']:.2f} GiB", flush=True)
    return row


def measure(points: int, clusters: int, rounds: int) -> dict:
    """Return processor seconds per round (an exact assignment and new centres) and the process's peak memory."""
    import numpy as np

    from common.make_subclasses.balanced_kmeans import balanced_kmeans
    from common.rng import generator

    features = made_up(points)
    started, ends = time.process_time(), []
    found = balanced_kmeans(
        features, clusters, generator(0, "benchmark"), max_rounds=rounds - 1,
        report=lambda *_: ends.append(time.process_time()),
    )  # fmt: skip
    sizes = np.bincount(found.assignment, minlength=clusters)
    return {
        "points": points,
        "rounds": len(ends),
        "converged": found.converged,
        "seconds_per_round": round((ends[-1] - started) / len(ends), 4),
        "largest_minus_smallest": int(sizes.max() - sizes.min()),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
    }


def made_up(points: int):
    """Return int16 ``[points,256]``: 40 clouds of very unequal size, non-negative as features behind a ReLU are."""
    import numpy as np

    rng = np.random.default_rng(0)
    centers = np.maximum(rng.standard_normal((40, DIMENSIONS)), 0)
    own = rng.choice(40, points, p=rng.dirichlet(np.full(40, 0.7)))
    features = np.empty((points, DIMENSIONS), np.int16)
    for first in range(0, points, 8192):
        part = own[first : first + 8192]
        values = np.maximum(centers[part] + 0.6 * rng.standard_normal((len(part), DIMENSIONS)), 0)
        features[first : first + 8192] = np.minimum(1000 * values, 32767)
    return features


if __name__ == "__main__":
    raise SystemExit(run_command(main))
