"""Building blocks with the conventions of the five papers' networks; the MindSpore file of the same name mirrors this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from torch_impl.processes import place

Masks = Sequence[Tensor]
"""Dropout masks of one forward pass, one per dropout site in the network's order; empty: the framework draws its own."""


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1, bias: bool = False) -> nn.Conv2d:
    """Return a convolution that keeps the map's size at stride 1 (padding = dilation * (kernel - 1) / 2)."""
    return nn.Conv2d(inputs, outputs, kernel, stride, dilation * (kernel - 1) // 2, dilation, bias=bias)


class GlobalBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the images of all processes in train mode; parameters and buffers have PyTorch's names."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[B,C,H,W]``."""
        if not self.training:
            return super().forward(x)
        self.num_batches_tracked += 1
        return _GlobalNorm.apply(
            x, self.weight, self.bias, self.running_mean, self.running_var, self.momentum, self.eps
        )


class _GlobalNorm(torch.autograd.Function):
    """Statistics in float32, put together from every process's mean and variance, so that nothing cancels.

    The gradient is that of the sum of all processes' losses; those of weight and bias are this process's part of it.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, momentum, eps):
        """Return the normalised ``x`` and move the running statistics."""
        dims, shape = (0, 2, 3), (1, -1, 1, 1)
        variance, mean = torch.var_mean(x.float(), dims, correction=0)
        statistics = torch.cat([mean, variance, mean.new_full((1,), x.numel() // x.shape[1])])
        everyone = statistics.new_empty(dist.get_world_size(), len(statistics))
        dist.all_gather(list(everyone.unbind()), statistics)
        means, variances, counts = everyone.split([len(mean), len(mean), 1], 1)
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        variance = ((variances + (means - mean).square()) * counts).sum(0) / total
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * total / (total - 1), momentum)
        scale = torch.rsqrt(variance + eps)
        ctx.save_for_backward(x, weight, mean, scale, total)
        y = (x - mean.view(shape)) * (scale * weight).view(shape) + bias.view(shape)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx, upstream):
        """Return the gradients with respect to ``x``, weight and bias."""
        x, weight, mean, scale, total = ctx.saved_tensors
        dims, shape = (0, 2, 3), (1, -1, 1, 1)
        unit = (x - mean.view(shape)) * scale.view(shape)
        d_bias, d_weight = upstream.sum(dims), (upstream * unit).sum(dims)
        sums = torch.cat([d_bias, d_weight]).float()
        dist.all_reduce(sums)
        mean_bias, mean_weight = (sums / total).chunk(2)
        centred = upstream - mean_bias.view(shape) - unit * mean_weight.view(shape)
        d_x = centred * (scale * weight).view(shape)
        return d_x.to(x.dtype), d_weight.to(weight.dtype), d_bias.to(weight.dtype), None, None, None, None


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return a BatchNorm with eps 1e-5 whose running statistics move by 0.1 a pass (unbiased variance)."""
    norm = nn.BatchNorm2d if place()[1] == 1 else GlobalBatchNorm
    return norm(channels, eps=1e-5, momentum=0.1)


def kept(encoder: nn.Module, stage: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return ``stage(x)``; with ``encoder.recompute`` only ``x`` is kept, and the backward pass computes the stage once more.

    The running statistics move once all the same.
    """
    if not (encoder.recompute and encoder.training and torch.is_grad_enabled()):
        return stage(x)
    return checkpoint(
        stage,
        x,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), _unmoved_statistics(encoder)),
    )


@contextmanager
def _unmoved_statistics(network: nn.Module) -> Iterator[None]:
    """Let BatchNorm normalise by the batch without moving its running statistics."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum, layer.num_batches_tracked = 0.0, layer.num_batches_tracked.clone()
    try:
        yield
    finally:
        for layer, (momentum, tracked) in zip(layers, before):
            layer.momentum, layer.num_batches_tracked = momentum, tracked


class StemPool(nn.Module):
    """3x3 max-pool of stride 2: ``floor`` and ``ceil`` pad 1 and round the output size so, ``same`` pads only at the end.

    For an even length 2k ``floor`` and ``same`` give k values, ``ceil`` gives k + 1.
    """

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        """Pool ``[B,C,H,W]``."""
        if self.mode == "same":
            before = [size % 2 for size in (x.shape[3], x.shape[2])]
            x = F.pad(x, (before[0], 1, before[1], 1), value=float("-inf"))
            return F.max_pool2d(x, 3, 2)
        return F.max_pool2d(x, 3, 2, 1, ceil_mode=self.mode == "ceil")


class Dropout(nn.Module):
    """Dropout of whole channels or single elements with probability ``p``; survivors are scaled by 1/(1-p).

    ``site`` is this layer's position in a network's ``Masks``; the network numbers its layers. ``place`` says which of the
    network's maps it sees (:func:`common.networks.plan.map_sizes`).
    """

    def __init__(self, p: float, kind: str, channels: int, place: str = "low") -> None:
        super().__init__()
        self.p, self.kind, self.channels, self.place, self.site = p, kind, channels, place, 0

    def forward(self, x: Tensor, masks: Masks = ()) -> Tensor:
        """Drop from ``[B,C,h,w]`` in train mode; a given mask (already scaled) is multiplied instead of drawn."""
        if not self.training or self.p == 0:
            return x
        if len(masks):
            return x * masks[self.site]
        return F.dropout2d(x, self.p) if self.kind == "channel" else F.dropout(x, self.p)


class ConvNorm(nn.Module):
    """Convolution, BatchNorm, ReLU (``conv``, ``bn``)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1, bias: bool = False) -> None:
        super().__init__()
        self.conv = conv(inputs, outputs, kernel, dilation=dilation, bias=bias)
        self.bn = batch_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B,inputs,h,w]`` to ``[B,outputs,h,w]``."""
        return F.relu(self.bn(self.conv(x)), inplace=True)
