"""One evaluation command for three runtimes: one checkpoint, the same numbers; one line for what does not fit."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import common.evaluation.command
import onnx_impl.eval
import torch_impl.eval
from common.checkpoints.checkpoint import Checkpoint, read, write
from common.checkpoints.meta import CheckpointMeta
from common.command_line import run_command
from common.files import sha256
from tests.places import PROJECT
from tests.processes import PATIENCE

pytest.importorskip("onnxruntime")

EXPERIMENT = "shapes/12/suponly"
IMAGES = 8


def evaluate(main, checkpoint: Path, out: Path, *arguments: str) -> int:
    """Run a command on the first images of the validation list."""
    options = ["--checkpoint", str(checkpoint), "--out", str(out), "--limit", str(IMAGES), *arguments]
    return run_command(main, [EXPERIMENT, "trainer.threads=1", "trainer.device=cpu", *options])


def result(out: Path) -> dict:
    return json.loads((out / "result.json").read_text())


@pytest.fixture(scope="module")
def reference(exported, tmp_path_factory) -> Path:
    """The folder of PyTorch's evaluation, with dumps."""
    out = tmp_path_factory.mktemp("torch")
    assert evaluate(torch_impl.eval.main, exported.checkpoint, out, "--dump", str(out), "--dump-logits", "2") == 0
    return out


def test_the_result_says_what_was_judged(exported, reference):
    record = result(reference)
    assert record["experiment"] == EXPERIMENT and record["images"] == IMAGES
    assert (record["list"], record["limit"], record["role"]) == ("val", IMAGES, "teacher")
    assert record["checkpoint"]["sha256"] == sha256(exported.checkpoint)
    assert record["runtime"]["name"] == "torch" and record["runtime"]["device"] == "cpu"
    assert len(record["split"]["digest"]) == 64
    assert sum(map(sum, record["confusion_matrix"])) == IMAGES * 64 * 64 - record["ignored_pixels"]
    assert sum(sum(row) > 0 for row in np.transpose(record["confusion_matrix"]).tolist()) > 2


@pytest.mark.parametrize("kind", ["model", "ids_model", pytest.param("checkpoint", marks=pytest.mark.slow)])
def test_onnx_counts_the_same_pixels(exported, reference, tmp_path, kind, capsys):
    checkpoint = getattr(exported, kind)
    assert evaluate(onnx_impl.eval.main, checkpoint, tmp_path) == 0
    record, expected = result(tmp_path), result(reference)
    assert record["confusion_matrix"] == expected["confusion_matrix"] and record["miou"] == expected["miou"]
    assert record["runtime"]["name"] == "onnx" and record["runtime"]["device"] == "CPUExecutionProvider"
    assert record["checkpoint"]["sha256"] == sha256(checkpoint) and record["role"] == "teacher"
    said = capsys.readouterr()
    assert f"{100 * expected['miou']:.3f}" in said.out and ("gates" in said.err) == (kind == "checkpoint")


@pytest.mark.parametrize(
    "overrides",
    [
        ("evaluation.protocol=slide", "evaluation.size=40", "evaluation.stride=24"),
        ("evaluation.protocol=resize", "evaluation.size=48"),
    ],
)
def test_other_protocols_agree_too(exported, tmp_path, overrides):
    assert evaluate(torch_impl.eval.main, exported.checkpoint, tmp_path / "torch", *overrides) == 0
    assert evaluate(onnx_impl.eval.main, exported.model, tmp_path / "onnx", *overrides) == 0
    record, expected = result(tmp_path / "onnx"), result(tmp_path / "torch")
    assert record["protocol"]["name"] == overrides[0].partition("=")[2]
    moved = np.abs(np.subtract(record["confusion_matrix"], expected["confusion_matrix"])).sum()
    assert moved <= 2e-4 * IMAGES * 64 * 64


