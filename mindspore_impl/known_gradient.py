"""Losses whose value and gradient are computed together; the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops


def known(x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """Return ``value`` as a function of ``x`` whose ``gradient`` with respect to it, of its shape, is known."""
    linear = (x * ops.stop_gradient(gradient)).sum()
    return ops.stop_gradient(value) + (linear - ops.stop_gradient(linear))


class KnownGradient(nn.Cell):
    """A loss whose gradient with respect to some pixels of a feature map is already known; one instance per loss."""

    def __init__(self, pixel: np.ndarray, gradient: np.ndarray, value: float) -> None:
        super().__init__()
        self.pixel, self.gradient, self.value = pixel, gradient, value

    def construct(self, features: Tensor) -> Tensor:
        """Return ``value``; ``gradient`` ``[n,D]`` belongs to flat positions ``pixel`` ``[n]`` of ``features`` ``[B,D,h,w]``."""
        return ms.Tensor(self.value, ms.float32)

    def bprop(self, features: Tensor, out: Tensor, upstream: Tensor) -> tuple[Tensor]:
        """Scatter the known gradient into a zero map; a pixel that was drawn several times gets the sum."""
        batch, width, height, columns = features.shape
        area = height * columns
        order = np.argsort(self.pixel, kind="stable")
        pixel, first = np.unique(self.pixel[order], return_index=True)
        sums = np.add.reduceat(self.gradient[order] * upstream.asnumpy(), first)
        rows = np.zeros((batch, width, area), np.float32)
        rows[pixel // area, :, pixel % area] = sums
        return (ms.from_numpy(rows.reshape(features.shape)),)


class KnownResult(nn.Cell):
    """A step whose result and gradient are computed in NumPy; one instance per call."""

    def __init__(self, result: np.ndarray, gradient) -> None:
        super().__init__()
        self.result, self.gradient = result, gradient

    def construct(self, x: Tensor) -> Tensor:
        """Return the result."""
        return ms.Tensor(self.result)

    def bprop(self, x: Tensor, out: Tensor, upstream: Tensor) -> tuple[Tensor]:
        """Return ``gradient`` of the one that arrives."""
        return (ms.from_numpy(np.ascontiguousarray(self.gradient(upstream.asnumpy()), np.float32)),)
