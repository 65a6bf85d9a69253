"""What the tests of whole training steps share: made-up batches, a clock, a method in either framework, comparisons."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

import mindspore_impl.methods
import mindspore_impl.session
import torch_impl.methods
import torch_impl.session
from common.config.schema import ExperimentConfig
from common.methods.interface import Clock
from tests.networks import compiled_once
from tests.parity.pairs import relative_error

FIRST_STEP, CURVE = 1e-4, 1e-3
"""The design's gates: relative error of every loss term in the first step, and over 20 steps."""

GRADIENTS = 1e-4
"""Relative error of all gradients of the first step together; the float32 noise of these networks is 100 times smaller."""

STEPS, STEPS_PER_EPOCH = 20, 5


class Checkerboards:
    """Noisy checkerboards of ``size`` x ``size`` and labels in fields of the same kind, one after the other from ``seed``."""

    def __init__(self, seed: int, classes: int, size: int = 33) -> None:
        self.rng, self.classes, self.size = np.random.default_rng(seed), classes, size

    def images(self, count: int = 2) -> np.ndarray:
        """Return float32 ``[count,3,size,size]``."""
        noise = 0.3 * self.rng.standard_normal((count, 3, self.size, self.size))
        return (self._coarse(self.rng.standard_normal((count, 3, 5, 5))) + noise).astype(np.float32)

    def labels(self, count: int = 2, ignored_rows: int = 3) -> np.ndarray:
        """Return uint8 ``[count,size,size]`` whose first rows are 255."""
        labels = self._coarse(self.rng.integers(0, self.classes, (count, 5, 5))).astype(np.uint8)
        labels[:, :ignored_rows] = 255
        return labels

    def _coarse(self, values: np.ndarray) -> np.ndarray:
        field = -(-self.size // 5)
        return values.repeat(field, -2).repeat(field, -1)[..., : self.size, : self.size]


def clock(iteration: int) -> Clock:
    """Return where a run of 4 epochs of 5 steps stands."""
    epoch, step = divmod(iteration, STEPS_PER_EPOCH)
    return Clock(epoch=epoch, step=step, iteration=iteration, epochs=4, iterations_per_epoch=STEPS_PER_EPOCH)


def in_torch(config: ExperimentConfig):
    """Return the method in PyTorch at its start."""
    return torch_impl.methods.method_class(config.method.name)(config, torch_impl.session.Session(config))


def in_mindspore(config: ExperimentConfig):
    """Return the method in MindSpore at its start; all share their networks, so only the latest is usable."""
    with compiled_once():
        return mindspore_impl.methods.method_class(config.method.name)(config, mindspore_impl.session.Session(config))


IN_EACH = pytest.mark.parametrize("make", [in_torch, pytest.param(in_mindspore, marks=pytest.mark.slow)])
"""Once in either framework; MindSpore, which compiles, is left to the slow tests."""


def run(method, batches: list[dict], start: int = 0) -> list[dict[str, float]]:
    """Return the losses of the steps over ``batches``, from iteration ``start`` on."""
    return [method.step(batch, clock(start + index)) for index, batch in enumerate(batches)]


def apart(computed: list[dict[str, float]], expected: list[dict[str, float]]) -> float:
    """Return the largest relative difference of a loss term in any step."""
    assert [list(losses) for losses in computed] == [list(losses) for losses in expected]
    pairs = [(a[name], b[name]) for a, b in zip(computed, expected) for name in a]
    return max(abs(a - b) / max(abs(b), 1e-12) for a, b in pairs)


def together(computed: Iterable[np.ndarray], expected: Iterable[np.ndarray]) -> float:
    """Return the relative error of all arrays as one vector; some alone are noise (a bias before a BatchNorm)."""
    return relative_error(*(np.concatenate([array.ravel() for array in arrays]) for arrays in (computed, expected)))


def gradients(ours, theirs) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return MindSpore's and PyTorch's gradients that ``differentiate`` of these two optimisers left, name by name."""
    by_name = {name: parameter.grad for name, parameter in zip(ours.names, ours.parameters)}
    pairs = zip(theirs.names, theirs.gradients, strict=True)
    both = [(gradient.asnumpy(), by_name[name].numpy()) for name, gradient in pairs if by_name[name] is not None]
    return tuple(map(list, zip(*both)))
