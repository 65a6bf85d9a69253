"""The tests that the whole steps of every method pass: the same start, batches and draws give the same in both frameworks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from common.config.schema import ExperimentConfig
from common.methods.interface import Batch, Clock, NonFiniteLoss
from common.networks.tensors import is_counter
from tests.parity.steps import (
    CURVE,
    FIRST_STEP,
    GRADIENTS,
    STEPS,
    STEPS_PER_EPOCH,
    apart,
    clock,
    gradients,
    in_mindspore,
    in_torch,
    together,
)

Losses = list[dict[str, float]]

IN_FRAMEWORK = {"torch": in_torch, "mindspore": in_mindspore}


class StepParity:
    """A method's file says what is its own: settings, batches, first steps to compare, rules to break.

    ``BROKEN`` are functions of a method in PyTorch and pytest's ``monkeypatch`` that break one rule, which ``BROKEN_STEPS`` steps
    must show. ``METHODS`` are the settings of the methods that these batches are for. The 20 steps are a slow test without ``QUICK_CURVE``.
    """

    CONFIG: ClassVar[ExperimentConfig]
    FIRST_STEPS: ClassVar[Mapping[str, ExperimentConfig]]
    BROKEN: ClassVar[Sequence[Callable[[Any, pytest.MonkeyPatch], None]]]
    BROKEN_STEPS: ClassVar[int] = STEPS
    QUICK_CURVE: ClassVar[bool] = False
    METHODS: ClassVar[Mapping[str, ExperimentConfig]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "METHODS" not in vars(cls):
            cls.METHODS = {cls.CONFIG.method.name: cls.CONFIG}

    def batches(self, count: int) -> list[Batch]:
        """Return ``count`` batches of 2 images of each kind."""
        raise NotImplementedError

    def before_epoch(self, method, clock: Clock) -> None:
        """Do what the trainer does before the first step of an epoch."""

    def idle_terms(self, config: ExperimentConfig) -> set[str]:
        """Return the terms that are 0 in the first step with ``config``."""
        return set()

    def check_first_step(self, ours, theirs) -> None:
        """Compare what else the first step leaves, in PyTorch and MindSpore."""

    def check_curve(self, losses: Losses, ours) -> None:
        """Check that the 20 steps have passed through what the comparison is about; ``ours`` is the method in PyTorch."""

    def run(self, method, start: int = 0, stop: int = STEPS) -> Losses:
        """Return the losses of steps ``start`` to ``stop`` - 1."""
        losses = []
        for iteration, batch in enumerate(self.batches(stop)[start:], start):
            if iteration % STEPS_PER_EPOCH == 0:
                self.before_epoch(method, clock(iteration))
            losses.append(method.step(batch, clock(iteration)))
        return losses

    def test_first_step(self, first_step: str, monkeypatch) -> None:
        config = self.FIRST_STEPS[first_step]
        ours, theirs = in_torch(config), in_mindspore(config)
        for optimizer in theirs.optimizers.values():
            monkeypatch.setattr(optimizer, "step", lambda _: None)
        expected, losses = (self.run(method, stop=1) for method in (ours, theirs))
        assert apart(losses, expected) <= FIRST_STEP
        assert {term for term, value in expected[0].items() if not value} == self.idle_terms(config)
        for role, optimizer in ours.optimizers.items():
            assert together(*gradients(optimizer, theirs.optimizers[role])) <= GRADIENTS
        self.check_first_step(ours, theirs)

    def test_twenty_steps(self, curve) -> None:
        ours = in_torch(self.CONFIG)
        losses, networks, state = curve
        assert apart(losses, self.run(ours)) <= CURVE
        self.check_curve(losses, ours)
        for tensors, expected in [
            (state, ours.state()),
            *((networks[role], part) for role, part in ours.networks().items()),
        ]:
            names = [name for name in expected if not is_counter(name)]
            assert set(tensors) == set(names) and all(tensors[name].shape == expected[name].shape for name in names)
            assert together([tensors[name] for name in names], [expected[name] for name in names]) <= 10 * CURVE

    def test_a_rule_broken_in_one_framework_leaves_the_gate(self, curve, broken, monkeypatch) -> None:
        ours = in_torch(self.CONFIG)
        broken(ours, monkeypatch)
        assert self.differ(curve, self.run(ours, stop=self.BROKEN_STEPS), ours)

    def differ(self, curve, losses: Losses, ours) -> bool:
        """Whether the steps of ``ours``, whose losses these are, leave the gate of 20 steps."""
        return apart(losses, curve[0][: len(losses)]) > CURVE

    @pytest.mark.parametrize("framework", IN_FRAMEWORK)
    def test_a_loss_that_is_not_finite_stops_before_the_optimisers(self, framework: str, name: str) -> None:
        method, batch = IN_FRAMEWORK[framework](self.METHODS[name]), self.batches(1)[0]
        self.before_epoch(method, clock(0))
        batch["labelled"]["image"][0, 0, 0, 0] = np.nan
        before = [_values(optimizer) for optimizer in method.optimizers.values()]
        with pytest.raises(NonFiniteLoss, match="a, b"):
            method.step(batch, clock(0))
        for kept, optimizer in zip(before, method.optimizers.values()):
            assert not optimizer.state() and all(map(np.array_equal, kept, _values(optimizer)))


def _values(optimizer) -> list[np.ndarray]:
    """Return copies of an optimiser's parameters, in either framework."""
    return [
        np.array(parameter.detach().numpy() if hasattr(parameter, "detach") else parameter.asnumpy())
        for parameter in optimizer.parameters
    ]
