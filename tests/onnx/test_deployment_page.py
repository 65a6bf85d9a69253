"""The five commands of ``docs/deployment.md``, as they stand there, from a run's folder to a server that answers."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from common.command_line import project_environment
from common.experiment import compose
from tests.onnx import servers
from tests.places import PROJECT
from tests.processes import PATIENCE

pytestmark = pytest.mark.slow

EXPERIMENT = "shapes/12/suponly"
TRAINING = ["trainer.epochs=1", "trainer.iterations_per_epoch=150", "trainer.device=cpu", "trainer.threads=1"]
NAMES = {"camvid/1_8/u2pl": EXPERIMENT, "360": "64", "480": "64"}
"""What a reader puts in place of the page's data set and its size."""

ROWS = {"model": "fp32", "int8": "int8"}
"""The models that ``bench`` compares, and their precision."""


def commands() -> list[list[str]]:
    """Return the words of the page's five commands, without ``python -m``."""
    page = (PROJECT / "docs" / "deployment.md").read_text()
    block = re.search(r"```\n(python -m converters\.export_onnx .+?)```", page, re.DOTALL)[1]
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert len(lines) == 5 and all(line[:2] == ["python", "-m"] for line in lines)
    return [[NAMES.get(word, word) for word in line[2:]] for line in lines]


def test_a_run_is_served_in_five_commands(tmp_path):
    def run(module: str, *words: str) -> str:
        command = [sys.executable, "-m", module, *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=project_environment(), capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr[-2000:]}"
        return done.stdout

    run("torch_impl.train", EXPERIMENT, *TRAINING, "--run-dir", "RUN")
    *four, (module, model) = commands()
    said = [run(*command) for command in four]
    assert all(re.search(rf"^\| {name} +\| cpu +\| {kind}", said[2], re.M) for name, kind in ROWS.items()), said[2]
    assert module == "onnx_impl.serve"
    with servers.command(tmp_path / model) as (_, client):
        picture = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
        status, class_ids = client.infer(picture)
    assert (
        status == 200 and class_ids.shape == (1, 64, 64) and class_ids.max() < len(compose(EXPERIMENT).dataset.classes)
    )
