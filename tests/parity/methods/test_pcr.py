"""Whole training steps of PCR in both frameworks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from common.config.schema import CriterionConfig, ExperimentConfig
from common.experiment import compose
from tests.parity import steps
from tests.parity.step_parity import StepParity
from tests.parity.steps import (
    CURVE,
    STEPS_PER_EPOCH,
    Checkerboards,
    apart,
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


def wrong_temperature(method, monkeypatch) -> None:
    """Divide cosines by another temperature."""
    method.student.prototype_rule = (0.12, "torch")


def wrong_momentum(method, monkeypatch) -> None:
    """Let prototypes follow faster."""
    method.settings = dataclasses.replace(method.settings, proto_momentum=0.9)


def wrong_threshold(method, monkeypatch) -> None:
    """Keep fewer pseudo-labels."""
    method.settings = dataclasses.replace(method.settings, confidence_threshold=0.3)


def wrong_decay(method, monkeypatch) -> None:
    """Let the teacher follow faster."""
    method.settings = dataclasses.replace(method.settings, ema_decay=0.5)


class TestPCR(StepParity):
    CONFIG = CONFIG
    FIRST_STEPS = FIRST_STEPS
    BROKEN = (wrong_temperature, wrong_momentum, wrong_threshold, wrong_decay)

    def batches(self, count: int) -> list[dict]:
        return batches(count)

    def before_epoch(self, method, clock) -> None:
        notes = method.before_epoch(clock, iter(LABELLED))
        assert all("3 images" in note for note in notes[:1])

    def idle_terms(self, config) -> set[str]:
        return set() if config.method.proto_sup else {"sup_proto"}

    def check_first_step(self, ours, theirs) -> None:
        np.testing.assert_array_equal(theirs.pixels_won.value, ours.pixels_won.value)

    def check_curve(self, losses, ours) -> None:
        assert all(all(step.values()) for step in losses[STEPS_PER_EPOCH:])
        assert not any(step["unsup"] or step["sup_proto"] for step in losses[:STEPS_PER_EPOCH])

    def test_prototypes_of_twenty_steps(self, curve):
        ours, (_, networks, state) = in_torch(CONFIG), curve
        self.run(ours)
        pixels = state["prototypes.pixels"]
        assert pixels.sum() > 15 * 64 and np.array_equal(pixels, ours.state()["prototypes.pixels"])
        student, teacher = networks["student"]["prototypes"], networks["teacher"]["prototypes"]
        assert together([student], [ours.networks()["student"]["prototypes"]]) <= CURVE
        assert 0 < together([teacher], [student]) < 0.5

    def test_both_frameworks_say_the_same_of_the_first_prototypes(self):
        config = FIRST_STEPS["defaults"]
        notes = [make(config).before_epoch(steps.clock(0), iter(LABELLED)) for make in (in_torch, in_mindspore)]
        assert notes[0] == notes[1] and "3 images" in notes[0][0]

    @pytest.mark.slow
    @pytest.mark.parametrize(("teacher_bn", "teacher_copy"), [("ema", "whole_epoch"), ("copy", "once")])
    def test_other_teachers(self, teacher_bn, teacher_copy):
        """Four steps, the teacher's running statistics included, which are its own without a pass in train mode."""
        config = changed(teacher_bn=teacher_bn, teacher_copy=teacher_copy)
        ours, theirs = in_torch(config), in_mindspore(config)
        assert apart(self.run(theirs, stop=4), self.run(ours, stop=4)) <= CURVE
        networks, expected = theirs.networks(), ours.networks()
        for role in ("student", "teacher"):
            names = [name for name in expected[role] if "running_" in name or name == "prototypes"]
            assert together([networks[role][n] for n in names], [expected[role][n] for n in names]) <= CURVE
        statistics = [name for name in names if "running_" in name]
        assert all(np.array_equal(expected["teacher"][name], expected["student"][name]) for name in statistics)
