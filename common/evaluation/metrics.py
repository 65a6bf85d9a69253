"""Counting predictions against labels: integers only, so that runs, processes and runtimes can be compared exactly."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

import numpy as np

from common.arrays import IGNORE
from common.errors import UserError

EPSILON = 1e-10
"""Added to every union of the mean over all classes (U2PL's ``eval.py``)."""

Absent = Literal["zero", "skip"]
"""What a class without any pixel means for the mean: it counts 0 (U2PL, PCR, USRN, UCCL) or is left out (CPCL)."""


class ConfusionMatrix:
    """Pixel counts of one evaluation.

    ``matrix`` is int64 ``[K,K]``, rows are the truth, columns the prediction; ``ignored`` counts the pixels labelled
    ``ignore_index``. ``classes`` lies in 2..254, because labels are 8-bit. ``ignored_classes`` are those that no label can
    show: predicting one is wrong, but they have no IoU and no part in any mean.
    """

    def __init__(self, classes: int, ignore_index: int = IGNORE, ignored_classes: Collection[int] = ()) -> None:
        if not 2 <= classes <= 254:
            raise ValueError(f"{classes} classes; between 2 and 254 are possible")
        if not classes <= ignore_index <= 255:
            raise ValueError(f"ignore_index {ignore_index} must lie in {classes}..255")
        self.classes = classes
        self.ignore_index = ignore_index
        self.counted = np.array([class_id not in ignored_classes for class_id in range(classes)])
        self.matrix = np.zeros((classes, classes), dtype=np.int64)
        self.ignored = 0
        # One row of codes per class, one for the ignored value and one for values that must not occur: a single
        # bincount over 16-bit codes then counts and checks at once. The largest code is 255 * 254 + 253 < 65536.
        self._row = np.full(256, (classes + 1) * classes, dtype=np.uint16)
        self._row[:classes] = np.arange(classes) * classes
        self._row[ignore_index] = classes * classes

    def update(self, prediction: np.ndarray, label: np.ndarray) -> None:
        """Count one image or batch: both uint8 of one shape, ``prediction`` in 0..K-1.

        Raises :class:`UserError` naming the value when ``label`` holds anything but 0..K-1 and ``ignore_index``;
        nothing is counted then.
        """
        if prediction.dtype != np.uint8 or label.dtype != np.uint8:
            raise TypeError(f"prediction {prediction.dtype} and label {label.dtype} must both be uint8")
        if prediction.shape != label.shape:
            raise UserError(f"the label is {_size(label)} but the prediction is {_size(prediction)}")
        if prediction.size and prediction.max() >= self.classes:
            raise ValueError(f"predicted class {prediction.max()} with {self.classes} classes")
        codes = self._row[label] + prediction
        counts = np.bincount(codes.ravel(), minlength=(self.classes + 2) * self.classes).reshape(-1, self.classes)
        if counts[self.classes + 1].any():
            raise UserError(self._foreign_values(label))
        self.matrix += counts[: self.classes]
        self.ignored += int(counts[self.classes].sum())

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of ``other``, which must have the same classes and ignored value."""
        alike = (other.classes, other.ignore_index) == (self.classes, self.ignore_index)
        if not alike or (other.counted != self.counted).any():
            raise ValueError("confusion matrices of different classes or ignored values cannot be merged")
        self.matrix += other.matrix
        self.ignored += other.ignored

    def add_up(self, total: Callable[[np.ndarray], np.ndarray]) -> None:
        """Replace the counts by their sums over all processes; ``total`` adds up int64 arrays."""
        counts = total(np.append(self.matrix.ravel(), np.int64(self.ignored)))
        self.matrix, self.ignored = counts[:-1].reshape(self.matrix.shape), int(counts[-1])

    def truth(self) -> np.ndarray:
        """Labelled pixels of each class: int64 ``[K]``."""
        return self.matrix.sum(axis=1)

    def predicted(self) -> np.ndarray:
        """Pixels predicted as each class, among the labelled ones: int64 ``[K]``."""
        return self.matrix.sum(axis=0)

    def intersection(self) -> np.ndarray:
        """Correctly predicted pixels of each class: int64 ``[K]``."""
        return self.matrix.diagonal().copy()

    def union(self) -> np.ndarray:
        """Pixels labelled or predicted as each class: int64 ``[K]``."""
        return self.truth() + self.predicted() - self.intersection()

    def iou(self) -> np.ndarray:
        """Intersection over union of each class: float64 ``[K]`` in 0..1, NaN where the union is empty or the class ignored."""
        union = self.union()
        return np.divide(
            self.intersection(), union, out=np.full(self.classes, np.nan), where=(union > 0) & self.counted
        )

    def miou(self, absent: Absent = "zero", first: int = 0) -> float:
        """Mean intersection over union in 0..1, of the classes from number ``first`` on that are not ignored.

        ``zero``: mean over all classes of I / (U + 1e-10), an absent class counts 0 (U2PL's ``eval.py``);
        ``skip``: mean of I / U over the classes with a union (CPS and CPCL), NaN when there is none.
        """
        counted = self.counted & (np.arange(self.classes) >= first)
        scores = self.intersection() / (self.union() + EPSILON) if absent == "zero" else self.iou()
        scores = scores[counted if absent == "zero" else counted & (self.union() > 0)]
        return float(scores.mean()) if scores.size else float("nan")

    def pixel_accuracy(self) -> float:
        """Share of the labelled pixels that are predicted correctly, in 0..1; NaN without any labelled pixel."""
        labelled = int(self.matrix.sum())
        return int(self.intersection().sum()) / labelled if labelled else float("nan")

    def _foreign_values(self, label: np.ndarray) -> str:
        values = [int(value) for value in np.unique(label) if value >= self.classes and value != self.ignore_index]
        listed = ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
        return (
            f"the label holds the value {listed}, but only 0..{self.classes - 1} and {self.ignore_index} (ignore) are "
            "possible; correct the label, or the classes or label_encoding of the data set's configuration"
        )


def _size(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape))
