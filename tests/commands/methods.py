"""The methods that the tests of the training command pass through, each with settings that make a run short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.subclass_labels import shapes_labels

SHORT = [
    "trainer.epochs=3", "trainer.iterations_per_epoch=2", "trainer.log_every=1", "trainer.evaluate_every=2",
    "loader.workers=0", "loader.batch_labelled=2", "trainer.pictures=1", "augment.crop=33", "dataset.images=[200, 8]",
]  # fmt: skip
"""Settings of every run: 3 epochs of 2 steps with 2 labelled images of 33x33, 8 images to validate."""
UNLABELLED = ("loader.batch_unlabelled=2",)
"""Settings of every method with unlabelled images."""


@dataclass(frozen=True)
class Case:
    """One method: an experiment, its own short settings, and what the state of a run must hold (beginnings of names).

    ``share`` is the name under which the log says how many pixels teach the network without a label, where a method chooses.
    ``prepare`` makes the files of an earlier stage and returns the settings that name them.
    """

    experiment: str
    settings: tuple[str, ...] = UNLABELLED
    state: tuple[str, ...] = ("momentum.",)
    deployed: str = "student"
    share: str | None = None
    prepare: Callable[[], tuple[str, ...]] = tuple

    @property
    def options(self) -> list[str]:
        """All settings of a short run."""
        return [*SHORT, *self.settings, *self.prepare()]


BRANCHES = ("branch1.momentum.", "branch2.momentum.")

CASES = {
    "cpcl": Case("shapes/12/cpcl", (*UNLABELLED, "trainer.snapshot_every=2"), BRANCHES, "branch1", share="overlap"),
    "cps": Case("shapes/12/cps", UNLABELLED, BRANCHES, "branch1"),
    "mean_teacher": Case("shapes/12/mean_teacher", deployed="teacher"),
    "cps_cutmix": Case("shapes/12/cps_cutmix", (), BRANCHES, "branch1"),
    "pcr": Case(
        "shapes/12/pcr",
        (*UNLABELLED, "method.sup_only_epochs=1", "method.select_granularity=8", "method.confidence_threshold=0.2"),
        ("momentum.", "prototypes."),
        "teacher",
        "kept",
    ),
    "suponly": Case("shapes/12/suponly", ()),
    "u2pl": Case(
        "shapes/12/u2pl",
        (
            "method.contrastive.num_queries=8", "method.contrastive.num_negatives=6", "method.contrastive.low_rank=1",
            "method.sup_only_epochs=1", *UNLABELLED,
        ),
        ("momentum.", "bank."),
        "teacher",
        "kept",
    ),
    "u2pl_ael": Case(
        "shapes/12/u2pl_ael",
        (
            "method.contrastive.num_queries=8", "method.contrastive.num_negatives=6", "method.contrastive.low_rank=0",
            "method.contrastive_start_epoch=1", "loader.batch_unlabelled=4",
        ),
        ("momentum.", "bank.", "class_confidence", "cutmix_bank"),
        "teacher",
        "kept",
    ),
    "usrn": Case(
        "shapes/12/usrn", (*UNLABELLED, "network.width=16", "method.threshold=0.4", "dataset.images=[200, 4]"),
        share="kept",
        prepare=lambda: (f"method.subclass_labels={shapes_labels()}",),
    ),
    "uccl": Case("shapes/12/uccl", (*UNLABELLED, "method.conf_thresh=0.2"), share="certain"),
    "unimatch": Case("shapes/12/unimatch", (*UNLABELLED, "method.conf_thresh=0.2"), share="certain"),
    "fixmatch": Case("shapes/12/fixmatch", (*UNLABELLED, "method.conf_thresh=0.2"), share="certain"),
}  # fmt: skip
