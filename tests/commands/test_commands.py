"""Every command shows its help where no framework is installed, and ends bad use with one line and exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import PROJECT
from tests.processes import PATIENCE

FRAMEWORKS = ("torch", "torchvision", "mindspore", "onnx", "onnxscript", "onnxruntime")
COMMANDS = (
    "torch_impl.train",
    "torch_impl.eval",
    "mindspore_impl.train",
    "mindspore_impl.eval",
    "onnx_impl.eval",
    "torch_impl.predict",
    "mindspore_impl.predict",
    "onnx_impl.predict",
    "onnx_impl.quantize",
    "onnx_impl.halve",
    "onnx_impl.bench",
    "onnx_impl.serve",
    "converters.convert_ckpt",
    "converters.export_onnx",
    "converters.package",
    "converters.parity",
    "common.splits",
    "common.check_data",
    "torch_impl.features",
    "mindspore_impl.features",
    "common.make_subclasses",
    "experiments.usrn",
    "experiments.stem_pools",
)


@pytest.fixture(scope="module")
def without_frameworks(tmp_path_factory) -> dict[str, str]:
    """An environment in which importing any framework fails as if it were not installed."""
    stubs = tmp_path_factory.mktemp("stubs")
    for name in FRAMEWORKS:
        (stubs / f"{name}.py").write_text(f"raise ModuleNotFoundError('{name} is blocked', name='{name}')\n")
    return {**os.environ, "PYTHONPATH": f"{stubs}{os.pathsep}{PROJECT}"}


def python(arguments: list[str], environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_frameworks_are_really_blocked(without_frameworks, tmp_path, framework):
    done = python(["-c", f"import {framework}"], without_frameworks, tmp_path)
    assert done.returncode != 0 and "is blocked" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_framework(without_frameworks, tmp_path, command):
    done = python(["-m", command, "--help"], without_frameworks, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: python -m {command}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["common.splits", "show", "voc/no_such_list"],
        ["common.splits", "verify", "no_such_data/all"],
        ["torch_impl.train", "voc/366/u2p"],
        ["mindspore_impl.train", "voc/366"],
        ["torch_impl.eval", "voc/366/u2pl", "trainer.epoch=3", "--checkpoint", "none.pth"],
    ],
)
def test_bad_use_ends_in_one_line(without_frameworks, tmp_path, arguments):
    done = python(["-m", *arguments], without_frameworks, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("framework", ["torch", "mindspore"])
def test_a_framework_that_is_not_installed_is_named_in_one_line(without_frameworks, tmp_path, framework):
    arguments = ["-m", f"{framework}_impl.train", "shapes/12/suponly", "--run-dir", str(tmp_path / "run")]
    done = python(arguments, without_frameworks, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {framework} is not installed") and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
