"""Learning rate schedules."""

from __future__ import annotations

from common.config.schema import CountedSteps, OptimizerConfig
from common.methods.interface import Clock


def poly(base: float, iteration: int, total: int, power: float, warmup: int = 0) -> float:
    """Return base * (1 - iteration/total)^power: the rate of the step with index ``iteration`` (U2PL's ``u2pl/utils/lr_helper.py``).

    During the first ``warmup`` iterations it is base * iteration/warmup instead, as in CPCL's program.
    """
    if iteration < warmup:
        return base * iteration / warmup
    return base * (1 - iteration / total) ** power


def poly_authors(base: float, clock: Clock, counted: int, power: float) -> float:
    """Return the rate of USRN's scheduler, which takes every epoch for ``counted`` steps (its ``utils/lr_scheduler.py``).

    Its counter starts anew after ``counted`` steps, not with the epoch, so that with shorter epochs the rate saw-tooths.
    """
    if clock.iteration == 0:
        return base
    epoch, count = (clock.iteration - 1) // clock.iterations_per_epoch, (clock.iteration - 1) % counted + 1
    return poly(base, epoch * counted + count, clock.epochs * counted, power)


def learning_rate(config: OptimizerConfig, clock: Clock) -> float:
    """Return the encoder's rate in this step."""
    if isinstance(config, CountedSteps) and config.lr_counter == "authors":
        return poly_authors(config.lr, clock, config.counted_steps, config.poly_power)
    iteration = max(clock.iteration - config.poly_lag, 0)
    return poly(config.lr, iteration, clock.total, config.poly_power, config.warmup)
