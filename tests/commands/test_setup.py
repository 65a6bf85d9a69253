"""The Makefile, the shell scripts and the pinned requirements."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.places import PROJECT
from tests.processes import PATIENCE

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def run(*command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    environment = {**inherited, **environment}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The Makefile, requirements and scripts alone, so that nothing is installed into the real checkout."""
    for name in ("requirements", "experiments"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "Makefile", tmp_path)
    return tmp_path


@needs_make
@pytest.mark.parametrize("interpreter", ["exit 1", None])
def test_make_refuses_an_unsupported_python_in_one_line(checkout, interpreter):
    python = script(checkout / "old", interpreter) if interpreter else checkout / "absent"
    done = run("make", "-s", "test", f"PYTHON={python}", folder=checkout)
    assert done.returncode == 2
    assert f"error: {python} is not Python 3.10, 3.11 or 3.12" in done.stderr.splitlines()[0]
    assert not (checkout / ".venv").exists()


FAKE_PYTHON = """echo "$@" >> log
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi"""


@needs_make
def test_make_installs_once_and_again_when_a_pin_changes(checkout):
    python = script(checkout / "python", FAKE_PYTHON)

    def steps() -> list[str]:
        (checkout / "log").write_text("")
        assert run("make", "-s", "test", f"PYTHON={python}", folder=checkout).returncode == 0
        return [line for line in (checkout / "log").read_text().splitlines() if line.startswith("-m")]

    install = "-m pip install --quiet --disable-pip-version-check -r requirements/all.txt"
    tests = "-m pytest -n 2 --no-loadscope-reorder -m not slow"
    assert steps() == ["-m venv .venv", install, tests]
    assert steps() == [tests]
    pins = checkout / "requirements" / "dev.txt"
    (checkout / ".venv" / ".installed").touch()
    pins.write_text(pins.read_text())
    assert install in steps()


@needs_make
def test_a_failed_installation_is_tried_again(checkout):
    python = script(checkout / "python", FAKE_PYTHON + '\n[ "$2" != pip ] || exit 1')
    for _ in range(2):
        assert run("make", "-s", "test", f"PYTHON={python}", folder=checkout).returncode != 0
    assert (checkout / "log").read_text().count("-m pip") == 2


@pytest.mark.parametrize(
    ("name", "frameworks"), [("train", ["torch", "mindspore"]), ("eval", ["torch", "mindspore", "onnx"])]
)
def test_scripts_start_the_module_of_the_framework(checkout, name, frameworks):
    script(checkout / ".venv" / "bin" / "python", 'echo "$@" "$PYTHONPATH"')
    for framework in frameworks:
        done = run(
            str(checkout / "experiments" / f"{name}.sh"), framework, "shapes/12/u2pl", "a.b=c d", folder=checkout.parent
        )
        assert done.stdout.split(":")[0].strip() == f"-m {framework}_impl.{name} shapes/12/u2pl a.b=c d {checkout}"


def test_scripts_start_the_interpreter_that_is_asked_for(checkout):
    script(checkout / ".venv" / "bin" / "python", "exit 1")
    asked = script(checkout / "another" / "python", 'echo "$0" "$@"')
    done = run("experiments/eval.sh", "onnx", "shapes/12/u2pl", folder=checkout, PYTHON=str(asked))
    assert done.stdout.split() == [str(asked), "-m", "onnx_impl.eval", "shapes/12/u2pl"]
    done = run("experiments/eval.sh", "onnx", "shapes/12/u2pl", folder=checkout, PYTHON=str(checkout / "absent"))
    assert done.returncode == 2 and done.stderr.startswith(
        f"error: {checkout / 'absent'} lacks this project's packages"
    )


@pytest.mark.parametrize(
    ("name", "arguments"), [("train", ["pytorch"]), ("train", ["onnx"]), ("train", []), ("eval", ["tf"])]
)
def test_scripts_refuse_an_unknown_framework(checkout, name, arguments):
    done = run(str(checkout / "experiments" / f"{name}.sh"), *arguments, folder=checkout)
    assert done.returncode == 2
    assert done.stderr.startswith("error: framework") and done.stderr.count("\n") == 1


def test_requirements_are_pinned():
    files = sorted((PROJECT / "requirements").glob("*.txt"))
    lines = [line.strip() for file in files for line in file.read_text().splitlines()]
    packages = [line for line in lines if line and not line.startswith(("#", "-r "))]
    assert packages
    assert [
        line
        for line in packages
        if not re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+(; python_version [<>]=? \"3\.\d+\")?", line)
    ] == []


def test_all_requirements_include_every_file():
    included = re.findall(r"^-r (\S+)$", (PROJECT / "requirements" / "all.txt").read_text(), re.MULTILINE)
    others = {file.name for file in (PROJECT / "requirements").glob("*.txt")} - {"all.txt", "base.txt"}
    others -= {"onnx-gpu.txt"}  # excludes onnx.txt
    assert set(included) == others
