"""The processes of a run: how they find one another and what they add up; the PyTorch file of the same name mirrors this one.

A launcher (``msrun``) starts them; without one there is a single process, and nothing here communicates.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, communication, mint, ops

from common.methods.groups import Groups
from mindspore_impl.device import LAUNCHED, choose_device

_JOINED: list[tuple[int, int]] = []
"""This process's number and how many there are, once :func:`start` has met others."""


def start(device: str = "auto") -> tuple[int, int]:
    """Join the other processes if a launcher has started this one; return its number and how many there are.

    ``device`` as in ``trainer.device``; the launcher numbers the Ascends of a machine.
    """
    if not _JOINED and LAUNCHED in os.environ:
        choose_device(device)
        communication.init()
        _JOINED.append((communication.get_rank(), communication.get_group_size()))
    return place()


def stop() -> None:
    """Leave the other processes together with them: whatever one does before it comes here is done when any goes on."""
    if _JOINED:
        Processes().wait()
        _JOINED.clear()
        communication.release()


class Processes:
    """This process among all of a run, ``groups`` being how the batch falls into groups; sums have no gradient.

    ``groups``: their number, by default one per process. ``asked``: whether this process was asked to stop; ``stopping``: whether
    any was when :meth:`totals` was last called.
    """

    def __init__(self, groups: int | None = None) -> None:
        index, count = place()
        self.groups = Groups(groups or count, index, count)
        self.index, self.count = index, count
        self.asked = self.stopping = False

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes; float32 or whole numbers."""
        if self.count == 1:
            return values
        if values.dtype == ms.float32:
            return ops.AllReduce()(values)
        total = values.copy()
        mint.distributed.all_reduce(total)
        return total

    def sum_gradients(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the gradients' sums over all processes: one all-reduce for all."""
        if self.count == 1 or not gradients:
            return gradients
        flat = self.sum(ops.cat([gradient.reshape(-1) for gradient in gradients]))
        parts = ops.split(flat, [gradient.size for gradient in gradients])
        return tuple(part.reshape(gradient.shape) for gradient, part in zip(gradients, parts))

    def rows(self, local_rows: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """Return the rows of all groups in order; ``local_rows[i]`` are those of own group i, a list of ``[n,D]``, n as it comes."""
        if self.count == 1:
            return [list(group) for group in local_rows]
        everyone: list = [None] * self.count
        mint.distributed.all_gather_object(everyone, [[np.asarray(rows) for rows in group] for group in local_rows])
        return [[ms.Tensor(rows) for rows in group] for process in everyone for group in process]

    def totals(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the sums over all processes by name, and learn whether any was asked to stop: the same answer everywhere."""
        if self.count == 1:
            self.stopping = self.asked
            return dict(values)
        summed = self.sum(ms.Tensor([*values.values(), float(self.asked)], ms.float32)).tolist()
        self.stopping = summed.pop() > 0
        return dict(zip(values, summed))

    def sum_counts(self, counts: np.ndarray) -> np.ndarray:
        """Return the sum over all processes of whole numbers, int64 of any shape."""
        return self.sum(ms.Tensor(counts)).asnumpy() if self.count > 1 else counts

    def texts(self, message: str) -> str:
        """Return what all processes say, one after the other; a process may say nothing."""
        if self.count == 1:
            return message
        said: list = [""] * self.count
        mint.distributed.all_gather_object(said, message)
        return "; ".join(text for text in said if text)

    def from_first(self, array: np.ndarray) -> np.ndarray:
        """Return the first process's array; all give one of the same shape and type."""
        if self.count == 1:
            return array
        return ops.Broadcast(0)((ms.Tensor(np.ascontiguousarray(array)),))[0].asnumpy()

    def wait(self) -> None:
        """Wait until all processes have come here."""
        self.totals({})


def place() -> tuple[int, int]:
    """Return this process's number and how many there are."""
    return _JOINED[0] if _JOINED else (0, 1)
