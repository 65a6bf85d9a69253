"""The factor of a float16 loss where the framework brings none: grows while gradients stay finite, shrinks where they do not."""

from __future__ import annotations

import numpy as np

START, GROWTH_STEPS = 65536.0, 2000
"""First factor and the finite steps after which it doubles: those of PyTorch's ``GradScaler``."""


class LossScale:
    """``value`` is the factor of the loss in the next step."""

    def __init__(self) -> None:
        self.value, self.steps = START, 0

    def update(self, finite: bool) -> None:
        """Halve the factor after gradients that are not finite, double it after ``GROWTH_STEPS`` steps with finite ones."""
        if not finite:
            self.value, self.steps = self.value / 2, 0
            return
        self.steps += 1
        if self.steps == GROWTH_STEPS:
            self.value, self.steps = self.value * 2, 0

    def state(self) -> dict[str, np.ndarray]:
        """Return factor and steps since it last changed."""
        return {"loss_scale": np.float32([self.value]), "loss_scale_steps": np.int64([self.steps])}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` returned."""
        self.value, self.steps = float(state["loss_scale"][0]), int(state["loss_scale_steps"][0])
