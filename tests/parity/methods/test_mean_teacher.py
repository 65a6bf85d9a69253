"""Whole training steps of Mean Teacher in both frameworks."""

from __future__ import annotations

import dataclasses

from common.experiment import compose
from tests.parity.step_parity import StepParity
from tests.parity.steps import Checkerboards

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


def wrong_decay(method, monkeypatch) -> None:
    """Let the teacher follow faster."""
    method.settings = dataclasses.replace(method.settings, ema_decay=0.5)


def wrong_weight(method, monkeypatch) -> None:
    """Let the consistency weigh less."""
    method.settings = dataclasses.replace(method.settings, unsup_weight=18.0)


class TestMeanTeacher(StepParity):
    CONFIG = CONFIG
    FIRST_STEPS = {"mean_teacher": CONFIG}
    BROKEN = (wrong_decay, wrong_weight)
    QUICK_CURVE = True

    def batches(self, count: int) -> list[dict]:
        return batches(count)

    def check_curve(self, losses, ours) -> None:
        assert all(step["unsup"] for step in losses)
