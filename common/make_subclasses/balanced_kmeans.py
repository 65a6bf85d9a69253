"""Balanced k-means: clusters whose sizes differ by at most one, by exact assignments.

Source: zhu-he/regularized-k-means, which USRN's ``clustering.py`` calls.

    1. centres: k distinct points drawn uniformly, or given ones
    2. assignment: the partition of least total squared distance with sizes floor(n/k) or ceil(n/k)
    3. centres: the means of their points; back to 2 until nothing changes

Step 2 is a transport problem with n sources and k sinks. It is solved through its k prices: whatever the prices, sending
every point to the centre of least cost plus price is optimal *for the sizes that come out*. So prices are looked for that
make the sizes nearly right (:func:`find_prices`, starting from those of the round before), and the few units that are left
over are then moved along shortest paths between clusters (:class:`Repair`), which keeps the partition optimal for its sizes
at every move. A round costs n * k * (D + a few) operations and sorting n numbers; memory is n * k + n * D numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

CHUNK = 8192
"""Points that are looked at together: their costs stay in the processor's cache."""

PRICE_STEPS = 40
"""Most Newton steps towards the prices of one assignment."""

COARSE_FROM, COARSER = 50_000, 8
"""From so many points on, prices are first sought for every eighth point."""


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """``assignment`` int64 ``[n]``, the centres float64 ``[k,D]`` it was made with, their sum of squared distances, and the
    number of times that centres were moved; ``converged``: no assignment changed in the last round."""

    assignment: np.ndarray
    centers: np.ndarray
    sse: float
    rounds: int
    converged: bool


Report = Callable[[int, int, float], None]
"""Called after every assignment with its number from 1, the number of points that changed cluster, and the sum of squares."""


def balanced_kmeans(
    points: np.ndarray,
    k: int,
    rng: np.random.Generator | None = None,
    centers: np.ndarray | None = None,
    max_rounds: int | None = None,
    report: Report | None = None,
) -> Clustering:
    """Cluster ``points`` ``[n,D]`` (int16 or float) into ``k`` clusters from ``centers`` ``[k,D]`` or k points that ``rng`` draws.

    Raises :class:`ValueError` for fewer points than clusters.
    """
    count = len(points)
    if not 1 <= k <= count:
        raise ValueError(f"{count} points cannot fill {k} clusters")
    centers = points[rng.choice(count, k, replace=False)] if centers is None else centers
    centers = np.asarray(centers, np.float64)
    norm = sum(float(np.square(part, dtype=np.float64).sum()) for part in _chunks(points))
    costs, prices = np.empty((k, count)), np.zeros(k)
    assignment, last, rounds, converged = np.full(count, -1), np.inf, 0, False
    while True:
        fill_costs(costs, points, centers)
        partition, prices = balanced_assignment(costs, prices)
        changed = int((partition != assignment).sum())
        sse = norm + float(costs[partition, np.arange(count)].sum())
        assignment = partition
        if report is not None:
            report(rounds + 1, changed, sse)
        # Without the second condition ties could be passed round for ever.
        converged = changed == 0 or not sse < last
        if converged or rounds == max_rounds:
            break
        last = sse
        centers, rounds = means(points, assignment, k), rounds + 1
    sse = sum(
        float(np.square(part - centers[clusters]).sum()) for part, clusters in zip(_chunks(points), _chunks(assignment))
    )
    return Clustering(assignment=assignment, centers=centers, sse=sse, rounds=rounds, converged=converged)


