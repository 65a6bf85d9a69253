"""A run is continued over the lists it began with, and refused, with both digests, over any other."""

from __future__ import annotations

import dataclasses
import importlib

import numpy as np
import pytest
from PIL import Image

from common.checkpoints.checkpoint import read
from common.command_line import run_command
from common.splits.registry import digest
from common.training.trainer import Trainer

SETTINGS = [
    "dataset.name=own", "network.preset=tiny", "augment.crop=32", "loader.workers=0",
    "loader.batch_labelled=2", "trainer.epochs=2", "trainer.iterations_per_epoch=2", "trainer.pictures=0",
    "trainer.log_every=1",
]  # fmt: skip
SUFFIX = {"torch": ".pth", "mindspore": ".ckpt"}
LISTS = {"labelled": ["a", "b"], "unlabelled": ["c", "d"], "validation": ["e", "f"]}
OTHER = {"labelled": ["a", "g"], "unlabelled": ["c", "h"], "validation": ["f", "g"]}
"""What each list is exchanged for."""


@pytest.fixture
def data(tmp_path):
    """Eight small pictures in VOC layout, and lists of labelled, unlabelled and validation images."""
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation", "splits/own/few"):
        (tmp_path / folder).mkdir(parents=True)
    for name in "abcdefgh":
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(tmp_path / f"JPEGImages/{name}.jpg")
        Image.fromarray(rng.integers(0, 5, (40, 48), dtype=np.uint8)).save(tmp_path / f"SegmentationClass/{name}.png")
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\nb\nc\nd\n")
    for part, ids in LISTS.items():
        exchange(tmp_path, part, ids)
    return tmp_path


def exchange(data, part: str, ids: list[str]) -> None:
    files = {"labelled": "splits/own/few/labeled.txt", "unlabelled": "splits/own/few/unlabeled.txt"}
    (data / files.get(part, "ImageSets/Segmentation/val.txt")).write_text("".join(f"{name}\n" for name in ids))


def train(framework: str, data, *options: str) -> int:
    main = importlib.import_module(f"{framework}_impl.train").main
    settings = [*SETTINGS, f"dataset.root={data}", f"split.folder={data / 'splits'}"]
    return run_command(main, ["voc_mini/few/suponly", *settings, "--run-dir", str(data / "run"), *options])


def stopped_run(framework: str, data, monkeypatch) -> None:
    step = Trainer._step
    with monkeypatch.context() as patch:

        def step_and_stop(self, batch):
            step(self, batch)
            self.stop_asked = True

        patch.setattr(Trainer, "_step", step_and_stop)
        assert train(framework, data) == 130


def contents(folder) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("framework", ["torch", pytest.param("mindspore", marks=pytest.mark.slow)])
def test_exchanged_lists_are_refused_with_both_digests_and_the_run_s_own_go_on(framework, data, monkeypatch, capsys):
    pytest.importorskip(framework)
    stopped_run(framework, data, monkeypatch)
    last = data / "run" / f"last{SUFFIX[framework]}"
    assert read(last).meta.data == {f"{part} list": digest(ids) for part, ids in LISTS.items()}
    before = contents(data / "run")
    for part in LISTS:
        exchange(data, part, OTHER[part])
        capsys.readouterr()
        assert train(framework, data, "--resume") == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert len(errors) == 1 and f"the {part} list is not the one this run began with" in errors[0]
        assert digest(LISTS[part]) in errors[0] and digest(OTHER[part]) in errors[0]
        assert contents(data / "run") == before
        exchange(data, part, LISTS[part][::-1])  # the same images in another order
    assert train(framework, data, "--resume") == 0
    assert read(last).meta.iteration == 4


def test_a_run_from_before_digests_were_saved_goes_on(data, monkeypatch):
    pytest.importorskip("torch")
    from torch_impl.checkpoint import save_checkpoint

    stopped_run("torch", data, monkeypatch)
    last = data / "run" / "last.pth"
    saved = read(last)
    save_checkpoint(last, dataclasses.replace(saved, meta=dataclasses.replace(saved.meta, data=None)))
    assert train("torch", data, "--resume") == 0
    assert read(last).meta.iteration == 4
