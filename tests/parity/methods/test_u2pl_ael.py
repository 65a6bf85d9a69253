"""Whole steps of U2PL with AEL in both frameworks."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

from common.config.schema import CriterionConfig, ExperimentConfig
from common.experiment import compose
from tests.parity import steps
from tests.parity.step_parity import StepParity
from tests.parity.steps import (
    FIRST_STEP,
    STEPS_PER_EPOCH,
    Checkerboards,
    apart,
    in_mindspore,
    in_torch,
)

SETTINGS = [
        "trainer.deterministic_dropout=true", "trainer.device=cpu", "trainer.threads=1", "trainer.epochs=4", "trainer.seed=2",
        "network.width=16", "network.representation=16", "network.auxiliary=true", "network.head_dropout=[0.1, 0.1]",
        "network.aspp_dropout=0.1", "optimizer.lr=0.001", "optimizer.head_lr_times=5", "augment.crop=33",
        "method.contrastive={num_queries: 16, num_negatives: 8, queue_first: 200, queue_other: 100, low_rank: 1}",
        "method.contrastive_start_epoch=1", "method.preset=authors", "method.drop_percent=80",
        "method.confidence_momentum=0.95",
]  # fmt: skip
CONFIG = compose("shapes/12/u2pl_ael", SETTINGS)


SEED = 28
"""With this seed no class, entropy or uniform number lies within rounding of a decision, whatever the step.

The entropies of an untrained network crowd below log K, so that every fifth seed or so has a pixel within rounding of a percentile.
"""


@functools.cache
def unlabelled_ids() -> list[str]:
    """Return ids of the split's unlabelled list; a step looks up its images there."""
    return in_torch(CONFIG).images.ids


def batches(count: int, images: int = 2, seed: int = SEED) -> list[dict]:
    """Return ``count`` batches of ``images`` labelled images, of which the first has nothing to paste, and unlabelled ones."""
    boards, ids = Checkerboards(seed=seed, classes=len(CONFIG.dataset.classes)), unlabelled_ids()
    result = []
    for index in range(count):
        parts = {}
        for stream in ("labelled", "paste"):
            labels = boards.labels(images)
            parts[stream] = {"ids": ["a", "b"][:images], "image": boards.images(images), "label": labels}
        for array in (parts["paste"]["image"], parts["paste"]["label"]):
            array[0] = 0
        images_of_step = [ids[(images * index + offset) % 6] for offset in range(images)]
        result.append(parts | {"unlabelled": {"ids": images_of_step, "image": boards.images(images)}})
    return result


def changed(config: ExperimentConfig = CONFIG, **method) -> ExperimentConfig:
    """Return ``config`` with other settings of the method and the contrastive term from the start."""
    # With rank 0 among the negatives every queue gets rows in the first step already.
    contrastive = dataclasses.replace(config.method.contrastive, low_rank=0, **method.pop("contrastive", {}))
    settings = dataclasses.replace(config.method, contrastive_start_epoch=0, contrastive=contrastive, **method)
    return dataclasses.replace(config, method=settings)


FIRST_STEPS = {
    "authors": changed(),
    "fixed, moving prototypes": changed(
        compose("shapes/12/u2pl_ael", [*SETTINGS, "method.preset=fixed"]), contrastive={"anchor_ema": True}
    ),
    "no sampling, weighted means": changed(sampling=False, contrastive={"conf_weight": True}),
    "scaled, OHEM": dataclasses.replace(
        changed(loss_scale=0.5), criterion=CriterionConfig(type="ohem", thresh=0.1, min_kept=700)
    ),
    "consistency terms from the second epoch on": changed(consistency_start_epoch=1),
    "contrastive term over all pixels": changed(contrastive_pixels="all", contrastive={"negatives": "paper"}),
}


def frozen_confidence(method, monkeypatch) -> None:
    """Let the confidence stay where it started."""
    monkeypatch.setattr(method.banks, "update_confidence", lambda *_: None)


def other_threshold(method, monkeypatch) -> None:
    """Drop the pixels of highest entropy instead."""
    method.settings = dataclasses.replace(method.settings, drop="high")


def no_paste(method, monkeypatch) -> None:
    """Exclude every class from copy-paste."""
    method.settings = dataclasses.replace(method.settings, paste_excluded=tuple(range(method.classes)))


def slower_teacher(method, monkeypatch) -> None:
    """Let the teacher follow faster."""
    method.settings = dataclasses.replace(method.settings, ema_decay=0.5)


class TestU2PLAEL(StepParity):
    CONFIG = CONFIG
    FIRST_STEPS = FIRST_STEPS
    BROKEN = (frozen_confidence, other_threshold, no_paste, slower_teacher)

    def idle_terms(self, config: ExperimentConfig) -> set[str]:
        return {"cons_labelled", "cons_unlabelled"} if config.method.consistency_start_epoch else set()

    def batches(self, count: int) -> list[dict]:
        return batches(count)

    def check_first_step(self, ours, theirs) -> None:
        assert np.array_equal(ours.banks.coverage, theirs.banks.coverage) and ours.banks.coverage.any()

    def check_curve(self, losses, ours) -> None:
        assert sum(ours.bank.counts) and sum(step["contra"] > 0 for step in losses[STEPS_PER_EPOCH:]) >= 10


@pytest.mark.slow
def test_one_labelled_and_one_mixed_image_per_batch():
    ours, theirs = in_torch(CONFIG), in_mindspore(CONFIG)
    expected, losses = (steps.run(method, batches(2, images=1, seed=30)) for method in (ours, theirs))
    assert apart(losses, expected) <= FIRST_STEP
    assert all(step["cons_unlabelled"] and step["cons_labelled"] for step in expected)
    means = [name for name in theirs.networks()["student"] if name.endswith("pool.bn.running_mean")]
    assert means and all(not method.networks()["student"][name].any() for name in means for method in (ours, theirs))
