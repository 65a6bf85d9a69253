"""The evaluation's view of a MindSpore network; the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from common.arrays import Box, Size
from common.config.schema import Accumulate, Head
from common.prediction.predictor import STRIP_ROWS, UsedRuntime
from common.prediction.sliding import class_ids_of, join_windows
from mindspore_impl.device import describe_device
from mindspore_impl.networks.deeplab import forward
from mindspore_impl.pseudo_labels import arg_max
from mindspore_impl.resize import resize

COMPILE_AFTER = 4
"""Passes of one input shape before a graph is compiled for it: compiling costs about as much as 5 graphs save."""

COMPILED_SHAPES = 8
"""Most input shapes for which graphs are compiled; once there are more, every pass runs operator by operator."""

RECYCLE_AFTER = 10
"""New shapes between two returns of unused memory, from then on: every shape keeps some 10 MB for ever otherwise. Not
before, because a return of memory throws away all compiled graphs of the process, those of the training step too."""


class MindSporePredictor:
    """Runs a network in eval mode without gradient; implements :class:`common.prediction.predictor.Predictor`.

    Its logits are those of ``head``.
    """

    def __init__(self, network: nn.Cell, device: str = "cpu", head: Head = "linear") -> None:
        self.network, self.head = network, head
        self.device = device
        self.classes = network.classes
        self.runtime = UsedRuntime(name="mindspore", version=ms.__version__, device=describe_device(device))
        self._passes = Counter()

    def logits(self, images: np.ndarray, size: Size) -> np.ndarray:
        """Return float32 ``[B,K,h,w]`` logits at ``size`` for images ``[B,3,H,W]``."""
        return self._logits(images, size).asnumpy().copy()  # asnumpy is a view of memory that MindSpore may reuse

    def class_ids(self, images: np.ndarray, size: Size) -> np.ndarray:
        """Return uint8 ``[B,h,w]`` class ids at ``size``."""
        return arg_max(self._logits(images, size), 1).astype(ms.uint8).asnumpy()

    def decoder_features(self, images: np.ndarray, size: Size) -> np.ndarray:
        """Return float32 ``[B,D,h,w]`` features before the classifier's projection, resized to ``size``."""
        return resize(self._outputs(images)["decoder"], size).asnumpy().copy()

    def sliding_class_ids(self, image: np.ndarray, windows: Sequence[Box], accumulate: Accumulate) -> np.ndarray:
        """Return uint8 ``[H,W]`` class ids of one image ``[1,3,H,W]`` from overlapping windows."""

        def values(window: Box) -> np.ndarray:
            crop = image[:, :, window.rows, window.columns]
            logits = self._logits(crop, crop.shape[2:])
            return (ops.softmax(logits, 1) if accumulate == "sum_softmax" else logits).asnumpy()[0]

        # NumPy, because an in-place add to a part of a Tensor copies all of it: 123 ms instead of 7 for one window of
        # 769x769 in 19x1024x2048.
        total = np.zeros((self.classes, *image.shape[2:]), np.float32)
        visits = np.zeros(image.shape[2:], np.float32) if accumulate == "mean_logits" else None
        return class_ids_of(join_windows(windows, values, total, visits))

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return the fused features float32 ``[B,C,h,w]`` of images ``[B,3,H,W]``, before the classifier."""
        return self._outputs(images)["features"].asnumpy().copy()

    def stages(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return every intermediate result for images ``[B,3,H,W]``, in order."""
        results = self._eval().stages(self._tensor(images))
        return {name: value.asnumpy().copy() for name, value in results.items()}

    def _eval(self) -> nn.Cell:
        return self.network.set_train(False)

    def _tensor(self, images: np.ndarray) -> Tensor:
        return Tensor(np.ascontiguousarray(images, np.float32))

    def _outputs(self, images: np.ndarray) -> dict[str, Tensor]:
        network, x = self._eval(), self._tensor(images)
        return forward(network, x) if self._compiles(images.shape) else network(x)

    def _logits(self, images: np.ndarray, size: Size) -> Tensor:
        outputs = self._outputs(images)
        if self.head == "prototype":
            return self.network.prototype_logits(outputs["features"], size, STRIP_ROWS)
        return resize(outputs["logits"], size)

    def _compiles(self, shape: tuple[int, ...]) -> bool:
        """Count this pass and return whether to run it by a compiled graph."""
        new = shape not in self._passes
        self._passes[shape] += 1
        if len(self._passes) <= COMPILED_SHAPES:
            return self._passes[shape] > COMPILE_AFTER
        if new and len(self._passes) % RECYCLE_AFTER == 0:
            ms.ms_memory_recycle()
        return False
