"""U2PL, U2PL with AEL and the supervised-only rows: the published schedule, batch, hardware and score of every split."""

from __future__ import annotations

import pytest

from common.experiment import compose
from common.loading.plan import Plan
from common.splits.registry import known_splits
from common.splits.split import Split
from common.training.command import reference_notes

VOC = ("92", "183", "366", "732", "1464", "662", "1323", "2646", "5291")
CITYSCAPES = ("186", "372", "744", "1488")
ITERATIONS = {
    ("voc", "suponly"): dict(zip(VOC, (6, 12, 23, 46, 92, 42, 83, 166, 331))),
    ("voc", "u2pl"): dict(zip(VOC, (655, 650, 638, 615, 570, 620, 578, 496, 330))),
    ("cityscapes", "suponly"): dict(zip(CITYSCAPES, (12, 24, 47, 93))),
    ("cityscapes", "u2pl"): dict(zip(CITYSCAPES, (174, 163, 139, 93))),
    ("cityscapes", "u2pl_ael"): dict(zip((*CITYSCAPES, "372_old"), (174, 163, 139, 93, 163))),
}
"""Iterations per epoch of the authors' programs on their 4 (VOC) or 8 (Cityscapes) GPUs."""

ROWS = [
    (f"{data}/{split}/{method}", number)
    for (data, method), rows in ITERATIONS.items()
    for split, number in rows.items()
]

SCORES = {
    "suponly": {
        "voc": (45.77, 54.92, 65.88, 71.69, 72.50, 67.87, 71.55, 75.80, 77.13),
        "cityscapes": (65.74, 72.53, 74.43, 77.83),
    },
    "u2pl_ael": {"cityscapes": (74.90, 76.48, 78.51, 79.12)},
}
GPUS = {("voc", "suponly"): 2, ("cityscapes", "suponly"): 4, ("cityscapes", "u2pl_ael"): 8}


def lists_of(name: str, dataset: str, split_id: str) -> Split:
    """Lists of the registered lengths."""
    known = known_splits(dataset)[split_id]
    labelled, unlabelled = (
        tuple(f"{kind}{index}" for index in range(facts.count))
        for kind, facts in (("labelled", known.labelled), ("unlabelled", known.unlabelled))
    )
    return Split(id=name, labelled=labelled, unlabelled=unlabelled, digest="", unlabelled_digest="", origin="")


@pytest.mark.parametrize(("name", "number"), ROWS)
def test_iterations_of_an_epoch(name, number):
    config = compose(name)
    lists = lists_of(name, config.dataset.name, config.split.id)
    assert Plan(lists, config.streams(), config).iterations_per_epoch == number
    assert config.trainer.epochs == {"voc": 80, "cityscapes": 200}[config.dataset.name]


@pytest.mark.parametrize(
    ("dataset", "method", "split", "score"),
    [
        (dataset, method, split, score)
        for method, by_dataset in SCORES.items()
        for dataset, scores in by_dataset.items()
        for split, score in zip(VOC if dataset == "voc" else CITYSCAPES, scores)
    ],
)
def test_the_first_lines_of_a_run_state_the_published_row(dataset, method, split, score):
    reference = compose(f"{dataset}/{split}/{method}").reference
    first, second = reference_notes(reference)
    gpus = GPUS[dataset, method]
    assert f"mIoU {score:.2f}" in first and f"{gpus} GPUs" in first and "total batch 16" in first
    assert second.startswith(f"their command: sh train.sh {gpus} ")


def test_the_branch_has_its_own_list_of_372():
    known = known_splits("cityscapes")
    new, old = (compose(f"cityscapes/{split}/u2pl_ael").split.id for split in ("372", "372_old"))
    assert known[new].labelled.digest != known[old].labelled.digest
    assert known[old].labelled.digest.startswith("da9db561") and known[old].unlabelled.digest.startswith("50c9b013")
