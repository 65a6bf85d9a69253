"""One queue of features per class as a ring buffer on the device; the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops
from mindspore.common.initializer import Zero


class MemoryBank:
    """Queues of feature rows, oldest first, each with its own capacity (the authors' ``u2pl/utils/utils.py``).

    Appending writes only the new rows; the queue's logical row r (oldest = 0) lies at ``(head - count + r) mod capacity`` of the
    queue's part of ``rows``.
    """

    def __init__(self, capacities: Sequence[int], width: int) -> None:
        # Of a tensor that is still to be initialised, a CPU lends memory for the rows only that are written.
        rows = Tensor(shape=(sum(capacities), width), dtype=ms.float32, init=Zero())
        self.rows = Parameter(rows, "bank", requires_grad=False)
        self.capacities = np.array(capacities)
        self.starts = np.cumsum(self.capacities) - self.capacities
        self.heads = np.zeros_like(self.capacities)
        self.counts = np.zeros_like(self.capacities)

    def append(self, index: int, keys: Tensor) -> None:
        """Put ``keys`` ``[n,D]`` behind queue ``index``; the oldest rows beyond the capacity go."""
        start, capacity = int(self.starts[index]), int(self.capacities[index])
        if not len(keys):  # MindSpore takes no slice of an empty tensor
            return
        keys = keys[-capacity:]
        head = int(self.heads[index])
        places, written = start + (head + np.arange(len(keys))) % capacity, 0
        while written < len(keys):
            # In place also inside of what is differentiated, where assigning to a slice copies the whole bank; in powers of two,
            # because MindSpore keeps an operator for every length.
            part = slice(written, written + (1 << ((len(keys) - written).bit_length() - 1)))
            ops.scatter_update(self.rows, ms.Tensor(places[part].astype(np.int32)), keys[part])
            written = part.stop
        self.heads[index] = (head + len(keys)) % capacity
        self.counts[index] = min(self.counts[index] + len(keys), capacity)

    def gather(self, index: int | np.ndarray, logical: np.ndarray) -> Tensor:
        """Return rows ``[n,D]`` by their logical positions ``[n]`` in queue ``index``, or in a queue ``[n]`` for each."""
        place = (self.heads[index] - self.counts[index] + logical) % self.capacities[index]
        return ops.gather(self.rows, ms.Tensor((self.starts[index] + place).astype(np.int32)), 0)

    def queue(self, index: int) -> np.ndarray:
        """Return queue ``index`` as float32 ``[count,D]``, oldest first."""
        return self.gather(index, np.arange(self.counts[index])).asnumpy()

    def state(self) -> dict[str, np.ndarray]:
        """Return every queue by name, oldest row first."""
        return {f"bank.{index}": self.queue(index) for index in range(len(self.capacities))}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` returned."""
        for index in range(len(self.capacities)):
            self.heads[index] = self.counts[index] = 0
            self.append(index, ms.Tensor(state[f"bank.{index}"]))
