"""Learning rate schedules."""

from __future__ import annotations


def poly(base: float, iteration: int, total: int, power: float) -> float:
    """Return base * (1 - iteration/total)^power: the rate of the step with index ``iteration`` (``specs/u2pl.md`` section 4)."""
    return base * (1 - iteration / total) ** power


def distributed_epoch(images: int, processes: int, batch: int) -> tuple[int, int]:
    """Return how many images a process sees and how many steps an epoch has where the list is padded to a multiple of
    ``processes`` and a last batch that is not full is dropped (``specs/pcr.md`` section 5)."""
    each = -(-images // processes)
    return each, each // batch
