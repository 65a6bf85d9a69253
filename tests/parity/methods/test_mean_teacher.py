"""Whole training steps of Mean Teacher: the same start, batches and dropout masks give the same in both frameworks."""

from __future__ import annotations

import dataclasses

import pytest

from common.experiment import compose
from common.networks.tensors import is_counter
from tests.parity import steps
from tests.parity.steps import CURVE, STEPS, Checkerboards, apart, in_mindspore, in_torch, together

CONFIG = compose(
    "shapes/12/mean_teacher",
    [
        "trainer.deterministic_dropout=true", "trainer.device=cpu", "trainer.threads=1", "trainer.epochs=4",
        "network.width=16", "network.head_dropout=[0.1, 0.1]", "network.aspp_dropout=0.1", "optimizer.lr=0.001",
        "optimizer.head_lr_times=5", "method.unsup_weight=20.0", "method.ramp_up=0.0",
    ],
)  # fmt: skip


def batches(count: int) -> list[dict]:
    """Return ``count`` batches of 2 labelled and 2 unlabelled images."""
    boards = Checkerboards(seed=18, classes=len(CONFIG.dataset.classes))
    result = []
    for _ in range(count):
        labels = boards.labels()
        labelled = {"ids": ["a", "b"], "image": boards.images(), "label": labels}
        result.append({"labelled": labelled, "unlabelled": {"ids": ["c", "d"], "image": boards.images()}})
    return result


@pytest.fixture(scope="module")
def curve():
    """Return the losses of 20 steps in MindSpore, and the networks and the state after them."""
    method = in_mindspore(CONFIG)
    return steps.run(method, batches(STEPS)), method.networks(), method.state()


def test_twenty_steps(curve):
    ours, (losses, networks, state) = in_torch(CONFIG), curve
    expected = steps.run(ours, batches(STEPS))
    assert apart(losses, expected) <= CURVE and all(step["unsup"] for step in expected)
    for found, values in [(state, ours.state()), *((networks[role], ours.networks()[role]) for role in networks)]:
        names = {name for name in values if not is_counter(name)}
        assert set(found) == names
        assert together([found[name] for name in names], [values[name] for name in names]) <= 10 * CURVE


def wrong_decay(method) -> None:
    """Let the teacher follow faster."""
    method.settings = dataclasses.replace(method.settings, ema_decay=0.5)


def wrong_weight(method) -> None:
    """Let the consistency weigh less."""
    method.settings = dataclasses.replace(method.settings, unsup_weight=18.0)


@pytest.mark.parametrize("break_one", [wrong_decay, wrong_weight])
def test_a_rule_broken_in_one_framework_leaves_the_gate(curve, break_one):
    ours = in_torch(CONFIG)
    break_one(ours)
    assert apart(steps.run(ours, batches(STEPS)), curve[0]) > CURVE
