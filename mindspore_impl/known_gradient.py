"""Losses whose value and gradient are computed together; the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops


def known(x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """Return ``value`` as a function of ``x`` whose ``gradient`` with respect to it, of its shape, is known."""
    linear = (x * ops.stop_gradient(gradient)).sum()
    return ops.stop_gradient(value) + (linear - ops.stop_gradient(linear))


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
