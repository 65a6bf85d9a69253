"""Starting, watching and disturbing runs of several processes in either framework."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.checkpoints.checkpoint import read
from common.paths import PROJECT
from common.runtimes import FRAMEWORKS
from tests.commands.methods import CASES, SHORT
from tests.processes import PATIENCE

SETTINGS = [
    *SHORT, "trainer.save_every=1", "trainer.groups=2", "trainer.device=cpu", "trainer.threads=1",
    "trainer.deterministic_dropout=true",
]  # fmt: skip
LONG = [*(s for s in SETTINGS if not s.startswith("trainer.epochs")), "trainer.epochs=100000"]
NUMBER = {"torch": "RANK", "mindspore": "RANK_ID"}
"""The environment variable by which a framework's launcher numbers the processes."""

EVENTS = {
    "raise": "raise UserError('image b cannot be decoded')",
    "kill": "os.kill(os.getpid(), 9)",
    "hang": "time.sleep(100000)",
    "nan": "batch['labelled']['image'][0, 0, 0, 0] = float('nan')",
}
_SABOTAGE = """
import os, time
if os.environ.get("{number}") == "1":
    from common.errors import UserError
    from common.loading.loader import Loader
    epoch = Loader.epoch
    def sabotaged(self, number, first_step=0):
        for step, batch in enumerate(epoch(self, number, first_step), first_step):
            if (number, step) == (1, 1):
                {event}
            yield batch
    Loader.epoch = sabotaged
"""

STOP = """
import os
if os.environ.get("{number}") == "1":
    from common.training.trainer import Trainer
    step = Trainer._step
    def stopped(self, batch):
        self.stop_asked = self.iteration == 3
        step(self, batch)
    Trainer._step = stopped
"""
"""Asks the second process to stop before the fourth step."""


def sabotage(event: str, framework: str = "torch") -> str:
    """Return what the second process runs before everything else: something happens to it in the second step of the second epoch."""
    return _SABOTAGE.format(number=NUMBER[framework], event=EVENTS[event])


def start(
    folder: Path,
    *options: str,
    settings: Sequence[str] = SETTINGS,
    experiment: str = "shapes/12/suponly",
    code: str = "",
    framework: str = "torch",
) -> subprocess.Popen:
    """Start a run in ``folder``, whose processes run ``code`` before everything else."""
    place = folder.with_name(f"{folder.name}_code")
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(code)
    command = ["bash", "experiments/train.sh", framework, experiment, *settings, "--run-dir", str(folder), *options]
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(place)}
    return subprocess.Popen(command, cwd=PROJECT, env=environment, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen, limit: float = PATIENCE) -> tuple[int, str]:
    """Return the exit code and the last line."""
    _, said = process.communicate(timeout=limit)
    return process.returncode, said.strip().splitlines()[-1]


def running(folder: Path) -> list[str]:
    """Return the command lines that name ``folder``."""
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in text:
            commands.append(text)
    return commands


def wait_for_steps(process: subprocess.Popen, folder: Path, steps: int = 2) -> None:
    """Wait until a run has logged so many steps; raise if it ends before."""
    deadline, log = time.monotonic() + PATIENCE, folder / "log.jsonl"
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and len(log.read_text().splitlines()) >= steps:
            return
        time.sleep(0.2)
    process.terminate()
    raise AssertionError(process.communicate()[1])


def assert_goes_on_with_other_processes(folder: Path, method: str, framework: str) -> None:
    """Stop a run of two processes after its second epoch and resume it: with two bit for bit, with one within rounding."""
    case, suffix = CASES[method], FRAMEWORKS[framework].writes
    settings = [s for s in (*SETTINGS, *case.settings) if "batch_unlabelled" not in s]
    settings += ["loader.batch_unlabelled=4", "loader.batch_labelled=4"]

    def run(name: str, *options: str, code: str = "") -> int:
        return end(
            start(
                folder / name, *options, settings=settings, experiment=case.experiment, code=code, framework=framework
            )
        )[0]

    assert run("whole", "--processes", "2") == 0
    assert run("parts", "--processes", "2", code=STOP.format(number=NUMBER[framework])) == 130
    assert read(folder / "parts" / f"last{suffix}").meta.iteration == 4
    for name, options in {"one": (), "two": ("--processes", "2")}.items():
        shutil.copytree(folder / "parts", folder / name)
        assert run(name, "--resume", *options) == 0
    whole, one, two = (_tensors(folder / name / f"last{suffix}") for name in ("whole", "one", "two"))
    for name, value in two.items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)
    names = [name for name in whole if "momentum" not in name]
    ours, expected = (np.concatenate([np.ravel(t[n]).astype(np.float64) for n in names]) for t in (one, whole))
    assert np.linalg.norm(ours - expected) <= 1e-5 * np.linalg.norm(expected)


def _tensors(path: Path) -> dict[str, np.ndarray]:
    checkpoint = read(path)
    parts = {f"{role}/{name}": value for role, part in checkpoint.networks.items() for name, value in part.items()}
    return parts | checkpoint.state
