"""A teacher that follows its student; the MindSpore file of the same name mirrors this one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

RUNNING = ("running_mean", "running_var")
"""Endings of the names of BatchNorm's running statistics."""


def update_teacher(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Move every teacher parameter to decay * teacher + (1 - decay) * student; buffers stay the teacher's own."""
    _average(list(teacher.parameters()), list(student.parameters()), decay)


def update_buffers(teacher: nn.Module, student: nn.Module, decay: float, endings: tuple[str, ...]) -> None:
    """Move the teacher's buffers whose names end like this as :func:`update_teacher` moves parameters."""
    pairs = zip(teacher.named_buffers(), student.buffers(), strict=True)
    chosen = [(mine, theirs) for (name, mine), theirs in pairs if name.endswith(endings)]
    _average(*map(list, zip(*chosen)), decay)


def _average(mine: list[Tensor], theirs: list[Tensor], decay: float) -> None:
    with torch.no_grad():
        if decay == 0:
            torch._foreach_copy_(mine, theirs)
        else:
            torch._foreach_mul_(mine, decay)
            torch._foreach_add_(mine, theirs, alpha=1 - decay)
