"""AdamW in float64 NumPy (Loshchilov and Hutter 2019, algorithm 2, with the schedule multiplied into the rate)."""

from __future__ import annotations

import numpy as np

BETA, EPSILON = 0.999, 1e-8


class AdamW:
    """One parameter. ``coupled`` adds the decay to the gradient instead, as Adam with L2 regularisation does: another method."""

    def __init__(self, value: np.ndarray, beta: float, decay: float, coupled: bool = False) -> None:
        self.value, self.beta, self.decay, self.coupled = value.astype(np.float64), beta, decay, coupled
        self.mean, self.square, self.steps = np.zeros_like(self.value), np.zeros_like(self.value), 0

    def step(self, gradient: np.ndarray, rate: float) -> None:
        """Make a step."""
        if self.coupled:
            gradient = gradient + self.decay * self.value
        else:
            self.value -= rate * self.decay * self.value
        self.steps += 1
        self.mean += (1 - self.beta) * (gradient - self.mean)
        self.square += (1 - BETA) * (gradient**2 - self.square)
        mean, square = self.mean / (1 - self.beta**self.steps), self.square / (1 - BETA**self.steps)
        self.value -= rate * mean / (np.sqrt(square) + EPSILON)
