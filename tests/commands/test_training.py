"""The training command in both frameworks: resuming exactly, stopping, refusing a loss that is not finite."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from common.checkpoints.checkpoint import read
from common.command_line import run_command
from common.paths import PROJECT
from common.runs.run_folder import RunFolder
from common.runtimes import FRAMEWORKS
from common.training.trainer import Trainer
from tests.commands.launches import wait_for_steps
from tests.commands.methods import CASES
from tests.processes import PATIENCE

SUFFIX = {name: framework.writes for name, framework in FRAMEWORKS.items()}
SHORT = CASES["u2pl"].options


@pytest.fixture(params=["torch", pytest.param("mindspore", marks=pytest.mark.slow)])
def framework(request):
    pytest.importorskip(request.param)
    return request.param


def train(framework: str, folder, *options: str, experiment: str = "shapes/12/u2pl", settings=SHORT) -> int:
    main = importlib.import_module(f"{framework}_impl.train").main
    return run_command(main, [experiment, *settings, "--run-dir", str(folder), *options])


def stop_after(monkeypatch, iteration: int) -> None:
    """Ask the trainer to stop, as a signal would, once ``iteration`` steps are done."""
    step = Trainer._step

    def step_and_stop(self, batch):
        step(self, batch)
        self.stop_asked = self.iteration == iteration

    monkeypatch.setattr(Trainer, "_step", step_and_stop)


def all_tensors(path) -> dict[str, np.ndarray]:
    checkpoint = read(path)
    tensors = {f"{role}/{name}": value for role, part in checkpoint.networks.items() for name, value in part.items()}
    return tensors | {f"state/{name}": value for name, value in checkpoint.state.items()}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A finished run per framework and method, made once."""
    folders = {}

    def get(framework: str, method: str = "u2pl"):
        key = framework, method
        if key not in folders:
            folder = tmp_path_factory.mktemp(f"whole_{framework}_{method}") / "run"
            case = CASES[method]
            assert train(framework, folder, experiment=case.experiment, settings=case.options) == 0
            folders[key] = folder
        return folders[key]

    return get


QUICK_IN_MINDSPORE = ("suponly",)
"""The others are left to the slow tests."""


def param(method: str, framework: str, *more):
    """A method in a framework, with ``more`` arguments."""
    slow = framework == "mindspore" and method not in QUICK_IN_MINDSPORE
    return pytest.param(method, framework, *more, marks=[pytest.mark.slow] * slow)


def runs(*more) -> list:
    """Every method in either framework, with ``more`` arguments each."""
    return [param(method, framework, *more) for method in CASES for framework in SUFFIX]


STOPS = [("u2pl", "torch", 1), ("u2pl", "torch", 3), ("u2pl", "torch", 6), *runs(4)]
"""Where a run is stopped: the third step is in the middle of an epoch, the fourth at the end of one, the sixth the last."""


@pytest.mark.parametrize(("method", "framework", "stop"), STOPS, indirect=["framework"])
def test_resumed_run_equals_the_whole_run_bit_for_bit(method, framework, tmp_path, monkeypatch, whole_run, stop):
    suffix, case = SUFFIX[framework], CASES[method]
    run = {"experiment": case.experiment, "settings": case.options}
    whole = whole_run(framework, method)
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        assert train(framework, tmp_path / "parts", **run) == (130 if stop < 6 else 0)
    assert read(tmp_path / "parts" / f"last{suffix}").meta.iteration == stop
    assert train(framework, tmp_path / "parts", "--resume", **run) == 0
    assert_equal_runs(whole, tmp_path / "parts", suffix, case.state)


def assert_equal_runs(whole, parts, suffix: str, state: tuple[str, ...]) -> None:
    """Every tensor of ``last`` and ``best``, the state, which holds entries of all these names, and the log are the same."""
    best, resumed = (all_tensors(run / f"best{suffix}") for run in (whole, parts))
    assert all(np.array_equal(best[name], resumed[name]) for name in best)
    expected, resumed = (all_tensors(run / f"last{suffix}") for run in (whole, parts))
    assert expected.keys() == resumed.keys()
    filled = [name for name, value in expected.items() if value.size]
    assert all(any(name.startswith(f"state/{beginning}") for name in filled) for beginning in state)
    for name, value in expected.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    logs = [
        [(e["iteration"], e.get("losses"), e.get("miou")) for e in RunFolder(run).entries()] for run in (whole, parts)
    ]
    assert logs[0] == logs[1]


