"""Runs of several processes through MindSpore's launcher end together, as those of PyTorch do (``test_processes.py``)."""

from __future__ import annotations

import signal

import numpy as np
import pytest

pytest.importorskip("mindspore")

from common.checkpoints.checkpoint import read  # noqa: E402
from common.runs.run_folder import RunFolder  # noqa: E402
from tests.commands.launches import (  # noqa: E402
    LONG,
    SETTINGS,
    assert_goes_on_with_other_processes,
    end,
    running,
    sabotage,
    start,
    wait_for_steps,
)

pytestmark = [pytest.mark.slow, pytest.mark.mindspore]

LIMIT = 180
"""Seconds within which all ends after an event, on a busy machine."""


@pytest.mark.parametrize(
    ("event", "code", "line"),
    [
        ("kill", 137, "process 1 of 2 was killed"),
        ("nan", 1, "is not finite; images of the batch: labelled: "),
    ],
)
def test_what_happens_to_one_process_ends_all(event, code, line, tmp_path):
    folder = tmp_path / "run"
    disturbed = sabotage(event, "mindspore")
    process = start(folder, "--processes", "2", settings=SETTINGS, code=disturbed, framework="mindspore")
    wait_for_steps(process, folder)
    exit_code, last_line = end(process, LIMIT)
    assert exit_code == code and line in last_line
    last = read(folder / "last.ckpt")
    assert last.meta.iteration == 2 and all(np.isfinite(a).all() for a in last.networks["student"].values())
    assert not running(folder)


def test_sigterm_to_the_launcher_saves_once(tmp_path):
    """MindSpore's launcher does not pass signals on; the command does. The run then goes to its end, which is no failure."""
    folder = tmp_path / "run"
    process = start(folder, "--processes", "2", settings=LONG, framework="mindspore")
    wait_for_steps(process, folder)
    process.send_signal(signal.SIGTERM)
    exit_code, line = end(process, LIMIT)
    assert exit_code == 130 and "--resume continues" in line
    steps = read(folder / "last.ckpt").meta.iteration
    entries = [e["iteration"] for e in RunFolder(folder).entries() if e["kind"] == "train"]
    assert entries == list(range(1, steps + 1)) and not running(folder)


def test_a_run_to_its_end_is_no_failure(tmp_path):
    """Whatever MindSpore's processes do on their way out."""
    folder = tmp_path / "run"
    process = start(folder, "--processes", "2", settings=SETTINGS, framework="mindspore")
    exit_code, line = end(process)
    assert exit_code == 0 and line.startswith("done: best mIoU") and not running(folder)


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    assert_goes_on_with_other_processes(tmp_path, "cpcl", "mindspore")
