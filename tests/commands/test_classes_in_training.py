"""The training command says of the classes what the check of the data and the evaluation say of them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

import torch_impl.eval  # noqa: E402
import torch_impl.train  # noqa: E402
from common.command_line import run_command  # noqa: E402
from common.evaluation.results import read_result  # noqa: E402

SETTINGS = [
    "dataset.name=own", "network.preset=tiny", "augment.crop=32", "loader.workers=0",
    "loader.batch_labelled=4", "trainer.epochs=1", "trainer.iterations_per_epoch=2", "trainer.pictures=0",
    "evaluation.absent_class=zero",
]  # fmt: skip


@pytest.fixture
def data(tmp_path):
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in "abcdef":
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(tmp_path / f"JPEGImages/{name}.jpg")
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("e\nf\n")
    return tmp_path


def masks(data, names: str, *values: int) -> None:
    for name in names:
        row = np.resize(np.array(values, np.uint8), (40, 48))
        Image.fromarray(row).save(data / f"SegmentationClass/{name}.png")


def run(main, data, capsys, *options: str) -> tuple[int, str]:
    settings = [*SETTINGS, f"dataset.root={data}", "dataset.classes=[ground, disc, ring]"]
    code = run_command(main, ["voc_mini/all/suponly", *settings, "--run-dir", str(data / "run"), *options])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_absent_classes_are_told_where_training_starts_and_where_it_evaluates(data, capsys):
    masks(data, "abcd", 0, 1)
    masks(data, "ef", 0, 2)
    code, said = run(torch_impl.train.main, data, capsys)
    assert code == 0
    assert "warning: 1 of 3 classes in no labelled image: ring" in said
    assert "warning: 1 of 3 classes in no validation image: disc" in said
    assert "(student, 2 images; 1 absent: counted as 0)" in said
    code, evaluated = run(torch_impl.eval.main, data, capsys)
    assert code == 0 and "(1 absent: counted as 0)" in evaluated


def test_nothing_is_said_where_every_class_is_shown(data, capsys):
    masks(data, "abcdef", 0, 1, 2)
    code, said = run(torch_impl.train.main, data, capsys)
    assert code == 0 and "classes in no" not in said and "absent" not in said


def test_masks_of_0_and_255_are_warned_of(data, capsys):
    masks(data, "abcdef", 0, 255)
    code, said = run(torch_impl.train.main, data, capsys)
    assert code == 0 and "the labels hold 0 and 255 alone, and 255 is ignored" in said


def test_an_ignored_class_is_left_out_of_the_mean_of_both_commands(data, capsys):
    masks(data, "abcdef", 0, 1, 2)
    code, said = run(torch_impl.train.main, data, capsys, "dataset.ignore_index=0")
    assert code == 0 and "1 ignored: ground)" in said and "classes in no" not in said
    content = read_result(data / "run/result.json")
    scores = [score or 0.0 for name, score in content["iou"].items() if name != "ground"]
    assert content["miou"] == pytest.approx(sum(scores) / 2, abs=1e-9)
    assert content["ignored_classes"] == ["ground"] and content["iou"]["ground"] is None
