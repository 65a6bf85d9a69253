"""The harness of the benchmarks: what it measures differs where forms differ, and a form that fails is said to."""

from __future__ import annotations

import shlex
import sys

import pytest

from benchmarks.harness import Form, measure, options, run_cases, summary
from benchmarks.machine import command_of
from benchmarks.steps import EXPERIMENTS, made_up_batch
from common.errors import CheckFailed

LIGHT, HEAVY = "sum(range(400_000))", "sum(range(4_000_000))"


def form(work: str) -> Form:
    """A process that does ``work`` for every line."""
    return Form([sys.executable, "-c", f"from benchmarks.worker import serve; serve(lambda: {work})"])


def test_the_form_that_does_more_takes_longer_than_the_control():
    figures = measure({"light": form(LIGHT), "heavy": form(HEAVY)}, turns=3)
    heavy, control = (figures["over_first"][name]["cpu"]["median"] for name in ("heavy", "control"))
    assert heavy > 3 * control
    assert figures["turns"] == 3 and len(figures["load"]) == 2
    assert "heavy / light" in summary(figures) and "control / light" in summary(figures)


def test_the_form_that_holds_more_has_the_higher_memory():
    small, large = "len(bytearray(10_000_000))", "len(bytearray(200_000_000))"
    figures = measure({"small": form(small), "large": form(large)}, turns=1)
    assert figures["mib"]["large"] > 4 * max(figures["mib"]["small"], figures["mib"]["control"])


def test_a_form_that_ends_early_is_named(capfd):
    with pytest.raises(CheckFailed, match="form broken"):
        measure({"fine": form(LIGHT), "broken": form("1 / 0")}, turns=1)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_the_process_of_a_form_measures_and_saves_nothing(monkeypatch):
    served = []
    monkeypatch.setattr("benchmarks.harness.serve", lambda run: served.append(run()))
    cases = {"case": {"ours": lambda parsed: lambda: parsed.turns, "plain": lambda parsed: lambda: "plain"}}
    assert run_cases("name", cases, options("name", "Test."), ["--turns", "7", "--form", "case", "ours"]) is None
    assert served == [7]


@pytest.mark.parametrize("method", EXPERIMENTS)
def test_batches_of_a_step_have_what_the_method_reads(method):
    batch = made_up_batch(method, classes=21, count=2, size=33)
    assert all(len(array) == 2 and array.shape[-1] == 33 for array in batch.values())
    assert {"labelled/image", "labelled/label"} <= set(batch)


@pytest.mark.parametrize(("value", "equal"), [("1.0", True), ("2.0", False)])
def test_forms_that_tell_their_results_must_agree(value, equal):
    def form(number: str) -> Form:
        work = f"lambda: [{{'ids': ['a'], 'image': numpy.float32([{number}])}}]"
        return Form([sys.executable, "-c", f"import numpy; from benchmarks.worker import serve; serve({work}, True)"])

    forms = {"this": form("1.0"), "other": form(value)}
    if equal:
        assert measure(forms, 1)["turns"] == 1
    else:
        with pytest.raises(CheckFailed, match="results of the forms this, other differ"):
            measure(forms, 1)


def test_the_command_that_a_file_states_can_be_typed_again(monkeypatch):
    words = ["--only", "two words", "optimizer.lr=0.1"]
    assert shlex.split(command_of("steps", words))[:3] == ["python", "-m", "benchmarks.steps"]
    assert shlex.split(command_of("steps", words))[3:] == words
    monkeypatch.setattr(sys, "argv", ["steps.py", *words])
    assert command_of("steps") == command_of("steps", words)
