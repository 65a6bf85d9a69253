"""What a user of MindSpore sees of a training: a line while it compiles, no warnings, nothing left in the current folder."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mindspore_impl.train import FIRST_STEP
from tests.commands.methods import CASES
from tests.places import PROJECT
from tests.processes import PATIENCE

SETTINGS = ("trainer.epochs=1", "trainer.iterations_per_epoch=2")


def trained(framework: str, folder) -> subprocess.CompletedProcess:
    """Train two steps from an empty current folder, the run beside it."""
    current = folder / "current"
    current.mkdir()
    case = CASES["suponly"]
    command = [sys.executable, "-m", f"{framework}_impl.train", case.experiment, *case.options, *SETTINGS]
    return subprocess.run(
        [*command, "--run-dir", str(folder / "run")], cwd=current, env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["mindspore", "torch"])
def test_a_run_says_what_it_waits_for_and_leaves_nothing_behind(framework: str, tmp_path):
    pytest.importorskip(framework)
    done = trained(framework, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert (FIRST_STEP in lines) == (framework == "mindspore")
    assert any(line.startswith("first step done in ") for line in lines) == (framework == "mindspore")
    assert "WARNING" not in done.stdout + done.stderr
    assert list((tmp_path / "current").iterdir()) == []
