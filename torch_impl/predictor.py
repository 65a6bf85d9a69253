"""The evaluation's view of a PyTorch network; the MindSpore file of the same name mirrors this one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from common.arrays import Box, Size
from common.config.schema import Accumulate, Head
from common.prediction.predictor import STRIP_ROWS, UsedRuntime
from common.prediction.sliding import class_ids_of, join_windows
from torch_impl.device import describe_device, exact
from torch_impl.pseudo_labels import arg_max
from torch_impl.resize import resize


class TorchPredictor:
    """Runs a network in eval mode without gradient; implements :class:`common.prediction.predictor.Predictor`.

    Its logits are those of ``head``.
    """

    def __init__(self, network: nn.Module, device: str | torch.device = "cpu", head: Head = "linear") -> None:
        self.network, self.head = network, head
        self.device = torch.device(device)
        self.classes = network.classes
        self.runtime = UsedRuntime(name="torch", version=torch.__version__, device=describe_device(self.device))
        self._memory: dict[str, Tensor] = {}

    def logits(self, images: np.ndarray, size: Size) -> np.ndarray:
        """Return float32 ``[B,K,h,w]`` logits at ``size`` for images ``[B,3,H,W]``."""
        return self._logits(images, size).cpu().numpy().copy()  # the memory serves the next images, too

    def class_ids(self, images: np.ndarray, size: Size) -> np.ndarray:
        """Return uint8 ``[B,h,w]`` class ids at ``size``."""
        return self._class_ids(self._logits(images, size))

    def decoder_features(self, images: np.ndarray, size: Size) -> np.ndarray:
        """Return float32 ``[B,D,h,w]`` features before the classifier's projection, resized to ``size``."""
        with exact():
            return resize(self._output("decoder", images), size).cpu().numpy()

    def sliding_class_ids(self, image: np.ndarray, windows: Sequence[Box], accumulate: Accumulate) -> np.ndarray:
        """Return uint8 ``[H,W]`` class ids of one image ``[1,3,H,W]`` from overlapping windows."""

        def values(window: Box) -> Tensor:
            crop = image[:, :, window.rows, window.columns]
            logits = self._logits(crop, crop.shape[2:])[0]
            if accumulate != "sum_softmax":
                return logits
            return torch.softmax(logits, 0, out=self._reused("probabilities", logits.shape, logits.dtype))

        total = self._reused("total", (self.classes, *image.shape[2:]), torch.float32).zero_()
        visits = torch.zeros(image.shape[2:], device=self.device) if accumulate == "mean_logits" else None
        return self._class_ids(join_windows(windows, values, total, visits)[None])[0]

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return the fused features float32 ``[B,C,h,w]`` of images ``[B,3,H,W]``, before the classifier."""
        with exact():
            return self._output("features", images).cpu().numpy()

    def stages(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return every intermediate result for images ``[B,3,H,W]``, in order."""
        with exact():
            return {name: value.cpu().numpy() for name, value in self._eval().stages(self._tensor(images)).items()}

    def _eval(self) -> nn.Module:
        return self.network.eval()

    def _tensor(self, images: np.ndarray) -> Tensor:
        dtype = next(self.network.parameters()).dtype
        return torch.from_numpy(np.ascontiguousarray(images)).to(self.device, dtype)

    def _output(self, name: str, images: np.ndarray) -> Tensor:
        return self._eval()(self._tensor(images), wanted=(name,))[name]

    def _logits(self, images: np.ndarray, size: Size) -> Tensor:
        with exact():
            if self.head == "prototype":
                return self.network.prototype_logits(self._output("features", images), size, STRIP_ROWS)
            return self._resized(self._output("logits", images), size)

    def _resized(self, maps: Tensor, size: Size) -> Tensor:
        """Return what ``resize`` does, in memory that the next call uses again."""
        if tuple(maps.shape[2:]) == tuple(size):
            return maps
        result = self._reused("resized", (*maps.shape[:2], *size), maps.dtype)
        return torch.ops.aten.upsample_bilinear2d.out(maps, list(size), True, None, None, out=result)

    def _reused(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return memory for values of ``shape``, that of the last call if it is large enough.

        Fresh memory for the logits of a large image takes a CPU as long as resizing them does.
        """
        count, kept = math.prod(shape), self._memory.get(name)
        if kept is None or len(kept) < count or kept.dtype != dtype:
            kept = self._memory[name] = torch.empty(count, dtype=dtype, device=self.device)
        return kept[:count].view(shape)

    def _class_ids(self, scores: Tensor) -> np.ndarray:
        """Return uint8 ``[B,h,w]``: the first class with the largest of ``scores`` ``[B,K,h,w]``."""
        if self.device.type == "cpu":
            return np.stack([class_ids_of(maps) for maps in scores.numpy()])
        return arg_max(scores, 1).to(torch.uint8).cpu().numpy()
