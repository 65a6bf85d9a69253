"""One queue of features per class as a ring buffer on the device; the MindSpore file of the same name mirrors this one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class MemoryBank:
    """Queues of feature rows, oldest first, each with its own capacity (the authors' ``u2pl/utils/utils.py``).

    Appending writes only the new rows; the queue's logical row r (oldest = 0) lies at ``(head - count + r) mod capacity`` of the
    queue's part of ``rows``.
    """

    def __init__(self, capacities: Sequence[int], width: int, device: torch.device | str = "cpu") -> None:
        self.rows = torch.empty((sum(capacities), width), device=device)
        self.capacities = np.array(capacities)
        self.starts = np.cumsum(self.capacities) - self.capacities
        self.heads = np.zeros_like(self.capacities)
        self.counts = np.zeros_like(self.capacities)

    def append(self, index: int, keys: Tensor) -> None:
        """Put ``keys`` ``[n,D]`` behind queue ``index``; the oldest rows beyond the capacity go."""
        start, capacity = int(self.starts[index]), int(self.capacities[index])
        keys = keys[-capacity:]
        head = int(self.heads[index])
        first = min(len(keys), capacity - head)
        self.rows[start + head : start + head + first] = keys[:first]
        self.rows[start : start + len(keys) - first] = keys[first:]
        self.heads[index] = (head + len(keys)) % capacity
        self.counts[index] = min(self.counts[index] + len(keys), capacity)

    def gather(self, index: int | np.ndarray, logical: np.ndarray) -> Tensor:
        """Return rows ``[n,D]`` by their logical positions ``[n]`` in queue ``index``, or in a queue ``[n]`` for each."""
        place = (self.heads[index] - self.counts[index] + logical) % self.capacities[index]
        return self.rows.index_select(0, torch.from_numpy(self.starts[index] + place).to(self.rows.device))

    def queue(self, index: int) -> np.ndarray:
        """Return queue ``index`` as float32 ``[count,D]``, oldest first."""
        return self.gather(index, np.arange(self.counts[index])).cpu().numpy()

    def state(self) -> dict[str, np.ndarray]:
        """Return every queue by name, oldest row first."""
        return {f"bank.{index}": self.queue(index) for index in range(len(self.capacities))}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` returned."""
        for index in range(len(self.capacities)):
            self.heads[index] = self.counts[index] = 0
            self.append(index, torch.from_numpy(state[f"bank.{index}"]).to(self.rows.device))
