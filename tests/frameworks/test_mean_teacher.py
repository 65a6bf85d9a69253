"""Mean Teacher against its float64 oracle: the consistency in both frameworks, a whole step and the teacher in PyTorch."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from common.experiment import compose  # noqa: E402
from common.methods.interface import Clock  # noqa: E402
from common.methods.mean_teacher import MeanTeacherSettings  # noqa: E402
from tests.goldens.frameworks import FRAMEWORKS, installed, load_framework  # noqa: E402
from tests.oracles import mean_teacher as oracle  # noqa: E402
from torch_impl.methods.mean_teacher import MeanTeacher  # noqa: E402
from torch_impl.session import Session  # noqa: E402

GATE = 1e-5
"""Of the largest entry: the design's gate for losses and their gradients."""
CONFIG = compose("shapes/12/mean_teacher", ["trainer.device=cpu", "trainer.threads=1", "network.width=16"])


def clock(iteration: int) -> Clock:
    """Return where a run of 4 epochs of 5 steps stands."""
    return Clock(epoch=iteration // 5, step=iteration % 5, iteration=iteration, epochs=4, iterations_per_epoch=5)


def batch() -> dict:
    """Return noise images, 2 of each kind, with random labels."""
    rng = np.random.default_rng(1)
    images = [rng.standard_normal((2, 3, 33, 33)).astype(np.float32) for _ in range(2)]
    label = rng.integers(0, 6, (2, 33, 33)).astype(np.uint8)
    label[:, :4] = 255
    labelled = {"ids": ["a", "b"], "image": images[0], "label": label}
    return {"labelled": labelled, "unlabelled": {"ids": ["c", "d"], "image": images[1]}}


@pytest.mark.parametrize("name", FRAMEWORKS)
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_consistency_and_its_gradient(name, scale):
    if not installed(name):
        pytest.skip(f"{name} is not installed")
    framework, rng = load_framework(name), np.random.default_rng(2)
    logits, other = scale * rng.standard_normal((2, 2, 5, 6, 7)).astype(np.float32)
    probabilities = oracle.softmax(other.astype(np.float64)).astype(np.float32)
    loss = framework.module("methods.mean_teacher").consistency_loss
    value, (gradient,) = framework.gradients(lambda x: loss(x, framework.tensor(probabilities)), logits)
    expected, expected_gradient = oracle.consistency(logits, probabilities)
    assert value == pytest.approx(expected, rel=GATE)
    assert np.abs(gradient - expected_gradient).max() <= GATE * np.abs(expected_gradient).max()
    halved, _ = oracle.consistency(logits, probabilities / 2)
    assert abs(halved - expected) > 100 * GATE * expected


def test_equal_predictions_are_consistent():
    logits = np.random.default_rng(3).standard_normal((1, 5, 6, 7))
    value, gradient = oracle.consistency(logits, oracle.softmax(logits))
    assert value == 0 and not gradient.any()


def test_a_step_is_the_plain_step():
    method, now = MeanTeacher(CONFIG, Session(CONFIG)), clock(8)
    student, rates = method.student, method.optimizer.rates(now)
    weight, decay = method.settings.consistency_weight(now), CONFIG.optimizer.weight_decay
    expected, plain = oracle.plain_step(method.nets, batch(), weight, rates, decay)
    before = {role: flat(network) for role, network in method.nets.items()}
    losses = method.step(batch(), now)
    assert [losses[name] for name in expected] == pytest.approx(list(expected.values()), rel=GATE)
    assert losses["unsup"] > 0 and losses["loss"] == pytest.approx(sum(expected.values()), rel=GATE)
    moved, expected_move = (flat(network) - before["student"] for network in (student, plain))
    assert (moved - expected_move).norm() <= 1e-3 * expected_move.norm() and expected_move.any()
    average = 8 / 9 * before["teacher"] + 1 / 9 * flat(student)  # eight steps have been averaged before this one
    torch.testing.assert_close(flat(method.teacher), average, rtol=0, atol=1e-6)


def flat(network: torch.nn.Module) -> torch.Tensor:
    """Return all parameters as one float64 vector."""
    return torch.cat([value.detach().double().flatten() for value in network.parameters()])


def test_a_run_begins_with_a_teacher_that_is_the_student():
    method = MeanTeacher(CONFIG, Session(CONFIG))
    losses = [method.step(batch(), clock(iteration))["unsup"] for iteration in range(3)]
    assert losses[:2] == [0, 0] and losses[2] > 0  # the first update, of decay 0, makes them one again


def test_the_weight_grows_during_the_ramp_up():
    settings = MeanTeacherSettings(unsup_weight=2.0, ramp_up=0.5)
    weights = [settings.consistency_weight(clock(iteration)) for iteration in (0, 5, 10, 19)]
    assert weights == pytest.approx([2 * math.exp(-5), 2 * math.exp(-1.25), 2, 2])
    assert MeanTeacherSettings(ramp_up=0.0).consistency_weight(clock(0)) == 1
