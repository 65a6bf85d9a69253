"""A teacher that is born from its student is its whole copy: with running statistics of its own it would label at random."""

from __future__ import annotations

import numpy as np
import pytest

from common.experiment import compose
from common.networks.tensors import is_counter
from tests.parity.steps import IN_EACH, STEPS_PER_EPOCH, Checkerboards, clock, together

SMALL = ["trainer.device=cpu", "trainer.threads=1", "trainer.epochs=4", "augment.crop=33", "network.width=16"]
METHODS = {
    "u2pl": ["method.sup_only_epochs=1", "network.representation=16"],
    "pcr": ["method.sup_only_epochs=1", "method.select_granularity=8", "method.confidence_threshold=0.19"],
}


def after_first_semi_supervised_step(make, name: str, *overrides: str) -> dict[str, dict[str, np.ndarray]]:
    """Return student and teacher after the step in which the teacher is made and, with decay 0, moved to the student."""
    config = compose(f"shapes/12/{name}", [*SMALL, *METHODS[name], *overrides])
    method, boards = make(config), Checkerboards(seed=5, classes=len(config.dataset.classes))
    images, labels = boards.images(4), boards.labels(4)
    for iteration in range(STEPS_PER_EPOCH + 1):
        if clock(iteration).step == 0 and hasattr(method, "before_epoch"):
            method.before_epoch(clock(iteration), iter(zip(images, labels)))
        labelled = {"ids": ["a", "b", "c", "d"], "image": images, "label": labels}
        method.step(
            {"labelled": labelled, "unlabelled": {"ids": list("efgh"), "image": boards.images(4)}}, clock(iteration)
        )
    return method.networks()


def distance(networks: dict[str, dict[str, np.ndarray]]) -> float:
    """Return the relative error of the teacher's running statistics, all together, against the student's."""
    names = [name for name in networks["student"] if "running_" in name and not is_counter(name)]
    assert names
    return together(*([networks[role][name] for name in names] for role in ("teacher", "student")))


@IN_EACH
@pytest.mark.parametrize("name", METHODS)
def test_teacher_starts_with_the_students_statistics(name, make):
    assert distance(after_first_semi_supervised_step(make, name)) <= 1e-5


@IN_EACH
def test_released_teacher_starts_with_its_own(make):
    networks = after_first_semi_supervised_step(make, "u2pl", "method.ema_first_statistics=own")
    assert distance(networks) >= 0.1
