"""Learning rate schedules."""

from __future__ import annotations


def poly(base: float, iteration: int, total: int, power: float) -> float:
    """Return base * (1 - iteration/total)^power: the rate of the step with index ``iteration`` (``specs/u2pl.md`` section 4)."""
    return base * (1 - iteration / total) ** power
