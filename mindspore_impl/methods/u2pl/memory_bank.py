"""One queue of features per class as a ring buffer on the host; the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class MemoryBank:
    """Queues of feature rows, oldest first, each with its own capacity (``specs/u2pl.md`` section 8.1).

    Appending writes only the new rows; the queue's logical row r (oldest = 0) lies at ``(head - count + r) mod capacity``.
    """

    def __init__(self, capacities: Sequence[int], width: int) -> None:
        self.rows = [np.empty((capacity, width), np.float32) for capacity in capacities]
        self.heads = [0] * len(self.rows)
        self.counts = [0] * len(self.rows)

    def append(self, index: int, keys: np.ndarray) -> None:
        """Put ``keys`` ``[n,D]`` behind queue ``index``; the oldest rows beyond the capacity go."""
        rows = self.rows[index]
        capacity = len(rows)
        keys = np.asarray(keys)[-capacity:]
        head = self.heads[index]
        first = min(len(keys), capacity - head)
        rows[head : head + first] = keys[:first]
        rows[: len(keys) - first] = keys[first:]
        self.heads[index] = (head + len(keys)) % capacity
        self.counts[index] = min(self.counts[index] + len(keys), capacity)

    def gather(self, index: int, logical: np.ndarray) -> np.ndarray:
        """Return rows ``[n,D]`` of queue ``index`` by their logical positions ``[n]``."""
        capacity = len(self.rows[index])
        physical = (self.heads[index] - self.counts[index] + logical) % capacity
        return self.rows[index][physical]

    def queue(self, index: int) -> np.ndarray:
        """Return queue ``index`` as float32 ``[count,D]``, oldest first."""
        return self.gather(index, np.arange(self.counts[index]))

    def state(self) -> dict[str, np.ndarray]:
        """Return every queue by name, oldest row first."""
        return {f"bank.{index}": self.queue(index) for index in range(len(self.rows))}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` returned."""
        for index in range(len(self.rows)):
            self.heads[index] = self.counts[index] = 0
            self.append(index, state[f"bank.{index}"])
