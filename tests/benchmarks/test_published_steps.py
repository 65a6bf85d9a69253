"""Which batch a published step runs with, and what is said of it; the step itself is a stand-in."""

from __future__ import annotations

import json

import pytest

from benchmarks import published_steps
from common.experiment import compose
from experiments.fits import GIB, Memory, extent


def outcome_of(monkeypatch, name: str, each: float, memory: float) -> tuple[dict, list[str]]:
    """Return the figures of a row whose labelled image takes ``each`` GiB, 1 GiB apart, and the step's arguments."""
    config, called = compose(name), []

    def run_module(module: str, *arguments: str) -> str:
        called.extend((module, *arguments))
        return "noise\n" + json.dumps({"bytes": 3 * GIB, "seconds": 2.0, "cpu_seconds": 1.5, "loss": 0.5})

    monkeypatch.setattr(published_steps, "run_module", run_module)
    step = Memory(GIB, each * GIB / extent(config, config.augment.crop))
    return published_steps.measured(name, config, step, memory), called


@pytest.mark.parametrize(
    ("name", "each", "memory", "images"),
    [
        ("voc/366/unimatch", 1, 20, [2, 2]),  # what one of four GPUs had
        ("voc/366/u2pl", 5, 12, [2, 2]),
        ("voc/366/u2pl", 50, 12, [1, 1]),
        ("voc/662/cpcl", 50, 12, [2, 2]),  # BatchNorm of a branch that sees one list alone
        ("voc/366/suponly", 1, 6, [5]),
        ("cityscapes/186/u2pl_ael", 50, 12, [2, 2]),  # keeps one of two unlabelled images
    ],
)
def test_the_batch_is_the_largest_that_fits(monkeypatch, name, each, memory, images):
    figures, called = outcome_of(monkeypatch, name, each, memory)
    assert figures["images"] == images
    assert called[:2] == ["experiments.step_memory", name] and called[-1] == "--whole"
    assert called[called.index("--images") + 1 : -1] == [str(count) for count in images]
    assert figures["process_gib"] == 3 and "3.0 GiB" in figures["text"] and "loss 0.500" in figures["text"]
