"""The length of an epoch with several processes in PyTorch's way, by which published numbers of steps are checked."""

from __future__ import annotations


def distributed_epoch(images: int, processes: int, batch: int) -> tuple[int, int]:
    """Return how many images a process sees and how many steps an epoch has where the list is padded to a multiple of
    ``processes`` and a last batch that is not full is dropped."""
    each = -(-images // processes)
    return each, each // batch
