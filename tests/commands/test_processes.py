"""Runs of several processes: they end together, with the exit code and the line of a single process, and leave whole files and
nothing running; a run goes on with another number of processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

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

pytestmark = pytest.mark.slow

LIMIT = 120
"""Seconds within which all ends after an event, on a busy machine; the slowest is a hang: ``--patience`` and the grace period."""


@pytest.mark.parametrize(
    ("event", "code", "line"),
    [
        ("raise", 2, "error: image b cannot be decoded"),
        ("kill", 137, "process 1 of 2 was killed"),
        ("hang", 1, "did not come"),
        ("nan", 1, "is not finite; images of the batch: labelled: "),
    ],
)
def test_what_happens_to_one_process_ends_all(event, code, line, tmp_path):
    folder = tmp_path / "run"
    process = start(folder, "--processes", "2", "--patience", "10", code=sabotage(event))
    wait_for_steps(process, folder)
    exit_code, last_line = end(process, LIMIT)
    assert exit_code == code and line in last_line
    last = read(folder / "last.pth")
    assert last.meta.iteration == 2 and all(np.isfinite(a).all() for a in last.networks["student"].values())
    assert not running(folder)


@pytest.mark.parametrize("to", ["launcher", "process"])
def test_sigterm_saves_once_and_resume_continues(to, tmp_path):
    folder = tmp_path / "run"
    process = start(folder, "--processes", "2", settings=LONG)
    wait_for_steps(process, folder)
    if to == "launcher":
        process.send_signal(signal.SIGTERM)
    else:
        ranks = [
            p.parent for p in Path("/proc").glob("[0-9]*/environ") if _rank(p) == "1" and folder_of(p.parent) == folder
        ]
        os.kill(int(ranks[0].name), signal.SIGTERM)
    exit_code, line = end(process, LIMIT)
    assert exit_code == 130 and "--resume continues" in line
    steps = read(folder / "last.pth").meta.iteration
    entries = [e["iteration"] for e in RunFolder(folder).entries() if e["kind"] == "train"]
    assert entries == list(range(1, steps + 1)) and not running(folder)


def _rank(environ: Path) -> str:
    try:
        values = dict(item.split("=", 1) for item in environ.read_text(errors="replace").split("\0") if "=" in item)
    except OSError:
        return ""
    return values.get("RANK", "")


def folder_of(process: Path) -> Path | None:
    """Return the run folder that a process's command line names."""
    try:
        words = (process / "cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return None
    return Path(words[words.index("--run-dir") + 1]) if "--run-dir" in words else None


@pytest.mark.parametrize("method", ["cpcl", "pcr"])
def test_a_run_goes_on_with_another_number_of_processes(method, tmp_path):
    assert_goes_on_with_other_processes(tmp_path, method, "torch")


def test_a_number_of_processes_that_does_not_divide_the_groups(tmp_path):
    code, line = end(start(tmp_path / "run", "--processes", "2", settings=[*SETTINGS, "trainer.groups=3"]))
    assert code == 2 and "trainer.groups=2, the nearest equivalent" in line
    assert not (tmp_path / "run").exists()


def test_bad_use_of_the_launcher(tmp_path):
    for options, message in (
        (["--processes", "2", "--nodes", "2"], "needs --rendezvous HOST:PORT"),
        (["--processes", "2", "--nodes", "2", "--node-rank", "2", "--rendezvous", "a:1"], "numbers 0 to 1"),
    ):
        code, line = end(start(tmp_path / "run", *options))
        assert code == 2 and message in line
