"""The mean of two branches' soft maxima as a predictor of its own, in whatever runtime the branches run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.arrays import Box, Size
from common.config.schema import Accumulate
from common.prediction.predictor import Predictor
from common.prediction.sliding import class_ids_of, join_windows


class BranchMean:
    """Implements :class:`common.prediction.predictor.Predictor` over two predictors with the same classes."""

    def __init__(self, first: Predictor, second: Predictor) -> None:
        self.branches = (first, second)
        self.classes, self.runtime = first.classes, first.runtime

    def logits(self, images: np.ndarray, size: Size) -> np.ndarray:
        """Return float32 ``[B,K,h,w]`` logarithms of the mean probabilities at ``size``."""
        return np.log(np.maximum(self._probabilities(images, size), np.finfo(np.float32).tiny))

    def class_ids(self, images: np.ndarray, size: Size) -> np.ndarray:
        """Return uint8 ``[B,h,w]`` class ids at ``size``."""
        return np.stack([class_ids_of(probabilities) for probabilities in self._probabilities(images, size)])

    def sliding_class_ids(self, image: np.ndarray, windows: Sequence[Box], accumulate: Accumulate) -> np.ndarray:
        """Return uint8 ``[H,W]`` class ids of one image; windows are always joined by summed probabilities."""

        def probabilities(window: Box) -> np.ndarray:
            crop = np.ascontiguousarray(image[:, :, window.rows, window.columns])
            return self._probabilities(crop, crop.shape[2:])[0]

        total = np.zeros((self.classes, *image.shape[2:]), np.float32)
        return class_ids_of(join_windows(windows, probabilities, total, None))

    def _probabilities(self, images: np.ndarray, size: Size) -> np.ndarray:
        return (_softmax(self.branches[0].logits(images, size)) + _softmax(self.branches[1].logits(images, size))) / 2


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)
