"""Balanced k-means: exact, seeded, sizes that differ by at most one, whatever the prices it starts from."""

from __future__ import annotations

import numpy as np
import pytest

from common.make_subclasses import balanced_kmeans as module
from common.make_subclasses.balanced_kmeans import (
    assign_to,
    balanced_assignment,
    balanced_kmeans,
    fill_costs,
    find_prices,
)
from common.rng import generator
from tests.oracles.balanced import cheapest_partition


def sizes(assignment: np.ndarray, k: int) -> np.ndarray:
    return np.bincount(assignment, minlength=k)


@pytest.mark.parametrize("case", range(12))
def test_assignment_is_the_cheapest_balanced_partition(case):
    rng = np.random.default_rng(case)
    k = int(rng.integers(1, 4))
    count = int(rng.integers(k, 8))
    costs = rng.integers(0, 5, (k, count)).astype(float) if case % 2 else rng.standard_normal((k, count))
    assignment, _ = balanced_assignment(costs, 3 * rng.standard_normal(k))
    assert set(sizes(assignment, k)) <= {count // k, -(-count // k)}
    assert costs[assignment, np.arange(count)].sum() == pytest.approx(cheapest_partition(costs))


@pytest.mark.parametrize(("count", "k"), [(300, 7), (301, 24), (640, 16)])
def test_assignment_equals_a_general_solver(count, k):
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(count)
    points, centers = rng.standard_normal((count, 5)), 2 * rng.standard_normal((k, 5))
    costs = np.empty((k, count))
    fill_costs(costs, points, centers)
    assignment, _ = balanced_assignment(costs, np.zeros(k))
    each, more = divmod(count, k)
    square = np.repeat(costs.T, each, 1)
    if more:
        dummies = np.concatenate([np.full((k - more, k * each), 1e9), np.zeros((k - more, k))], 1)
        square = np.concatenate([np.concatenate([square, costs.T], 1), dummies])
    rows, columns = optimize.linear_sum_assignment(square)
    assert costs[assignment, np.arange(count)].sum() == pytest.approx(square[rows, columns].sum())


def test_prices_leave_little_to_repair():
    """Without them hundreds of points would have to be moved one by one; many points start from a part of them."""
    rng = np.random.default_rng(0)
    points = (rng.standard_normal((60_000, 4)) * [4, 1, 1, 1]).astype(np.float32)
    centers = points[:12].astype(float)
    costs = np.empty((12, len(points)))
    fill_costs(costs, points, centers)
    _, choice = find_prices(costs, np.zeros(12))
    left = np.abs(sizes(choice, 12) - len(points) / 12).sum() / 2
    assert left <= 12 < np.abs(sizes(costs.argmin(0), 12) - len(points) / 12).sum() / 20
    assert np.ptp(sizes(assign_to(points, centers), 12)) == 0


def test_rounds_lower_the_sum_of_squares_and_the_seed_decides():
    points = np.random.default_rng(1).integers(0, 3000, (200, 6)).astype(np.int16)
    seen = []
    first, again, other = (
        balanced_kmeans(points, 9, generator(seed, "test"), report=lambda number, changed, sse: seen.append(sse))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.assignment, again.assignment)
    assert first.sse == again.sse and not np.array_equal(first.assignment, other.assignment)
    sums = seen[: first.rounds + 1]
    assert sums == sorted(sums, reverse=True) and sums[-1] == pytest.approx(first.sse) and first.converged
    assert set(sizes(first.assignment, 9)) == {22, 23}
    stopped = balanced_kmeans(points, 9, generator(1, "test"), max_rounds=1)
    assert stopped.rounds == 1 and not stopped.converged


def test_equal_points_and_one_cluster():
    same = balanced_kmeans(np.zeros((10, 2), np.int16), 4, generator(0, "test"))
    assert sorted(sizes(same.assignment, 4)) == [2, 2, 3, 3] and same.sse == 0
    assert not balanced_kmeans(np.eye(5, dtype=np.float32), 1, generator(0, "test")).assignment.any()


def test_fewer_points_than_clusters_are_refused():
    with pytest.raises(ValueError, match="3 points cannot fill 4 clusters"):
        balanced_kmeans(np.zeros((3, 2), np.int16), 4, generator(0, "test"))


def test_chunks_change_nothing(monkeypatch):
    points = np.random.default_rng(2).standard_normal((137, 3)).astype(np.float32)
    whole = balanced_kmeans(points, 6, generator(0, "test"))
    monkeypatch.setattr(module, "CHUNK", 10)
    parts = balanced_kmeans(points, 6, generator(0, "test"))
    np.testing.assert_array_equal(whole.assignment, parts.assignment)
    assert whole.sse == pytest.approx(parts.sse)