def test_resume_comparison_can_fail(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    assert train("torch", tmp_path / "one") == 0
    assert train("torch", tmp_path / "two", settings=[*SHORT, "trainer.seed=7"]) == 0
    one, two = (all_tensors(tmp_path / run / "last.pth") for run in ("one", "two"))
    assert any(not np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(("method", "framework"), runs(), indirect=["framework"])
def test_run_folder_holds_everything(method, framework, whole_run):
    folder = whole_run(framework, method)
    names = {path.name for path in folder.iterdir()}
    suffix = SUFFIX[framework]
    assert {"config.yaml", "log.jsonl", "result.json", "pictures", f"best{suffix}", f"last{suffix}"} <= names
    best = read(folder / f"best{suffix}")
    assert list(best.networks) == ["model"] and not best.state
    assert best.meta.role == CASES[method].deployed and best.meta.classes[1] == "disc"
    steps = [entry["losses"] for entry in RunFolder(folder).entries() if entry["kind"] == "train"]
    shares = {name: value for name, value in steps[-1].items() if name in ("kept", "certain", "overlap")}
    assert list(shares) == [CASES[method].share] * bool(CASES[method].share) and all(
        0 <= s <= 1 for s in shares.values()
    )


def test_loss_that_is_not_finite_stops_before_the_optimiser(framework, tmp_path, monkeypatch, capsys):
    from common.loading.loader import Loader

    epoch = Loader.epoch

    def poisoned(self, number, first_step=0):
        for step, batch in enumerate(epoch(self, number, first_step), start=first_step):
            if (number, step) == (1, 1):
                batch["labelled"]["image"][0, 0, 0, 0] = np.nan
                poisoned.ids = list(batch["labelled"]["ids"])
            yield batch

    monkeypatch.setattr(Loader, "epoch", poisoned)
    assert train(framework, tmp_path / "run", settings=[*SHORT, "trainer.save_every=1"]) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "not finite" in message and all(image in message for image in poisoned.ids)
    last = read(tmp_path / "run" / f"last{SUFFIX[framework]}")
    assert last.meta.iteration == 2
    assert all(np.isfinite(value).all() for part in last.networks.values() for value in part.values())


@pytest.mark.slow
def test_sigterm_saves_and_resume_continues(framework, tmp_path):
    settings = [s for s in SHORT if not s.startswith("trainer.epochs")] + ["trainer.epochs=100000"]
    command = [
        sys.executable,
        "-m",
        f"{framework}_impl.train",
        "shapes/12/u2pl",
        *settings,
        "--run-dir",
        str(tmp_path / "run"),
    ]
    process = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True, env=os.environ)
    wait_for_steps(process, tmp_path / "run")
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, error
    assert "--resume continues" in error.strip().splitlines()[-1]
    assert read(tmp_path / "run" / f"last{SUFFIX[framework]}").meta.iteration >= 2


def test_image_in_two_lists_is_refused(tmp_path, capsys):
    pytest.importorskip("torch")
    lists = tmp_path / "splits" / "shapes" / "own"
    lists.mkdir(parents=True)
    (lists / "labeled.txt").write_text("train_0000\nval_0001\n")
    (lists / "unlabeled.txt").write_text("train_0001\ntrain_0002\n")
    settings = [*SHORT, f"split.folder={tmp_path / 'splits'}"]
    assert train("torch", tmp_path / "run", experiment="shapes/own/u2pl", settings=settings) == 2
    error = capsys.readouterr().err.strip()
    assert "val_0001" in error and "validation list" in error and "\n" not in error
    assert not (tmp_path / "run").exists()


SINGLE_IMAGES = [
    ("suponly", "torch", ["loader.batch_labelled=1"]),
    ("suponly", "torch", ["loader.batch_labelled=11", "loader.last_batch=keep", "trainer.iterations_per_epoch=null"]),
    *[param("u2pl_ael", name, ["loader.batch_labelled=1", "loader.batch_unlabelled=2"]) for name in SUFFIX],
    *[param("fixmatch", name, ["loader.batch_unlabelled=1"]) for name in SUFFIX],
]
"""Settings with one labelled image in a batch, in the last batch of a list, with one labelled and one mixed image, and with one
unlabelled image."""


@pytest.mark.parametrize(("method", "framework", "settings"), SINGLE_IMAGES, indirect=["framework"])
def test_one_image_per_batch_trains_on(method, framework, settings, tmp_path, capsys):
    settings = [*CASES[method].options, "trainer.epochs=1", *settings]
    assert train(framework, tmp_path / "run", experiment=CASES[method].experiment, settings=settings) == 0
    assert "one image at a time" in capsys.readouterr().err
    last = all_tensors(tmp_path / "run" / f"last{SUFFIX[framework]}")
    assert all(np.isfinite(value).all() for value in last.values())


def test_batches_that_cannot_be_made_are_refused_before_anything_is_written(tmp_path, capsys):
    pytest.importorskip("torch")
    case = CASES["u2pl_ael"]
    settings = [*case.options, "loader.batch_unlabelled=3"]
    assert train("torch", tmp_path / "run", experiment=case.experiment, settings=settings) == 2
    assert "use a multiple of 2" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_used_folder_and_other_settings_are_refused(tmp_path, capsys):
    pytest.importorskip("torch")
    assert train("torch", tmp_path / "run") == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert train("torch", tmp_path / "run") == 2
    assert "--resume" in capsys.readouterr().err
    assert train("torch", tmp_path / "run", "--resume", settings=[*SHORT, "optimizer.lr=0.5"]) == 2
    assert "optimizer.lr" in capsys.readouterr().err
    assert train("torch", tmp_path / "other", "--resume") == 2
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before


def test_full_disk_while_saving_keeps_the_old_checkpoint(framework, tmp_path, monkeypatch, capsys, whole_run):
    shutil.copytree(whole_run(framework), tmp_path / "run")
    suffix = SUFFIX[framework]
    before = {
        name: (tmp_path / "run" / name).read_bytes() for name in (f"last{suffix}", f"best{suffix}", "result.json")
    }

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "run"))

    saved = read(tmp_path / "run" / f"last{suffix}")
    main = importlib.import_module(f"{framework}_impl.checkpoint").save_checkpoint
    monkeypatch.setattr(os, "fsync", full)
    capsys.readouterr()  # what the whole run said, if this test is the first that needs it
    assert run_command(lambda _: main(tmp_path / "run" / f"last{suffix}", saved)) == 2
    error = capsys.readouterr().err.strip()
    assert "no space left" in error and "\n" not in error
    after = {name: (tmp_path / "run" / name).read_bytes() for name in before}
    assert after == before and not list((tmp_path / "run").glob(".last*"))
