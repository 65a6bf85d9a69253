"""Networks to and from neutral arrays, and checkpoint files; the MindSpore file of the same name mirrors this one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from common.checkpoints.checkpoint import Checkpoint, content_for, write
from common.checkpoints.formats import file_format
from common.files import atomic_path
from common.networks.tensors import Tensors, is_counter, require_match


def network_tensors(network: nn.Module) -> Tensors:
    """Return copies of all parameters and buffers by neutral name."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in network.state_dict().items()}


def load_network(network: nn.Module, tensors: Tensors, where: str) -> None:
    """Copy ``tensors`` into the network; BatchNorm counters that are absent become 0.

    Raises :class:`common.errors.UserError` listing missing, surplus and misshapen names of ``where``; nothing is loaded
    then.
    """
    targets = network.state_dict()
    require_match({name: tuple(target.shape) for name, target in targets.items()}, tensors, where)
    with torch.no_grad():
        for name, target in targets.items():
            if name in tensors:
                target.copy_(torch.tensor(tensors[name]))
            elif is_counter(name):
                target.zero_()


def save_checkpoint(path: str | os.PathLike, checkpoint: Checkpoint, dialect: str | None = None) -> None:
    """Write a checkpoint whole or not at all, in the format of the suffix.

    A ``.pth`` file holds tensors and plain values only, so ``torch.load`` reads it with ``weights_only=True``.
    ``dialect`` None: this project's names. Raises :class:`common.errors.UserError` for a suffix or layout that cannot
    hold it.
    """
    if file_format(path) != ".pth":
        write(path, checkpoint, dialect)
        return
    payload = _to_torch(content_for(path, checkpoint, dialect))
    with atomic_path(path) as temporary:
        _save(payload, temporary)


def _save(payload: dict[str, Any], path: Path) -> None:
    """Save through an open file; by path the archive would contain the temporary name and its bytes would vary."""
    with open(path, "wb") as file:
        try:
            torch.save(payload, file)
        except RuntimeError as error:
            # The archive writer reports a full disk as a broken archive; the cause is in the context.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _to_torch(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        # By way of one dimension, because NumPy's strides of an empty or one-element array are not unique.
        return torch.from_numpy(np.require(value.reshape(-1), requirements="W")).view(value.shape)
    if isinstance(value, dict):
        return {sys.intern(key): _to_torch(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_to_torch(item) for item in value]
    # A pickle refers back to a string that is the same object: interned, equal content always gives equal bytes.
    return sys.intern(value) if isinstance(value, str) else value
