"""Losses whose value and gradient are computed together; the MindSpore file of the same name mirrors this one."""

from __future__ import annotations

import torch
from torch import Tensor


def known(x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """Return ``value`` as a function of ``x`` whose ``gradient`` with respect to it, of its shape, is known."""
    linear = (x * gradient.detach()).sum()
    return value.detach() + (linear - linear.detach())


class KnownGradient(torch.autograd.Function):
    """A loss whose gradient with respect to some pixels of a feature map is already known."""

    @staticmethod
    def forward(ctx, features: Tensor, pixel: Tensor, gradient: Tensor, value: float) -> Tensor:
        """Return ``value``; ``gradient`` ``[n,D]`` belongs to flat positions ``pixel`` ``[n]`` of ``features`` ``[B,D,h,w]``."""
        ctx.save_for_backward(pixel, gradient)
        ctx.shape = features.shape
        return features.new_tensor(value)

    @staticmethod
    def backward(ctx, upstream: Tensor):
        """Scatter the known gradient into a zero map, written row by row (channels last)."""
        pixel, gradient = ctx.saved_tensors
        batch, width, height, columns = ctx.shape
        rows = gradient.new_zeros((batch * height * columns, width))
        rows.index_add_(0, pixel, gradient * upstream)
        return rows.view(batch, height, columns, width).permute(0, 3, 1, 2), None, None, None
