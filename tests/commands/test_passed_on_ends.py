"""Whoever asks a campaign or a chain of steps to end asks its training, too: it saves, and the next call goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from common import command_line  # noqa: E402
from common.checkpoints.checkpoint import read  # noqa: E402
from tests.commands.launches import wait_for_steps  # noqa: E402
from tests.places import PROJECT  # noqa: E402
from tests.processes import PATIENCE  # noqa: E402

ENDLESS = ["trainer.epochs=100000", "trainer.iterations_per_epoch=2", "trainer.evaluate_every=100000",
           "trainer.log_every=1", "trainer.threads=1"]  # fmt: skip


def ended(module: str, *arguments: str, run: Path) -> tuple[int, str, str]:
    """Return exit code and output of a command that is alone asked to end once the training in the folder ``run`` has begun."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=pipe, stderr=pipe, text=True)
    wait_for_steps(process, run)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=PATIENCE)
    return process.returncode, out, error


def test_a_campaign_saves_its_training(tmp_path):
    file, work = tmp_path / "trial.yaml", tmp_path / "work"
    groups = "  - {experiments: [shapes/12/suponly], torch: [1, 2]}\n"
    file.write_text(f"title: A trial\noverrides: [{', '.join(ENDLESS)}]\ngroups:\n{groups}")
    run = work / "torch-shapes-12-suponly-seed1"
    code, out, error = ended("experiments.campaign", str(file), "--work", str(work), run=run)
    assert code == 130, error
    assert f"{run.name}: saved, continues next time" in out
    assert read(run / "last.pth").meta.iteration >= 2
    assert [path.name for path in work.iterdir() if path.is_dir()] == [run.name], "no other run has begun"


def test_a_chain_saves_its_training(tmp_path):
    run = tmp_path / "usrn_baseline"
    chain = ["torch", "shapes/12", *ENDLESS, "--out", str(tmp_path)]
    code, _, error = ended("experiments.usrn", *chain, run=run)
    assert code == 130, error
    assert "--resume continues" in error
    assert read(run / "last.pth").meta.iteration >= 2


SLOW_TO_SAVE = """
import os, signal, sys, time

def save(*_):
    time.sleep(0.5)
    os.kill(os.getppid(), signal.SIGINT)  # a second Ctrl-C, as the campaign that has started a chain sends it
    time.sleep(1)
    print("saved")
    sys.exit(7)

signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(1000)
"""


def test_who_is_asked_again_still_waits_for_what_it_has_started(monkeypatch):
    monkeypatch.setattr(command_line, "GRACE", 0.2)
    with subprocess.Popen([sys.executable, "-c", SLOW_TO_SAVE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        try:
            assert command_line.pass_on_the_end(process) == 7
        except KeyboardInterrupt:
            pytest.fail("it left before the process had ended")
