"""The processes of a run: how they find one another and what they add up; the MindSpore file of the same name mirrors this one.

A launcher (``torchrun``) starts them; without one there is a single process, and nothing here communicates.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from common.errors import UserError
from common.methods.groups import Groups
from common.training.launched import patience


def start(device: str = "auto") -> tuple[int, int]:
    """Join the other processes if a launcher has started this one; return its number and how many there are.

    ``device`` as in ``trainer.device``. GPUs of one machine are shared out in order; their tensors go through NCCL, the
    host's through Gloo. Raises :class:`UserError` where there are fewer GPUs than processes.
    """
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        backend = "gloo"
        if device != "cpu" and torch.cuda.is_available():
            local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
            if local >= there:
                raise UserError(
                    f"process {local + 1} of this machine has no GPU, there are {there}: use --processes {there}"
                )
            torch.cuda.set_device(local)
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, timeout=timedelta(seconds=patience()))
    return place()


def stop() -> None:
    """Leave the other processes together with them: whatever one does before it comes here is done when any goes on."""
    if dist.is_initialized():
        Processes().wait()
        dist.destroy_process_group()


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
        """Return the sum over all processes."""
        if self.count == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def sum_gradients(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the gradients' sums over all processes, in their place: one all-reduce for all."""
        if self.count > 1 and gradients:
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            dist.all_reduce(flat)
            for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
                gradient.copy_(part.view_as(gradient))
        return gradients

    def rows(self, local_rows: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """Return the rows of all groups in order; ``local_rows[i]`` are those of own group i, a list of ``[n,D]``, n as it comes."""
        if self.count == 1:
            return [list(group) for group in local_rows]
        sizes = torch.zeros((self.groups.total, len(local_rows[0])), dtype=torch.int64)
        sizes[list(self.groups.numbers)] = torch.tensor([[len(rows) for rows in group] for group in local_rows])
        sizes = self.sum(sizes)
        each = sizes.view(self.count, -1)
        mine = torch.cat([rows for group in local_rows for rows in group]).detach()
        padded = mine.new_zeros((int(each.sum(1).max()), mine.shape[1]))
        padded[: len(mine)] = mine
        everyone = [torch.empty_like(padded) for _ in range(self.count)]
        dist.all_gather(everyone, padded)
        cut = [part for rows, numbers in zip(everyone, each.tolist()) for part in rows[: sum(numbers)].split(numbers)]
        width = sizes.shape[1]
        return [cut[start : start + width] for start in range(0, len(cut), width)]

    def totals(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the sums over all processes by name, and learn whether any was asked to stop: the same answer everywhere."""
        if self.count == 1:
            self.stopping = self.asked
            return dict(values)
        summed = self.sum(torch.tensor([*values.values(), float(self.asked)], dtype=torch.float64)).tolist()
        self.stopping = summed.pop() > 0
        return dict(zip(values, summed))

    def sum_counts(self, counts: np.ndarray) -> np.ndarray:
        """Return the sum over all processes of whole numbers, int64 of any shape."""
        return self.sum(torch.from_numpy(counts)).numpy() if self.count > 1 else counts

    def texts(self, message: str) -> str:
        """Return what all processes say, one after the other; a process may say nothing."""
        if self.count == 1:
            return message
        said = [""] * self.count
        dist.all_gather_object(said, message)
        return "; ".join(text for text in said if text)

    def from_first(self, array: np.ndarray) -> np.ndarray:
        """Return the first process's array; all give one of the same shape and type."""
        if self.count == 1:
            return array
        sent = torch.from_numpy(np.ascontiguousarray(array))
        dist.broadcast(sent, 0)
        return sent.numpy()

    def wait(self) -> None:
        """Wait until all processes have come here."""
        self.totals({})


def place() -> tuple[int, int]:
    """Return this process's number and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
