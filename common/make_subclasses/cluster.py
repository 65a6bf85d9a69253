"""Clustering of one class after the other, and the label maps that follow."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from tqdm import tqdm

from common.arrays import IGNORE, Size
from common.make_subclasses.balanced_kmeans import assign_to, balanced_kmeans
from common.methods.usrn.subclasses import offsets
from common.methods.usrn.usrn import ClusteringSettings
from common.rng import generator

Cluster = Callable[[np.ndarray, int, int], np.ndarray]
"""Takes points ``[n,D]``, the number of clusters and the class; returns the cluster of every point, int ``[n]``."""


LARGEST = 32767
"""Quantised features are clipped here: 32.767 and above do not fit into 16 bits."""


def nearest_opencv(labels: np.ndarray, size: Size) -> np.ndarray:
    """Resize uint8 ``[H,W]`` to ``size`` by OpenCV's nearest neighbour: source index floor(i / (out / in))."""
    return cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)


def quantise(features: np.ndarray) -> np.ndarray:
    """Return int16: float16 features times 1000, towards zero, clipped."""
    scaled = features.astype(np.float32) * np.float32(1000)
    return np.clip(scaled, -LARGEST - 1, LARGEST).astype(np.int16)


def gather_points(
    features: Sequence[np.ndarray], labels: Sequence[np.ndarray], class_id: int, quantised: bool
) -> np.ndarray:
    """Return the points ``[n,D]`` of one class, image by image, row by row, as int16 or float32.

    ``features`` float16 ``[D,h,w]`` (files may be mapped into memory), ``labels`` uint8 ``[h,w]`` at that size.
    """
    counts = [int((label == class_id).sum()) for label in labels]
    points = np.empty((sum(counts), len(features[0])), np.int16 if quantised else np.float32)
    row = 0
    for feature, label, count in zip(features, labels, counts):
        if count:
            values = np.asarray(feature)[:, label == class_id].T
            points[row : row + count] = quantise(values) if quantised else values
            row += count
    return points


def subclass_maps(
    features: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    counts: Sequence[int],
    quantised: bool,
    cluster: Cluster,
) -> list[np.ndarray]:
    """Return uint8 ``[h,w]`` subclass ids of every image; a class of one subclass is not clustered, 255 stays 255."""
    maps = [np.full(label.shape, IGNORE, np.uint8) for label in labels]
    for class_id, (count, first) in enumerate(zip(counts, offsets(counts))):
        number = sum(int((label == class_id).sum()) for label in labels)
        assignment = np.zeros(number, np.int64)
        if count > 1 and number:
            assignment = cluster(gather_points(features, labels, class_id, quantised), count, class_id)
        for target, label in zip(maps, labels):
            subclasses, assignment = np.split(assignment, [int((label == class_id).sum())])
            target[label == class_id] = first + subclasses
    return maps


class ClusterClasses:
    """Balanced k-means of one class after the other, with a progress bar; implements ``Cluster``."""

    def __init__(self, settings: ClusteringSettings, seed: int, names: Sequence[str]) -> None:
        self.settings, self.seed, self.names = settings, seed, names

    def __call__(self, points: np.ndarray, count: int, class_id: int) -> np.ndarray:
        """See ``Cluster``."""
        rng, sample = generator(self.seed, "usrn clustering", class_id), self.settings.sample
        chosen = points
        if sample is not None and sample < len(points):
            chosen = points[np.sort(rng.choice(len(points), sample, replace=False))]
        title = f"{self.names[class_id]}: {len(chosen)} points, {count} subclasses"
        with tqdm(desc=title, unit="round", disable=not sys.stderr.isatty(), total=self.settings.max_rounds) as bar:

            def report(number: int, changed: int, sse: float) -> None:
                bar.update()
                bar.set_postfix(changed=changed, sse=f"{sse:.4e}")

            clustering = balanced_kmeans(chosen, count, rng, max_rounds=self.settings.max_rounds, report=report)
        if not sys.stderr.isatty():
            end = "" if clustering.converged else ", stopped by method.clustering.max_rounds"
            print(
                f"{title}, {clustering.rounds} rounds, sum of squares {clustering.sse:.4e}{end}",
                file=sys.stderr,
                flush=True,
            )
        return clustering.assignment if chosen is points else assign_to(points, clustering.centers)
