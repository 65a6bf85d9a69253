"""k-means for the first prototypes, in NumPy with float64; every random number is an argument."""

from __future__ import annotations

import numpy as np

MOST_PASSES = 100


def seed_centres(points: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return the indices of k-means++ seeds among ``points`` ``[n,C]``, one per entry of ``draws`` (each in [0, 1)).

    The first is floor(draw * n); each later one is the first point whose running sum of squared distances to the nearest
    seed exceeds draw * their total. Where all distances are 0, the next index that is no seed yet is taken.
    """
    chosen = [min(int(draws[0] * len(points)), len(points) - 1)]
    nearest = _to_one(points, points[chosen[0]])
    for draw in draws[1:]:
        running = np.cumsum(nearest)
        if running[-1] > 0:
            index = min(int(np.searchsorted(running, draw * nearest.sum(), side="right")), len(points) - 1)
        else:
            index = next((i for i in range(len(points)) if i not in chosen), chosen[-1])
        chosen.append(index)
        nearest = np.minimum(nearest, _to_one(points, points[index]))
    return np.array(chosen)


def kmeans(points: np.ndarray, centres: np.ndarray, passes: int = MOST_PASSES) -> tuple[np.ndarray, np.ndarray, int]:
    """Run Lloyd's algorithm on ``points`` ``[n,C]`` from ``centres`` ``[M,C]``; return centres, assignment and passes run.

    Ends when no point changes its centre, or after ``passes``. A tie goes to the lower index; a centre without points
    stays where it is.
    """
    points, centres = np.asarray(points, np.float64), np.array(centres, np.float64)
    assignment = None
    for count in range(1, passes + 1):
        nearest = np.stack([_to_one(points, centre) for centre in centres], 1).argmin(1)
        if assignment is not None and np.array_equal(nearest, assignment):
            return centres, assignment, count
        assignment = nearest
        for index in range(len(centres)):
            members = points[assignment == index]
            if len(members):
                centres[index] = members.mean(0)
    return centres, assignment, passes


def class_prototypes(
    features: np.ndarray, labels: np.ndarray, draws: np.ndarray, passes: int = MOST_PASSES
) -> tuple[np.ndarray, np.ndarray]:
    """Return k-means centres ``[K,M,C]`` of each class's rows, float32, and the number ``[K]`` of rows.

    ``features`` ``[n,C]``, ``labels`` ``[n]`` (255 counts nowhere), ``draws`` ``[K,M]`` for the seeds. A class without rows gets
    zeros (an orthogonal feature's logits), one with at most M rows these rows in turn.
    """
    classes, each = draws.shape
    prototypes = np.zeros((classes, each, features.shape[1]), np.float32)
    counts = np.zeros(classes, np.int64)
    for index in range(classes):
        points = features[labels == index].astype(np.float64)
        counts[index] = len(points)
        if 0 < len(points) <= each:
            prototypes[index] = points[np.arange(each) % len(points)]
        elif len(points):
            prototypes[index] = kmeans(points, points[seed_centres(points, draws[index])], passes)[0]
    return prototypes, counts


def _to_one(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Squared distances ``[n]`` to one centre; by differences, because ties must stay ties."""
    difference = points - centre
    return np.einsum("nc,nc->n", difference, difference)
