"""Networks to and from neutral arrays, and checkpoint files; the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

import os

import mindspore as ms
from mindspore import nn, ops

from common.checkpoints.checkpoint import Checkpoint, write
from common.checkpoints.dialects import mindspore_norms, torch_norms
from common.networks.tensors import Tensors, is_counter, require_match


def network_tensors(network: nn.Cell) -> Tensors:
    """Return copies of all parameters by neutral name; MindSpore has no BatchNorm counters."""
    return torch_norms({name: parameter.asnumpy().copy() for name, parameter in network.parameters_and_names()})


def load_network(network: nn.Cell, tensors: Tensors, where: str) -> None:
    """Assign ``tensors`` to the network's parameters; BatchNorm counters are left out.

    Raises :class:`common.errors.UserError` listing missing, surplus and misshapen names of ``where``; nothing is loaded
    then.
    """
    require_match({name: array.shape for name, array in network_tensors(network).items()}, tensors, where)
    targets = dict(network.parameters_and_names())
    for name, array in mindspore_norms(tensors).items():
        if not is_counter(name):
            # Not set_data: graphs that are already compiled would not see the new values.
            ops.assign(targets[name], ms.Tensor(array, targets[name].dtype))


def save_checkpoint(path: str | os.PathLike, checkpoint: Checkpoint, dialect: str | None = None) -> None:
    """Write a checkpoint whole or not at all, in the format of the suffix.

    A ``.ckpt`` file is read by ``mindspore.load_checkpoint``. ``dialect`` None: this project's names, in ``.ckpt`` with
    MindSpore's names in BatchNorms. Raises :class:`common.errors.UserError` for a suffix or layout that cannot hold it.
    """
    write(path, checkpoint, dialect)