def assign_to(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return the balanced assignment of ``points`` to given ``centers``."""
    costs = np.empty((len(centers), len(points)))
    fill_costs(costs, points, centers)
    return balanced_assignment(costs, np.zeros(len(centers)))[0]


def fill_costs(costs: np.ndarray, points: np.ndarray, centers: np.ndarray) -> None:
    """Write squared distances, less the points' own squared norms, into ``costs`` ``[k,n]``."""
    squares = np.square(centers).sum(1)[:, None]
    twice = -2 * centers
    for first in range(0, len(points), CHUNK):
        part = points[first : first + CHUNK].astype(np.float64)
        np.add(twice @ part.T, squares, out=costs[:, first : first + CHUNK])


def means(points: np.ndarray, assignment: np.ndarray, k: int) -> np.ndarray:
    """Return float64 ``[k,D]`` means of every cluster's points."""
    sums = np.zeros((k, points.shape[1]))
    for part, clusters in zip(_chunks(points), _chunks(assignment)):
        members = np.zeros((k, len(clusters)))
        members[clusters, np.arange(len(clusters))] = 1
        sums += members @ part.astype(np.float64)
    return sums / np.bincount(assignment, minlength=k)[:, None]


def balanced_assignment(costs: np.ndarray, prices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the balanced partition of least cost, int64 ``[n]``, and the prices to start the next one from.

    ``costs`` float64 ``[k,n]``; ``prices`` ``[k]`` are a guess, zeros where there is none.
    """
    prices, assignment = find_prices(costs, prices)
    repair = Repair(costs, assignment, prices)
    while repair.move_one():
        pass
    return repair.assignment, prices


def find_prices(costs: np.ndarray, prices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return prices under which the cheapest choices are nearly balanced, and these choices.

    Damped Newton steps up the dual, a concave function of the prices whose gradient is the excess of every cluster; where
    there are many points, a part of them gives the start.
    """
    k, count = costs.shape
    if count >= COARSE_FROM:
        prices, _ = find_prices(np.ascontiguousarray(costs[:, ::COARSER]), prices)
    choice, damping = Choice(costs, prices), 1.0
    for _ in range(PRICE_STEPS):
        total = float(np.abs(choice.excess).sum()) / 2
        if total <= k:
            break
        step = _newton_step(choice, total)
        for _ in range(PRICE_STEPS):
            tried = Choice(costs, choice.prices + damping * step)
            if tried.dual > choice.dual + 0.05 * damping * float(step @ choice.excess):
                break
            damping *= 0.35
        else:
            break
        choice, damping = tried, min(1.0, damping / 0.35)
    return choice.prices, choice.first


class Choice:
    """The cheapest centre of every point under some prices, what it says about the dual, and the second cheapest."""

    def __init__(self, costs: np.ndarray, prices: np.ndarray) -> None:
        k, count = costs.shape
        self.prices = prices
        self.first, self.second, self.gap, total = two_best(costs, prices)
        self.excess = np.bincount(self.first, minlength=k) - count / k
        self.dual = total - float(prices.sum()) * count / k


def two_best(costs: np.ndarray, prices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return each point's cheapest and second cheapest centre, how much cheaper the first is, and the sum of the cheapest."""
    k, count = costs.shape
    total = 0.0
    first, second, gap = np.zeros(count, np.int64), np.zeros(count, np.int64), np.full(count, np.inf)
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        low, next_low = costs[0, part] + prices[0], np.full(first[part].shape, np.inf)
        cheapest, other = first[part], second[part]
        for center in range(1, k):
            value = costs[center, part] + prices[center]
            closer = value < low
            np.copyto(other, cheapest, where=closer)
            np.copyto(cheapest, center, where=closer)
            rival = np.maximum(value, low)
            np.minimum(value, low, out=low)
            between = ~closer & (rival < next_low)
            np.copyto(other, center, where=between)
            np.minimum(next_low, rival, out=next_low)
        np.subtract(next_low, low, out=gap[part])
        total += float(low.sum())
    return first, second, gap, total


def _newton_step(choice: Choice, total: float) -> np.ndarray:
    """Return the change of prices that should carry the excess away.

    How many points change sides when two prices move is read off the points whose two best choices are nearly equal.
    """
    k, count = len(choice.prices), len(choice.first)
    wanted = min(count - 1, int(2 * total) + 4 * k)
    width = max(float(np.partition(choice.gap, wanted)[wanted]), 1e-12)
    near = choice.gap <= width
    crossing = np.bincount(choice.first[near] * k + choice.second[near], minlength=k * k).reshape(k, k)
    density = (crossing + crossing.T) / (2 * width)
    laplacian = np.diag(density.sum(1)) - density
    # The small multiple of the identity is for clusters that no such point connects.
    return np.linalg.solve(laplacian + np.eye(k) * (1e-2 * np.trace(laplacian) / k), choice.excess)


class Repair:
    """Moves units between clusters until the sizes are right; the partition stays optimal for its sizes all the while.

    All clusters have room for ceil(n/k) units. Where that is more than n, dummies that cost nothing fill it up, at most one
    in a cluster; they start in the clusters of least price, where they belong under these prices.
    """

    def __init__(self, costs: np.ndarray, assignment: np.ndarray, prices: np.ndarray) -> None:
        self.costs, self.assignment = costs, assignment
        self.k, count = costs.shape
        self.room = -(-count // self.k)
        self.dummy = np.zeros(self.k, bool)
        self.dummy[np.argsort(prices, kind="stable")[: self.room * self.k - count]] = True
        order = np.argsort(assignment.astype(np.int16), kind="stable")
        ends = np.cumsum(np.bincount(assignment, minlength=self.k))
        self.members = np.split(order, ends[:-1])
        self.sizes = np.array([len(part) for part in self.members]) + self.dummy
        self.price = np.full((self.k, self.k), np.inf)  # of moving a unit from row to column
        self.unit = np.full((self.k, self.k), -1)  # the point that does it
        self.tolerance = 1e-12 * max(float(np.abs(costs[:, :CHUNK]).max()), 1e-300)
        if (self.sizes != self.room).any():
            for cluster in range(self.k):
                self._search(cluster, np.arange(self.k))

    def move_one(self) -> bool:
        """Take one unit from a cluster with too many to one with too few, by way of others where that is cheaper."""
        full, short = self.sizes > self.room, self.sizes < self.room
        if not full.any():
            return False
        path = self._shortest_path(full, short)
        for source, target in zip(path, path[1:]):
            self._move(source, target)
        self.sizes[path[0]] -= 1
        self.sizes[path[-1]] += 1
        return True

    def _shortest_path(self, full: np.ndarray, short: np.ndarray) -> list[int]:
        """Bellman and Ford's: lengths may be negative, cycles are not, because the partition is optimal for its sizes."""
        free = self.dummy[:, None] & ~self.dummy
        length = np.where(free, np.minimum(self.price, 0.0), self.price)
        distance = np.where(full, 0.0, np.inf)
        came_from = np.full(self.k, -1)
        for _ in range(self.k):
            ways = distance[:, None] + length
            source = ways.argmin(0)
            shortest = ways[source, np.arange(self.k)]
            better = shortest < distance - self.tolerance
            if not better.any():
                break
            distance[better], came_from[better] = shortest[better], source[better]
        path = [int(np.where(short, distance, np.inf).argmin())]
        while not full[path[0]] or came_from[path[0]] >= 0:
            path.insert(0, int(came_from[path[0]]))
        return path

    def _move(self, source: int, target: int) -> None:
        if self.dummy[source] and not self.dummy[target] and self.price[source, target] >= 0:
            self.dummy[source], self.dummy[target] = False, True
            return
        point = self.unit[source, target]
        self.assignment[point] = target
        kept = self.members[source]
        self.members[source] = kept[kept != point]
        self.members[target] = np.append(self.members[target], point)
        self._search(source, np.flatnonzero(self.unit[source] == point))
        gain = self.costs[:, point] - self.costs[target, point]
        closer = gain < self.price[target]
        closer[target] = False
        self.price[target, closer], self.unit[target, closer] = gain[closer], point

    def _search(self, cluster: int, targets: np.ndarray) -> None:
        """Find the cheapest point to move from ``cluster`` to each of ``targets``."""
        members = self.members[cluster]
        current_costs = self.costs[cluster, members] if len(members) else None
        for target in targets[targets != cluster]:
            if current_costs is None:
                self.price[cluster, target], self.unit[cluster, target] = np.inf, -1
                continue
            gain = self.costs[target, members] - current_costs
            cheapest = int(gain.argmin())
            self.price[cluster, target], self.unit[cluster, target] = gain[cheapest], members[cheapest]


def _chunks(rows: np.ndarray):
    return (rows[first : first + CHUNK] for first in range(0, len(rows), CHUNK))
