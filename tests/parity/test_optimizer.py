"""AdamW in both frameworks against the formula in float64, saved and taken back, within a framework and across."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from common.experiment import compose
from common.methods.interface import Clock
from common.runtimes import FRAMEWORKS
from tests.oracles.adamw import AdamW

SETTINGS = (
    "optimizer.type=adamw", "optimizer.lr=0.01", "optimizer.weight_decay=0.1", "optimizer.head_lr_times=3",
    "trainer.device=cpu", "trainer.threads=1",
)  # fmt: skip
STEPS = 6
TOLERANCE = 1e-4
"""Of all steps together. MindSpore computes 1 - 0.999^t in float32, which is 6e-5 off at t = 1; a step is up to 0.03 long."""


def made(framework: str, *overrides: str):
    """A method of one small network, with the values that both frameworks begin with."""
    pytest.importorskip(framework)
    config = compose("shapes/12/suponly", [*SETTINGS, *overrides])
    return importlib.import_module(f"{framework}_impl.train").make_method(config)[0]


def gradient(name: str, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """The same for both frameworks: noise whose size differs by parameter."""
    rng = np.random.default_rng([step, *name.encode()])
    return (10.0 ** rng.integers(-3, 2) * rng.standard_normal(shape)).astype(np.float32)


def values(method) -> dict[str, np.ndarray]:
    return {name: value.copy() for name, value in method.networks()["student"].items()}


def run(method, framework: str, steps: range) -> None:
    """Let the optimiser make these steps."""
    optimizer = method.optimizer
    for step in steps:
        gradients = [gradient(name, step, tuple(p.shape)) for name, p in zip(optimizer.names, optimizer.parameters)]
        if framework == "torch":
            import torch

            for parameter, value in zip(optimizer.parameters, gradients):
                parameter.grad = torch.from_numpy(value)
        else:
            import mindspore as ms

            optimizer.gradients = tuple(map(ms.Tensor, gradients))
        optimizer.step(clock(step))


def clock(step: int) -> Clock:
    return Clock(epoch=0, step=step, iteration=step, epochs=1, iterations_per_epoch=10)


def expected(method, start: dict[str, np.ndarray], coupled: bool = False) -> dict[str, np.ndarray]:
    """Return the learned values by the formula."""
    optimizer, result = method.optimizer, {}
    for name in optimizer.names:
        heads, spared = optimizer.group(name, start[name].ndim)
        rule = AdamW(start[name], 0.9, 0.0 if spared else 0.1, coupled)
        for step in range(STEPS):
            rule.step(gradient(name, step, start[name].shape), optimizer.rates(clock(step))[heads])
        result[name] = rule.value
    return result


def distance(method, reference: dict[str, np.ndarray]) -> float:
    learned = values(method)
    return max(float(abs(learned[name] - value).max()) for name, value in reference.items())


@pytest.mark.parametrize("decay_on", ["all", "kernels"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_adamw_is_the_formula_at_the_rates_of_encoder_and_heads(framework, decay_on):
    method = made(framework, f"optimizer.decay_on={decay_on}")
    start = values(method)
    run(method, framework, range(STEPS))
    assert distance(method, expected(method, start)) < TOLERANCE
    assert distance(method, expected(method, start, coupled=True)) > 30 * TOLERANCE  # decay in the gradient is seen


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_saved_adamw_goes_on_bit_for_bit(framework):
    whole, first = made(framework), made(framework)
    run(whole, framework, range(STEPS))
    run(first, framework, range(3))
    state = first.state()
    assert {name.partition(".")[0] for name in state} == {"momentum", "square", "steps"}
    second = made(framework)
    run(second, framework, range(5, 6))  # what it holds before it takes a state back does not matter
    second.restore(first.networks(), state)
    run(second, framework, range(3, STEPS))
    learned = values(second)
    assert all(np.array_equal(value, learned[name]) for name, value in values(whole).items())
    assert whole.state().keys() == second.state().keys()
    assert all(np.array_equal(value, second.state()[name]) for name, value in whole.state().items())


def test_a_saved_adamw_goes_on_in_the_other_framework():
    first, second = made("torch"), made("mindspore")
    start = values(first)
    run(first, "torch", range(3))
    second.restore(first.networks(), first.state())
    run(second, "mindspore", range(3, STEPS))
    assert distance(second, expected(second, start)) < TOLERANCE
    forgotten = made("mindspore")
    forgotten.restore(first.networks(), {})
    run(forgotten, "mindspore", range(3, STEPS))
    assert distance(forgotten, expected(forgotten, start)) > 30 * TOLERANCE
