"""Snapshots of a run and their evaluation: one epoch, ranges, either branch, the mean of both, pictures."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

from common.checkpoints.checkpoint import read
from common.command_line import run_command
from common.reports import charts
from common.runtimes import FRAMEWORKS
from tests.commands.methods import CASES

EXPERIMENT, OPTIONS = "shapes/12/cpcl", [*CASES["cpcl"].options, "trainer.snapshot_every=1"]
TO_EVALUATE = [EXPERIMENT, "dataset.images=[200, 8]"]
SUFFIX = {name: framework.writes for name, framework in FRAMEWORKS.items()}


BOTH = pytest.mark.parametrize("trained", ["torch", pytest.param("mindspore", marks=pytest.mark.slow)], indirect=True)
"""What the frameworks have a part in; the rest is the same code for both."""


@pytest.fixture(scope="module")
def trained(request, tmp_path_factory):
    """A finished run of three epochs with a snapshot of each: framework and folder."""
    framework = getattr(request, "param", "torch")
    pytest.importorskip(framework)
    folder = tmp_path_factory.mktemp(f"snapshots_{framework}") / "run"
    main = importlib.import_module(f"{framework}_impl.train").main
    assert run_command(main, [EXPERIMENT, *OPTIONS, "--run-dir", str(folder)]) == 0
    return framework, folder


@pytest.fixture
def run(trained, tmp_path):
    """Evaluate with further options; returns the exit code and the folder of the results."""
    framework, folder = trained
    main = importlib.import_module(f"{framework}_impl.eval").main

    def evaluate(*options: str):
        out = tmp_path / "results"
        return run_command(main, [*TO_EVALUATE, *options, "--run-dir", str(folder), "--out", str(out)]), out

    return evaluate


def result(out) -> dict:
    return json.loads((out / "result.json").read_text())


@BOTH
def test_snapshots_hold_both_branches(trained):
    framework, folder = trained
    names = sorted(path.name for path in (folder / "snapshots").iterdir())
    assert names == [f"epoch-{epoch}{SUFFIX[framework]}" for epoch in range(3)]
    last, kept = (read(folder / name) for name in (f"last{SUFFIX[framework]}", f"snapshots/{names[2]}"))
    assert list(kept.networks) == ["branch1", "branch2"] and not kept.state
    for role, tensors in kept.networks.items():
        assert all(np.array_equal(tensors[name], last.networks[role][name]) for name in tensors)
    assert kept.meta.role == "branch1" and kept.meta.epoch == 3


def test_a_range_gives_a_table_and_a_curve(run, capsys):
    code, out = run("--checkpoint", "1-")
    assert code == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[:3]] == ["epoch", "1", "2"] and any("best" in line for line in table)
    summary = json.loads((out / "epochs.json").read_text())
    assert set(summary["epochs"]) == {"1", "2"} and str(summary["best_epoch"]) in summary["epochs"]
    if charts.available():
        assert (out / "epochs.svg").read_text().startswith("<svg")
    for epoch in (1, 2):
        scores = result(out / f"epoch-{epoch}")
        assert scores["miou"] == summary["epochs"][str(epoch)]["mIoU"] and scores["role"] == "branch1"


@BOTH
def test_one_epoch_of_either_branch_and_their_mean(run):
    results = []
    for role in (["branch=1"], ["--role", "branch2"], ["--role", "mean"], ["branch=2"], ["branch=mean"]):
        code, out = run("--checkpoint", "2", *role, "--limit", "3")
        assert code == 0
        results.append(result(out))
    names = ["branch1", "branch2", "mean of branch1 and branch2"]
    assert [evaluation["role"] for evaluation in results] == [*names, *names[1:]]
    matrices = [evaluation["confusion_matrix"] for evaluation in results]
    assert matrices[0] != matrices[1] and matrices[2] not in matrices[:2] and matrices[3:] == matrices[1:3]


def test_pictures_are_saved_on_request(run):
    code, out = run("--checkpoint", "last", "--save-images", "--limit", "2")
    assert code == 0
    assert sorted(path.name for path in (out / "images").iterdir()) == ["val_0000.png", "val_0001.png"]


def test_without_a_checkpoint_another_branch_is_taken_from_the_last(run):
    for role in (["branch=2"], ["--role", "branch2"]):
        code, out = run(*role)
        assert code == 0 and "last" in result(out)["checkpoint"]["path"]
    code, out = run()
    assert code == 0 and "best" in result(out)["checkpoint"]["path"]


BAD = {
    ("--checkpoint", "7"): "there: 0, 1, 2",
    ("--checkpoint", "2-1"): "e.g. 1-2",
    ("--checkpoint", "5-"): "no snapshot",
    ("branch=0",): "evaluation.branch = 0 is not one of 1, 2, mean",
    ("--checkpoint", "0-2", "--dump", "x"): "--dump is for one checkpoint",
}


@pytest.mark.parametrize("options", BAD)
def test_what_is_not_there_is_one_line(options, run, capsys):
    code, out = run(*options)
    error = capsys.readouterr().err.strip()
    assert code == 2 and BAD[options] in error and "\n" not in error
    assert not out.exists()


def test_training_keeps_one_branch_and_needs_two_images(tmp_path, capsys):
    pytest.importorskip("torch")
    from torch_impl.train import main

    for setting, message in (("branch=mean", "use 1 or 2"), ("loader.batch_unlabelled=1", "at least two")):
        assert run_command(main, [EXPERIMENT, *OPTIONS, setting, "--run-dir", str(tmp_path / "run")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_labelled_images_may_be_unlabelled_ones_only_where_the_split_says_so(tmp_path, capsys):
    pytest.importorskip("torch")
    from common.check_data.__main__ import main as check
    from torch_impl.train import main

    options = [EXPERIMENT, *OPTIONS, "--run-dir", str(tmp_path / "run")]
    assert run_command(main, [*options, "split.unlabelled=all", "trainer.epochs=1"]) == 0
    assert "12 labelled, 200 unlabelled" in capsys.readouterr().err
    assert run_command(check, [EXPERIMENT, "split.unlabelled=all", "dataset.images=[200, 8]"]) in (0, 2)


@BOTH
def test_either_branch_can_be_converted(trained, tmp_path):
    framework, folder = trained
    from converters.convert_ckpt import main as convert

    source = folder / f"last{SUFFIX[framework]}"
    for branch in ("branch1", "branch2"):
        target = tmp_path / f"{branch}.safetensors"
        assert run_command(convert, [str(source), str(target), "--role", branch]) == 0
        converted, expected = read(target), read(source).networks[branch]
        assert converted.meta.role == branch and list(converted.networks) == ["model"]
        assert all(np.array_equal(converted.networks["model"][name], expected[name]) for name in expected)
