"""Pixel losses of both frameworks, with their gradients, against NumPy in double precision."""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
import numpy as np
import pytest
import torch

import mindspore_impl.losses
import torch_impl.losses
from mindspore_impl.device import start
from tests.oracles import losses as oracle
from tests.parity.test_losses import CLASSES, GATE, SIZE, array, difference, random_labels, random_logits, tensor

WEIGHTS = tuple(np.linspace(0.5, 2, CLASSES).tolist())
PIXEL_WEIGHTS = np.random.default_rng(30).random((3, *SIZE)).astype(np.float32)
CASES = {
    "cross_entropy": (),
    "cross_entropy with class weights": (WEIGHTS,),
    "weighted_cross_entropy": (PIXEL_WEIGHTS, 7.0),
    "reverse_cross_entropy": (),
    "resized_cross_entropy": (),
}


@pytest.fixture(scope="module", autouse=True)
def device():
    """Select MindSpore's device once."""
    start("cpu")


def by_torch(loss: Callable, logits: np.ndarray, *arguments) -> list[np.ndarray]:
    """Return value and gradient."""
    leaf = torch.tensor(logits, requires_grad=True)
    value = loss(leaf, *map(tensor, arguments))
    value.backward()
    return [array(x.detach()) for x in (value, leaf.grad)]


def by_mindspore(loss: Callable, logits: np.ndarray, *arguments) -> list[np.ndarray]:
    """Return value and gradient."""
    arguments = [ms.Tensor(x) if isinstance(x, np.ndarray) else x for x in arguments]
    return [array(x) for x in ms.value_and_grad(lambda x: loss(x, *arguments))(ms.Tensor(logits))]


FRAMEWORKS = {"torch": (torch_impl.losses, by_torch), "mindspore": (mindspore_impl.losses, by_mindspore)}


def apart(framework: str, case: str, labels: np.ndarray, logits: np.ndarray, expected) -> float:
    """Return the larger of the relative differences of value and gradient."""
    module, run = FRAMEWORKS[framework]
    computed = run(getattr(module, case.partition(" ")[0]), logits, labels, *CASES[case])
    return max(difference(a, b) for a, b in zip(computed, expected, strict=True))


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("case", CASES)
def test_losses(case: str, ignored: float, framework: str):
    logits, labels = random_logits(31), random_labels(32, ignored)
    if case == "resized_cross_entropy":
        logits = logits[:, :, ::2, ::2]
    expected = getattr(oracle, case.partition(" ")[0])(logits, labels, *CASES[case])
    assert apart(framework, case, labels, logits, expected) <= GATE
    if ignored == 0.3:  # the control: one label more
        labels[0, 0, 0] = 0 if labels[0, 0, 0] else 1
        assert apart(framework, case, labels, logits, expected) > GATE


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("thresh", "min_kept"), [(0.0, 100), (0.4, 1), (0.4, 250), (1.0, 10)])
def test_ohem(thresh: float, min_kept: int, framework: str):
    logits, labels = random_logits(33), random_labels(34)
    module, make = FRAMEWORKS[framework][0], tensor if framework == "torch" else ms.Tensor
    kept = array(module.ohem_labels(make(logits), make(labels), thresh, min_kept))
    np.testing.assert_array_equal(kept, oracle.ohem_labels(logits, labels, thresh, min_kept))
    assert (kept != 255).any()