def test_mindspore_counts_the_same_pixels(exported, reference, tmp_path):
    pytest.importorskip("mindspore")
    command = [sys.executable, "-m", "mindspore_impl.eval", EXPERIMENT, "--device", "cpu", "--limit", str(IMAGES)]
    command += ["--checkpoint", str(exported.checkpoint), "--out", str(tmp_path), "--dump", str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    moved = np.subtract(result(tmp_path)["confusion_matrix"], result(reference)["confusion_matrix"])
    assert np.abs(moved).sum() <= 2e-4 * IMAGES * 64 * 64
    assert result(tmp_path)["runtime"]["name"] == "mindspore"
    assert len(list((tmp_path / "ids").iterdir())) == IMAGES


def test_other_weights_count_other_pixels(exported, reference, tmp_path):
    stored = read(exported.checkpoint)
    stored.networks["model"]["classifier.project.bias"][0] += 1
    write(tmp_path / "other.safetensors", stored)
    assert evaluate(torch_impl.eval.main, tmp_path / "other.safetensors", tmp_path) == 0
    assert result(tmp_path)["confusion_matrix"] != result(reference)["confusion_matrix"]


def test_dumps_hold_ids_of_all_and_logits_of_the_first(exported, reference, tmp_path):
    names = sorted(path.stem for path in (reference / "ids").iterdir())
    assert len(names) == IMAGES
    logits = sorted((reference / "logits").iterdir())
    assert [path.stem for path in logits] == names[:2]
    for path in logits:
        value = np.load(path)
        assert value.dtype == np.float32 and value.shape == (6, 64, 64)
        with Image.open(reference / "ids" / f"{path.stem}.png") as ids:
            np.testing.assert_array_equal(np.array(ids), value.argmax(0))
    assert evaluate(onnx_impl.eval.main, exported.model, tmp_path, "--dump", str(tmp_path), "--dump-logits", "2") == 0
    for path in logits:
        dumped, expected = np.load(tmp_path / "logits" / path.name), np.load(path)
        assert np.linalg.norm(dumped - expected) < 1e-5 * np.linalg.norm(expected)


def test_the_yardstick_runs_in_double_precision(exported, reference, tmp_path):
    arguments = ("--dump", str(tmp_path), "--dump-logits", "1", "--float64")
    assert evaluate(torch_impl.eval.main, exported.checkpoint, tmp_path, *arguments) == 0
    (path,) = (tmp_path / "logits").iterdir()
    exact, single = np.load(path), np.load(reference / "logits" / path.name)
    assert exact.dtype == np.float64
    assert 1e-9 < np.linalg.norm(single - exact) / np.linalg.norm(exact) < 1e-5


def test_the_training_list_can_be_judged(exported, tmp_path):
    assert (
        evaluate(torch_impl.eval.main, exported.checkpoint, tmp_path, "--list", "train", "--dump", str(tmp_path)) == 0
    )
    assert result(tmp_path)["list"] == "train"
    assert all(path.stem.startswith("train") for path in (tmp_path / "ids").iterdir())


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"classes": list("abcde")}, [], "has 5 classes but data set shapes has 6"),
        ({"classes": ["background", "disc", "triangle", "square", "ring", "cross"]}, [], "calls class 2 'triangle'"),
        ({"mean": [0.0, 0.0, 0.0]}, [], r"augment.mean=[0.0,0.0,0.0], not [123.675,116.28,103.53]"),
        ({}, ["network.width=16"], "holds another network than shapes/12/suponly: network.width=32 (here 16)"),
        ({}, ["--role", "student"], "student"),
        ({}, ["--dump-logits", "1"], "--dump-logits needs --dump"),
        ({}, ["trainer.epoch=3"], "unknown key 'trainer.epoch'"),
        ({}, ["--out", "/proc/none"], "--out /proc/none cannot be made"),
    ],
)
@pytest.mark.parametrize("main", [torch_impl.eval.main, onnx_impl.eval.main], ids=["torch", "onnx"])
def test_what_does_not_fit_is_named(exported, tmp_path, capsys, main, changes, arguments, message):
    stored = read(exported.checkpoint)
    write(
        tmp_path / "changed.safetensors", dataclasses.replace(stored, meta=dataclasses.replace(stored.meta, **changes))
    )
    assert evaluate(main, tmp_path / "changed.safetensors", tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "result.json").exists()


def test_a_folder_that_cannot_be_made_is_said_before_the_network_is_loaded(tmp_path, capsys):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no checkpoint")
    assert evaluate(torch_impl.eval.main, broken, Path("/proc/none")) == 2
    assert "--out /proc/none cannot be made" in capsys.readouterr().err
    assert evaluate(torch_impl.eval.main, broken, tmp_path / "new" / "folder") == 2
    assert "broken.safetensors" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["broken.safetensors"]


def test_a_model_of_another_role_or_class_list_is_refused(exported, tmp_path, capsys):
    assert evaluate(onnx_impl.eval.main, exported.model, tmp_path, "--role", "student") == 2
    assert "holds the network teacher, not student" in capsys.readouterr().err
    assert evaluate(onnx_impl.eval.main, exported.model, tmp_path, "network.width=16") == 2
    assert "holds another network" in capsys.readouterr().err


def test_settings_that_only_matter_in_training_may_differ(exported, reference, tmp_path):
    assert evaluate(torch_impl.eval.main, exported.checkpoint, tmp_path, "network.aspp_dropout=0.5") == 0
    assert result(tmp_path)["confusion_matrix"] == result(reference)["confusion_matrix"]


def test_a_file_of_another_program_is_described_by_the_experiment(exported, reference, tmp_path):
    stored = read(exported.checkpoint)
    write(tmp_path / "foreign.safetensors", Checkpoint(meta=CheckpointMeta(), networks=stored.networks))
    assert evaluate(torch_impl.eval.main, tmp_path / "foreign.safetensors", tmp_path) == 0
    assert result(tmp_path)["confusion_matrix"] == result(reference)["confusion_matrix"]


def test_the_best_checkpoint_of_the_runs_is_the_default(exported, tmp_path, monkeypatch, capsys):
    def folder(runtime: str, experiment: str) -> Path:
        return tmp_path / runtime / experiment.replace("/", "_")

    monkeypatch.setattr(common.evaluation.command, "default_run_folder", folder)
    arguments = [EXPERIMENT, "--limit", "2", "trainer.device=cpu"]
    assert run_command(onnx_impl.eval.main, arguments) == 2
    assert "no best checkpoint of shapes/12/suponly" in capsys.readouterr().err
    best = folder("torch", EXPERIMENT) / "best.onnx"
    best.parent.mkdir(parents=True)
    best.write_bytes(exported.model.read_bytes())
    assert run_command(onnx_impl.eval.main, arguments) == 0
    record = json.loads((folder("onnx", EXPERIMENT) / "eval" / "result.json").read_text())
    assert record["checkpoint"]["path"] == str(best)
    assert run_command(torch_impl.eval.main, arguments) == 2, "PyTorch cannot run an exported model"
    with pytest.raises(SystemExit) as stopped:
        run_command(onnx_impl.eval.main, [EXPERIMENT, "--limit", "0"])
    assert stopped.value.code == 2


def test_an_unknown_split_list_is_only_noted(exported, tmp_path, monkeypatch, capsys):
    from common.errors import UserError

    def absent(dataset, split):
        raise UserError("the lists are not here")

    monkeypatch.setattr(common.evaluation.command, "resolve", absent)
    assert evaluate(torch_impl.eval.main, exported.checkpoint, tmp_path) == 0
    assert result(tmp_path)["split"]["digest"] is None
    assert "split not recorded: the lists are not here" in capsys.readouterr().err
