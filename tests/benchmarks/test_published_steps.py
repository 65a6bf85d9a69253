"""Which batch a published step runs with, what is said of it and kept; the step itself is a stand-in."""

from __future__ import annotations

import json

import pytest

from benchmarks import published_steps
from benchmarks.machine import Kept
from common.command_line import run_command
from common.experiment import compose
from experiments.fits import GIB, Memory, extent


@pytest.fixture
def called(monkeypatch) -> list[tuple[str, ...]]:
    """The steps that have been asked for, each of which takes 3 GiB and 1.5 CPU seconds."""
    calls = []

    def run_module(*arguments: str) -> str:
        calls.append(arguments)
        return "noise\n" + json.dumps({"bytes": 3 * GIB, "seconds": 2.0, "cpu_seconds": 1.5, "loss": 0.5})

    monkeypatch.setattr(published_steps, "run_module", run_module)
    monkeypatch.setattr(published_steps, "_require_free", lambda needed: None)
    return calls


def outcome_of(name: str, each: float, memory: float) -> dict:
    """Return the figures of a row whose labelled image takes ``each`` GiB, 1 GiB apart."""
    config = compose(name)
    step = Memory(((GIB, each * GIB / extent(config, config.augment.crop)),))
    return published_steps.measured(name, config, step, memory)


@pytest.mark.parametrize(
    ("name", "each", "memory", "images"),
    [
        ("voc/366/unimatch", 1, 20, [2, 2]),  # what one of four GPUs had
        ("voc/366/u2pl", 5, 12, [2, 2]),
        ("voc/366/u2pl", 8, 12, [1, 1]),
        ("voc/662/cpcl", 5, 12, [2, 2]),  # BatchNorm of a branch that sees one list alone
        ("voc/366/suponly", 1, 6, [5]),
        ("cityscapes/186/u2pl_ael", 5, 12, [2, 2]),  # keeps one of two unlabelled images
    ],
)
def test_the_batch_is_the_largest_that_fits(called, name, each, memory, images):
    figures = outcome_of(name, each, memory)
    assert figures["images"] == images
    ((module, experiment, *arguments),) = called
    assert (module, experiment) == ("experiments.step_memory", name)
    assert arguments[arguments.index("--images") + 1 : -3] == [str(count) for count in images]
    assert arguments[-3:] == ["--whole", "--limit", str(memory)]
    assert figures["process_gib"] == 3 and "3.0 GiB" in figures["text"] and "loss 0.500" in figures["text"]


def test_a_row_of_which_nothing_fits_is_not_run_and_says_so(called):
    figures = outcome_of("voc/662/cpcl", 8, 12)
    assert not called and "process_gib" not in figures
    assert figures["text"].startswith("does not fit 12 GiB: 2 + 2 images of 512 px need 17.0 (estimate)")


def test_rows_are_kept_as_they_end_and_come_into_the_page(called, monkeypatch, tmp_path, capsys):
    names = ["voc/366/u2pl", "voc/732/u2pl", "voc/366/suponly"]
    monkeypatch.setattr(published_steps, "published", lambda: names)
    estimates = Kept(tmp_path / "fits.json", "")
    estimates.figure("voc u2pl resnet101 float32", lambda: [[GIB, 1000.0]])
    command = ["--estimates", str(estimates.path), "--out", str(tmp_path / "steps.json")]
    assert run_command(published_steps.main, command) == 2
    assert "no estimate for voc suponly 513" in capsys.readouterr().err and len(called) == 1
    estimates.figure("voc suponly resnet101 float32", lambda: [[GIB, 1e6]])
    assert run_command(published_steps.main, command) == 0 and len(called) == 1
    assert "does not fit 20 GiB" in capsys.readouterr().out
    written = []
    monkeypatch.setattr(published_steps, "put", lambda page, name, text: written.append((page, name, text)))
    assert run_command(published_steps.main, [*command, "--page"]) == 0
    ((page, name, text),) = written
    assert (page, name) == (published_steps.SCALE, "published steps")
    assert (
        "| voc, u2pl | 513 | resnet101 | 4 + 4 | 3.0 |" in text
        and "| voc, suponly | 513 | resnet101 | 1 | does not fit |" in text
    )


def test_what_is_not_free_is_not_taken():
    published_steps._require_free(0)
    with pytest.raises(published_steps.UserError, match="GiB of memory are free, the next row needs 1000000.0"):
        published_steps._require_free(1e6)
