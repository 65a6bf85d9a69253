"""Whole training steps of USRN in both frameworks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from common.experiment import compose
from tests.parity import steps
from tests.parity.step_parity import StepParity
from tests.parity.steps import (
    Checkerboards,
    apart,
    in_torch,
)

SETTINGS = [
    "trainer.deterministic_dropout=true", "trainer.device=cpu", "trainer.threads=1", "trainer.epochs=4", "network.width=16",
    "optimizer.lr=0.001", "optimizer.head_lr_times=5",
]  # fmt: skip
CONFIG = compose(
    "shapes/12/usrn",
    [*SETTINGS, "method.subclass_counts=[4,2,1,1,2,1]", "network.subclasses=11", "method.threshold=0.25"],
)


def batches(count: int) -> list[dict]:
    """Return ``count`` batches of 2 labelled images and 2 unlabelled ones in two views."""
    boards = Checkerboards(seed=3, classes=len(CONFIG.dataset.classes))
    result = []
    for _ in range(count):
        labels = boards.labels()
        subclass = np.where(labels == 255, 255, (labels * 2) % 11).astype(np.uint8)
        weak = boards.images()
        labelled = {"ids": ["a", "b"], "image": boards.images(), "label": labels, "subclass": subclass}
        unlabelled = {"ids": ["c", "d"], "weak": weak, "strong": (weak * 0.7 + 0.1).astype(np.float32)}
        result.append({"labelled": labelled, "unlabelled": unlabelled})
    return result


def changed(**method):
    """Return the configuration with other settings of the method."""
    return dataclasses.replace(CONFIG, method=dataclasses.replace(CONFIG.method, **method))


FIRST_STEPS = {
    "as published": CONFIG,
    "other weights, not pooled": changed(pooled=False, subclass_weight=0.5, unsup_weight=2.0, sup_weight=0.7),
    "before the start": changed(start_epoch=1),
}


def wrong_threshold(method, monkeypatch) -> None:
    """Keep other pixels."""
    method.settings = dataclasses.replace(method.settings, threshold=0.6)


def wrong_parents(method, monkeypatch) -> None:
    """Let another class own the subclasses."""
    method.parents = method.parents.clone()
    method.parents[:11] = 5 - method.parents[:11]


class TestUSRN(StepParity):
    CONFIG = CONFIG
    FIRST_STEPS = FIRST_STEPS
    BROKEN, BROKEN_STEPS = (wrong_threshold, wrong_parents), 3

    def batches(self, count: int) -> list[dict]:
        return batches(count)


def weak_before_strong(method, batch: dict) -> None:
    """Let the weak view move the running statistics before the strong one."""
    forward, weak = method.forward, []

    def swapped(role, images, clock, purpose, **options):
        if purpose == "strong":
            views = torch.from_numpy(batch["unlabelled"]["weak"])
            weak.append(forward(role, views, clock, "weak", **options | {"gradient": False}))
        return weak[0] if purpose == "weak" else forward(role, images, clock, purpose, **options)

    method.forward = swapped


def test_the_order_of_passes_shows_in_the_running_statistics():
    kept, swapped = in_torch(CONFIG), in_torch(CONFIG)
    weak_before_strong(swapped, batches(1)[0])
    assert apart(steps.run(kept, batches(1)), steps.run(swapped, batches(1))) <= 1e-6
    name = "encoder.bn1.running_mean"
    means = [method.networks()["student"][name] for method in (kept, swapped)]
    assert np.abs(means[0] - means[1]).max() > 1e-4


@pytest.mark.parametrize("framework", ["torch", pytest.param("mindspore", marks=pytest.mark.slow)])
@pytest.mark.parametrize("sizes", [((5, 9), (33, 17)), ((9, 5), (9, 20)), ((1, 4), (7, 13))])
def test_subclass_cross_entropy_in_blocks(framework, sizes):
    """Value and gradient are those of the plain form, whatever the number of rows in a block."""
    from tests.goldens.frameworks import load_framework

    small, full = sizes
    rng, tools = np.random.default_rng(0), load_framework(framework)
    losses, resize = tools.module("losses"), tools.module("resize").resize
    logits = rng.standard_normal((2, 7, *small)).astype(np.float32)
    labels = tools.constant(rng.choice([*range(7), 255], (2, *full)).astype(np.uint8))
    value, (gradient,) = tools.gradients(lambda x: losses.cross_entropy(resize(x, full), labels), logits)
    for rows in (1, 4, 16, 100):
        block_value, (blocks,) = tools.gradients(lambda x, r=rows: losses.resized_cross_entropy(x, labels, r), logits)
        assert abs(block_value - value) <= 1e-6 * value
        np.testing.assert_allclose(blocks, gradient, atol=1e-7)
