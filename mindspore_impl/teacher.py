"""A teacher that follows its student; the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
from mindspore import nn, ops

from common.checkpoints.dialects import torch_norms

RUNNING = ("running_mean", "running_var")
"""Endings of the names of BatchNorm's running statistics."""


def update_teacher(teacher: nn.Cell, student: nn.Cell, decay: float) -> None:
    """Move every teacher parameter to decay * teacher + (1 - decay) * student; buffers stay the teacher's own."""
    _average(teacher.trainable_params(), student.trainable_params(), decay)


def update_buffers(teacher: nn.Cell, student: nn.Cell, decay: float, endings: tuple[str, ...]) -> None:
    """Move the teacher's buffers whose names end like this as :func:`update_teacher` moves parameters."""
    mine, theirs = (torch_norms(dict(network.parameters_and_names())) for network in (teacher, student))
    names = [name for name, tensor in mine.items() if not tensor.requires_grad and name.endswith(endings)]
    _average([mine[name] for name in names], [theirs[name] for name in names], decay)


def _average(mine: Sequence[ms.Parameter], theirs: Sequence[ms.Parameter], decay: float) -> None:
    on_cpu = ms.get_current_device().device_target == "CPU"
    for own, other in zip(mine, theirs, strict=True):
        values = own.asnumpy()  # on a CPU the parameter's own memory, so that writing suffices
        values *= decay
        values += (1 - decay) * other.asnumpy()
        if not on_cpu:
            ops.assign(own, ms.Tensor(values))
