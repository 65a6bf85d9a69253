"""Building blocks with the conventions of the five papers' networks; the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindspore_impl.device import prepare
from mindspore_impl.processes import place

prepare()

Masks = Sequence[Tensor]
"""Dropout masks of one forward pass, one per dropout site in the network's order; empty: the framework draws its own."""


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1, bias: bool = False) -> nn.Conv2d:
    """Return a convolution that keeps the map's size at stride 1 (padding = dilation * (kernel - 1) / 2)."""
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(inputs, outputs, kernel, stride, "pad", padding, dilation, has_bias=bias)


class GlobalBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the images of all processes in train mode, of which each has equally many; MindSpore's names.

    The gradient is that of the sum of all processes' losses; those of scale and shift are this process's part of it.
    """

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.total, self.processes = ops.AllReduce(), place()[1]

    def construct(self, x: Tensor) -> Tensor:
        """Normalise ``[B,C,H,W]``; statistics are float32."""
        if not self.training:
            return super().construct(x)
        kind, x = x.dtype, x.astype(ms.float32)
        batch, channels, height, width = x.shape
        count, shape = batch * height * width * self.processes, (1, channels, 1, 1)
        mean = self.total(x.sum((0, 2, 3))) / count
        centred = x - mean.reshape(shape)
        variance = self.total((centred * centred).sum((0, 2, 3))) / count
        kept = 1 - self.momentum  # the class keeps 1 - what it was given
        unbiased = ops.stop_gradient(variance) * (count / (count - 1))
        ops.assign(self.moving_mean, kept * self.moving_mean + (1 - kept) * ops.stop_gradient(mean))
        ops.assign(self.moving_variance, kept * self.moving_variance + (1 - kept) * unbiased)
        scale = ops.rsqrt(variance + self.eps) * self.gamma
        return (centred * scale.reshape(shape) + self.beta.reshape(shape)).astype(kind)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return a BatchNorm with eps 1e-5 whose running statistics move by 0.1 a pass (unbiased variance)."""
    norm = nn.BatchNorm2d if place()[1] == 1 else GlobalBatchNorm
    return norm(channels, eps=1e-5, momentum=0.9)  # MindSpore's momentum is the share of the old value


def half_precision(network: nn.Cell, kind: str) -> None:
    """Let all convolutions of ``network`` compute in ``bfloat16`` or ``float16``; what they return is normalised in float32."""
    for _, layer in network.cells_and_names():
        if isinstance(layer, nn.Conv2d):
            layer.to_float(getattr(ms, kind))


class StemPool(nn.Cell):
    """3x3 max-pool of stride 2: ``floor`` and ``ceil`` pad 1 and round the output size so, ``same`` pads only at the end.

    For an even length 2k ``floor`` and ``same`` give k values, ``ceil`` gives k + 1.
    """

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        if mode == "same":
            self.pool = nn.MaxPool2d(3, 2, pad_mode="same")
        else:
            self.pool = nn.MaxPool2d(3, 2, pad_mode="pad", padding=1, ceil_mode=mode == "ceil")

    def construct(self, x: Tensor) -> Tensor:
        """Pool ``[B,C,H,W]``."""
        return self.pool(x)


class Dropout(nn.Cell):
    """Dropout of whole channels or single elements with probability ``p``; survivors are scaled by 1/(1-p).

    ``site`` is this layer's position in a network's ``Masks``; the network numbers its layers. ``place`` says which of the
    network's maps it sees (:func:`common.networks.plan.map_sizes`).
    """

    def __init__(self, p: float, kind: str, channels: int, place: str = "low") -> None:
        super().__init__()
        self.p, self.kind, self.channels, self.place, self.site = p, kind, channels, place, 0
        self.draw = nn.Dropout(p=p)

    def construct(self, x: Tensor, masks: Masks = ()) -> Tensor:
        """Drop from ``[B,C,h,w]`` in train mode; a given mask (already scaled) is multiplied instead of drawn."""
        if not self.training or self.p == 0:
            return x
        if len(masks):
            return x * masks[self.site]
        if self.kind == "channel":  # not nn.Dropout2d: a network that holds one cannot be deep-copied
            return x * self.draw(ops.ones((x.shape[0], x.shape[1], 1, 1), x.dtype))
        return self.draw(x)


class ConvNorm(nn.Cell):
    """Convolution, BatchNorm, ReLU (``conv``, ``bn``)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1, bias: bool = False) -> None:
        super().__init__()
        self.conv = conv(inputs, outputs, kernel, dilation=dilation, bias=bias)
        self.bn = batch_norm(outputs)

    def construct(self, x: Tensor) -> Tensor:
        """Map ``[B,inputs,h,w]`` to ``[B,outputs,h,w]``."""
        return ops.relu(self.bn(self.conv(x)))
