"""Learning rate schedules."""

from __future__ import annotations


def poly(base: float, iteration: int, total: int, power: float, warmup: int = 0) -> float:
    """Return base * (1 - iteration/total)^power: the rate of the step with index ``iteration`` (``specs/u2pl.md`` section 4).

    During the first ``warmup`` iterations it is base * iteration/warmup instead (``specs/cpcl.md`` section 7).
    """
    if iteration < warmup:
        return base * iteration / warmup
    return base * (1 - iteration / total) ** power
