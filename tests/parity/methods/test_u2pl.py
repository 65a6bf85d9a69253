"""Whole training steps of U2PL and the supervised baseline in both frameworks; optimiser and teacher."""

from __future__ import annotations

import dataclasses
import os

import mindspore as ms
import numpy as np
import torch

import mindspore_impl.optimizer
import mindspore_impl.session
import torch_impl.optimizer
from common.config.schema import CriterionConfig, ExperimentConfig, OptimizerConfig
from common.experiment import compose
from tests.parity.pairs import relative_error
from tests.parity.step_parity import StepParity
from tests.parity.steps import (
    FIRST_STEP,
    STEPS_PER_EPOCH,
    Checkerboards,
    apart,
    clock,
    in_mindspore,
    in_torch,
)

CONFIG = compose(
    "shapes/12/u2pl",
    [
        "trainer.deterministic_dropout=true", "trainer.device=cpu", "trainer.threads=1", "trainer.epochs=4",
        "network.width=16", "network.representation=16", "network.auxiliary=true", "network.head_dropout=[0.1, 0.1]",
        "network.aspp_dropout=0.1", "optimizer.lr=0.001", "optimizer.head_lr_times=5", "method.sup_only_epochs=1",
        "method.contrastive={num_queries: 16, num_negatives: 8, queue_first: 200, queue_other: 100, low_rank: 1}",
    ],
)  # fmt: skip


def changed(**method) -> ExperimentConfig:
    """Return the configuration with other settings of the method, semi-supervised from the start."""
    contrastive = dataclasses.replace(CONFIG.method.contrastive, **method.pop("contrastive", {}))
    settings = dataclasses.replace(CONFIG.method, sup_only_epochs=0, contrastive=contrastive, **method)
    return dataclasses.replace(CONFIG, method=settings)


def supervised(criterion: CriterionConfig) -> ExperimentConfig:
    """Return the configuration of the supervised baseline on the same network."""
    method = compose("shapes/12/suponly").method
    return dataclasses.replace(CONFIG, method=method, criterion=criterion)


FIRST_STEPS = {
    "CutMix": changed(),
    "ClassMix, averaged prototypes": changed(
        mixing="classmix", mixing_probability=1.0, contrastive={"anchor_ema": True}
    ),
    "CutOut, low entropy allowed": changed(
        mixing="cutout", mixing_probability=1.0, contrastive={"negative_high_entropy": False}
    ),
    "CutMix, OHEM": dataclasses.replace(
        changed(mixing_probability=1.0), criterion=CriterionConfig(type="ohem", thresh=0.1, min_kept=700)
    ),
    "supervised": supervised(CriterionConfig()),
}


def wrong_decay(method, monkeypatch) -> None:
    """Let the teacher follow faster."""
    method.settings = dataclasses.replace(method.settings, ema_decay=0.5)


def wrong_norm(method, monkeypatch) -> None:
    """Let running statistics move twice as fast."""
    for layer in [*method.student.modules(), *method.teacher.modules()]:
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 0.2


def wrong_momentum(method, monkeypatch) -> None:
    """Give the heads less momentum."""
    method.optimizer.rule.param_groups[1]["momentum"] = 0.8


class TestU2PL(StepParity):
    CONFIG = CONFIG
    FIRST_STEPS = FIRST_STEPS
    BROKEN = (wrong_decay, wrong_norm, wrong_momentum)
    METHODS = {"u2pl": CONFIG, "suponly": FIRST_STEPS["supervised"]}

    def batches(self, count: int) -> list[dict]:
        # With this seed no entropy lies within rounding of a percentile, whatever the step.
        boards = Checkerboards(seed=18, classes=len(CONFIG.dataset.classes))
        result = []
        for _ in range(count):
            labels = boards.labels()
            labelled = {"ids": ["a", "b"], "image": boards.images(), "label": labels}
            result.append({"labelled": labelled, "unlabelled": {"ids": ["c", "d"], "image": boards.images()}})
        return result

    def check_curve(self, losses, ours) -> None:
        assert sum(ours.bank.counts) and all(step["contra"] for step in losses[STEPS_PER_EPOCH:])

    def test_other_dropout_masks_leave_the_gate(self, curve, monkeypatch):
        ours = in_torch(CONFIG)
        masks = ours.session.masks
        monkeypatch.setattr(ours.session, "masks", lambda network, role, *rest: masks(network, f"other {role}", *rest))
        assert apart(self.run(ours, stop=1), curve[0][:1]) > FIRST_STEP


def test_optimiser_with_weight_decay_and_teacher():
    config = OptimizerConfig(lr=0.1, head_lr_times=3.0, momentum=0.8, weight_decay=0.1)
    methods, modules = [in_torch(CONFIG), in_mindspore(CONFIG)], [torch_impl.optimizer, mindspore_impl.optimizer]
    ours, theirs = (module.Optimizer(method.student, config) for module, method in zip(modules, methods))
    rng = np.random.default_rng(1)
    for iteration in range(3):
        values = {name: rng.standard_normal(p.shape).astype(np.float32) for name, p in zip(ours.names, ours.parameters)}
        for name, parameter in zip(ours.names, ours.parameters):
            parameter.grad = torch.from_numpy(values[name])
        theirs.gradients = tuple(ms.Tensor(values[name]) for name in theirs.names)
        for method, optimizer in zip(methods, (ours, theirs)):
            optimizer.step(clock(iteration))
            method.update_teacher(0.9 * iteration)
    results = [
        method.networks() | {"momentum": optimizer.state()} for method, optimizer in zip(methods, (ours, theirs))
    ]
    for part, tensors in results[1].items():
        assert max(relative_error(tensors[name], results[0][part][name]) for name in tensors) <= 1e-6
    assert set(results[0]["momentum"]) == set(results[1]["momentum"])


def test_threads_of_the_session_do_not_bind_the_process():
    allowed = os.sched_getaffinity(0)
    mindspore_impl.session.Session(CONFIG)
    assert os.sched_getaffinity(0) == allowed
