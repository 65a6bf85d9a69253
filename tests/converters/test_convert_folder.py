"""Many checkpoints in one command: the table, what could not be converted, and an interruption that leaves no half file."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from common.checkpoints.checkpoint import Checkpoint, read, write
from common.checkpoints.meta import CheckpointMeta
from common.command_line import run_command
from common.errors import UserError
from converters.convert import save
from converters.convert_ckpt import main
from converters.convert_folder import targets
from tests.places import PROJECT
from tests.processes import PATIENCE


def network(seed: int, size: int = 4) -> Checkpoint:
    rng = np.random.default_rng(seed)
    weights = {"classifier.project.weight": rng.standard_normal((2, size, 1, 1)).astype(np.float32)}
    return Checkpoint(meta=CheckpointMeta(role="student", epoch=seed), networks={"model": weights})


@pytest.fixture
def folder(tmp_path) -> Path:
    for index, name in enumerate(("a.ckpt", "deep/b.safetensors", "deep/c.pth.ckpt")):
        save(tmp_path / "in" / name, network(index))
    (tmp_path / "in" / "notes.txt").write_text("not a checkpoint")
    return tmp_path / "in"


def test_a_folder_is_converted_file_by_file(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert run_command(main, ["--format", ".safetensors", str(folder), str(out)]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0].split() == ["file", "layout", "size", "networks"]
    assert [line.split()[0] for line in text.splitlines()[1:4]] == ["a.ckpt", "deep/b.safetensors", "deep/c.pth.ckpt"]
    assert f"3 of 3 files written to {out}" in text
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == ["a.safetensors", "deep/b.safetensors", "deep/c.pth.safetensors"]
    assert read(out / "deep" / "b.safetensors").meta.epoch == 1


def test_a_file_that_cannot_be_converted_does_not_stop_the_others(folder, tmp_path, capsys):
    (folder / "b_cut.ckpt").write_bytes((folder / "a.ckpt").read_bytes()[:60])
    assert run_command(main, ["--format", ".safetensors", str(folder), str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    row = next(line for line in captured.out.splitlines() if line.startswith("b_cut.ckpt"))
    assert "NOT CONVERTED" in row and "is not a readable MindSpore checkpoint" in row
    assert "3 of 4 files written" in captured.out and captured.err.count("\n") == 1
    assert not list((tmp_path / "out").glob("b_cut*"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["in", "out"], "in is a folder; say the format of the files to write"),
        (["empty", "out", "--format", ".ckpt"], "no checkpoint below it"),
        (["in/a.ckpt", "b.ckpt", "--format", ".ckpt"], "--format is for folders"),
        (["in", "in", "--format", ".ckpt"], "in/a.ckpt would be written over itself"),
        (["in/a.ckpt", "b.ckpt", "trainer.epochs=2"], "a setting needs --experiment NAME"),
    ],
)
def test_bad_use(folder, tmp_path, monkeypatch, capsys, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert run_command(main, arguments) == 2
    text = capsys.readouterr().err
    assert complaint in text and text.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_two_files_for_one_place(folder, tmp_path):
    save(folder / "a.safetensors", network(5))
    with pytest.raises(UserError, match="a.ckpt and .*a.safetensors would both be written to .*out/a.ckpt"):
        targets(folder, tmp_path / "out", ".ckpt")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interruption_leaves_whole_files_only(tmp_path, number):
    for index in range(40):
        write(tmp_path / "in" / f"{index:02}.safetensors", network(index, 200_000))
    command = ["-m", "converters.convert_ckpt", "--format", ".ckpt", str(tmp_path / "in"), str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, *command], cwd=PROJECT, stderr=subprocess.PIPE)
    while process.poll() is None and len(list((tmp_path / "out").glob("[0-9]*.ckpt"))) < 2:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(PATIENCE) == 130 and b"interrupted" in process.stderr.read()
    left = sorted((tmp_path / "out").iterdir())
    assert 2 <= len(left) < 40
    for path in left:
        source = tmp_path / "in" / f"{path.stem}.safetensors"
        converted, wanted = (read(file).networks["model"]["classifier.project.weight"] for file in (path, source))
        np.testing.assert_array_equal(converted, wanted)
