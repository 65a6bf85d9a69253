"""Whole training steps of PCR: the same start, batches and draws give the same losses, gradients and state in both frameworks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from common.config.schema import CriterionConfig, ExperimentConfig
from common.experiment import compose
from common.networks.tensors import is_counter
from tests.parity import steps
from tests.parity.steps import (
    CURVE,
    FIRST_STEP,
    GRADIENTS,
    STEPS,
    STEPS_PER_EPOCH,
    Checkerboards,
    apart,
    gradients,
    in_mindspore,
    in_torch,
    together,
)

CONFIG = compose(
    "shapes/12/pcr",
    [
        "trainer.deterministic_dropout=true", "trainer.device=cpu", "trainer.threads=1", "trainer.epochs=4",
        "augment.crop=33", "network.width=16", "network.auxiliary=true", "network.head_dropout=[0.1, 0.1]",
        "network.aspp_dropout=0.1", "optimizer.lr=0.001", "optimizer.head_lr_times=5", "method.sup_only_epochs=1",
        "method.select_granularity=8", "method.confidence_threshold=0.19", "method.proto_init_pixels=200",
    ],
)  # fmt: skip
UNTRAINED = 0.1862
"""A threshold that some pixels of an untrained network reach; after the warm-up, that of ``CONFIG`` drops some."""
BOARDS = Checkerboards(seed=3, classes=len(CONFIG.dataset.classes))
LABELLED = [(BOARDS.images(1)[0], BOARDS.labels(1)[0]) for _ in range(3)]
"""What the first prototypes are made from."""


def batches(count: int) -> list[dict]:
    """Return ``count`` batches of 2 labelled and 2 unlabelled images."""
    boards = Checkerboards(seed=18, classes=len(CONFIG.dataset.classes))
    result = []
    for _ in range(count):
        labels = boards.labels()
        labelled = {"ids": ["a", "b"], "image": boards.images(), "label": labels}
        result.append({"labelled": labelled, "unlabelled": {"ids": ["c", "d"], "image": boards.images()}})
    return result


def run(method, stop: int = STEPS) -> tuple[list[dict[str, float]], list[str]]:
    """Return the losses of steps 0 to ``stop`` - 1 and the notes on the first prototypes, made at their epoch's start."""
    losses, notes = [], []
    for iteration, batch in enumerate(batches(stop)):
        clock = steps.clock(iteration)
        if clock.step == 0:
            notes += method.before_epoch(clock, iter(LABELLED))
        losses.append(method.step(batch, clock))
    return losses, notes


def changed(**method) -> ExperimentConfig:
    """Return the configuration with other settings of the method, with everything on from the start."""
    settings = dataclasses.replace(CONFIG.method, sup_only_epochs=0, confidence_threshold=UNTRAINED, **method)
    return dataclasses.replace(CONFIG, method=settings)


FIRST_STEPS = {
    "defaults": changed(cutmix_prob=0.0),
    "CutMix, divided by all, unit space": changed(unsup_denominator="all", proto_init_space="unit", proto_weight=0.5),
    "entropy filter, no labelled prototype loss": changed(unsup_filter="entropy_drop", proto_sup=False),
    "OHEM, MindSpore's norm": dataclasses.replace(
        changed(teacher_bn="ema"),
        criterion=CriterionConfig(type="ohem", thresh=0.1, min_kept=700),
        network=dataclasses.replace(CONFIG.network, prototype_norm="mindspore"),
    ),
}


@pytest.mark.parametrize("name", FIRST_STEPS)
def test_first_step(name, monkeypatch):
    ours, theirs = in_torch(FIRST_STEPS[name]), in_mindspore(FIRST_STEPS[name])
    monkeypatch.setattr(theirs.optimizer, "step", lambda _: None)
    expected, found = run(ours, stop=1), run(theirs, stop=1)
    assert found[1] == expected[1] and "3 images" in found[1][0]
    assert apart(found[0], expected[0]) <= FIRST_STEP
    idle = {"sup_proto"} if not FIRST_STEPS[name].method.proto_sup else set()
    assert {term for term, value in expected[0][0].items() if not value} == idle
    assert together(*gradients(ours.optimizer, theirs.optimizer)) <= GRADIENTS
    np.testing.assert_array_equal(theirs.pixels_won.value, ours.pixels_won.value)


@pytest.fixture(scope="module")
def curve():
    """Return the losses of 20 steps in MindSpore, and the networks and the state after them."""
    method = in_mindspore(CONFIG)
    losses, _ = run(method)
    return losses, method.networks(), method.state()


def test_twenty_steps(curve):
    ours = in_torch(CONFIG)
    losses, networks, state = curve
    assert apart(run(ours)[0], losses) <= CURVE
    assert all(all(step.values()) for step in losses[STEPS_PER_EPOCH:])
    assert not any(step["unsup"] or step["sup_proto"] for step in losses[:STEPS_PER_EPOCH])
    pixels = state["prototypes.pixels"]
    assert pixels.sum() > 15 * 64 and np.array_equal(pixels, ours.state()["prototypes.pixels"])
    for found, expected in [(state, ours.state()), *((networks[role], ours.networks()[role]) for role in networks)]:
        names = {name for name in expected if not is_counter(name)}
        assert set(found) == names and all(found[name].shape == expected[name].shape for name in names)
        assert together([found[name] for name in names], [expected[name] for name in names]) <= 10 * CURVE
    student, teacher = networks["student"]["prototypes"], networks["teacher"]["prototypes"]
    assert together([student], [ours.networks()["student"]["prototypes"]]) <= CURVE
    assert 0 < together([teacher], [student]) < 0.5


@pytest.mark.parametrize(("teacher_bn", "teacher_copy"), [("ema", "whole_epoch"), ("copy", "once")])
def test_other_teachers(teacher_bn, teacher_copy):
    """Four steps, the teacher's running statistics included, which are its own without a pass in train mode."""
    config = changed(teacher_bn=teacher_bn, teacher_copy=teacher_copy)
    ours, theirs = in_torch(config), in_mindspore(config)
    assert apart(run(theirs, 4)[0], run(ours, 4)[0]) <= CURVE
    found, expected = theirs.networks(), ours.networks()
    for role in ("student", "teacher"):
        names = [name for name in expected[role] if "running_" in name or name == "prototypes"]
        assert together([found[role][n] for n in names], [expected[role][n] for n in names]) <= CURVE
    statistics = [name for name in names if "running_" in name]
    assert all(np.array_equal(expected["teacher"][name], expected["student"][name]) for name in statistics)


def wrong_temperature(method) -> None:
    """Divide cosines by another temperature."""
    method.student.prototype_rule = (0.12, "torch")


def wrong_momentum(method) -> None:
    """Let prototypes follow faster."""
    method.settings = dataclasses.replace(method.settings, proto_momentum=0.9)


def wrong_threshold(method) -> None:
    """Keep fewer pseudo-labels."""
    method.settings = dataclasses.replace(method.settings, confidence_threshold=0.3)


def wrong_decay(method) -> None:
    """Let the teacher follow faster."""
    method.settings = dataclasses.replace(method.settings, ema_decay=0.5)


@pytest.mark.parametrize("break_one", [wrong_temperature, wrong_momentum, wrong_threshold, wrong_decay])
def test_a_rule_broken_in_one_framework_leaves_the_gate(curve, break_one):
    ours = in_torch(CONFIG)
    break_one(ours)
    assert apart(run(ours)[0], curve[0]) > CURVE
