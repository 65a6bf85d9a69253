"""A teacher that follows its student; the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import mindspore as ms
from mindspore import Tensor, nn, ops

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
    if decay == 0:
        for parameter, other in zip(mine, theirs, strict=True):
            ops.assign(parameter, other)
    else:
        _compiled_average(tuple(mine), tuple(theirs))(ms.Tensor(decay, ms.float32), ms.Tensor(1 - decay, ms.float32))


@lru_cache(maxsize=4)
def _compiled_average(mine: tuple[ms.Parameter, ...], theirs: tuple[ms.Parameter, ...]) -> Callable[..., tuple]:
    """Return the moving average of these parameters, whose names must differ, as one compiled graph."""
    mine, theirs = ms.ParameterTuple(mine), ms.ParameterTuple(theirs)

    @ms.jit
    def move(decay: Tensor, rest: Tensor) -> tuple[Tensor, ...]:
        # All results are returned: what a graph does not return it need not compute.
        return _EACH(ops.partial(_TOWARDS, decay, rest), mine, theirs)

    return move


_EACH, _TOWARDS = ops.HyperMap(), ops.MultitypeFuncGraph("towards")


@_TOWARDS.register("Tensor", "Tensor", "Tensor", "Tensor")
def _towards(decay: Tensor, rest: Tensor, parameter: Tensor, other: Tensor) -> Tensor:
    return ops.assign(parameter, parameter * decay + other * rest)
