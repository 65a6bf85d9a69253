"""Faulty data end a training command with one line and exit code 2, whatever is wrong, and leave the data as they were."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from common.command_line import run_command  # noqa: E402
from torch_impl.train import main  # noqa: E402

SETTINGS = [
    "dataset.name=own", "network.preset=tiny", "augment.crop=32", "loader.workers=0",
    "loader.batch_labelled=4", "trainer.epochs=1", "trainer.iterations_per_epoch=1", "trainer.pictures=0",
]  # fmt: skip


@pytest.fixture
def data(tmp_path):
    """Six small pictures in VOC layout: four to train on, two to validate."""
    root = tmp_path / "own"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"picture_{index}" for index in range(6)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(root / f"JPEGImages/{name}.jpg")
        Image.fromarray(rng.integers(0, 5, (40, 48), dtype=np.uint8)).save(root / f"SegmentationClass/{name}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(names[:4]) + "\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(names[4:]) + "\n")
    return root


def train(root, run) -> int:
    return run_command(main, ["voc_mini/all/suponly", *SETTINGS, f"dataset.root={root}", "--run-dir", str(run)])


def missing_image(root):
    (root / "JPEGImages/picture_2.jpg").unlink()
    return "picture_2"


def corrupt_jpeg(root):
    path = root / "JPEGImages/picture_1.jpg"
    path.write_bytes(path.read_bytes()[:300])
    return "picture_1"


def value_outside_the_classes(root):
    Image.fromarray(np.full((40, 48), 77, np.uint8)).save(root / "SegmentationClass/picture_3.png")
    return "77"


def mask_of_another_size(root):
    Image.fromarray(np.zeros((41, 48), np.uint8)).save(root / "SegmentationClass/picture_0.png")
    return "picture_0"


def empty_list(root):
    (root / "ImageSets/Segmentation/train.txt").write_text("\n\n")
    return "train.txt"


def overlapping_lists(root):
    (root / "ImageSets/Segmentation/val.txt").write_text("picture_4\npicture_0\n")
    return "picture_0"


def missing_folder(root):
    shutil.rmtree(root)
    return "own"


FAULTS = [
    missing_image, corrupt_jpeg, value_outside_the_classes, mask_of_another_size, empty_list, overlapping_lists,
    missing_folder,
]  # fmt: skip


def test_the_data_are_good_without_a_fault(data, tmp_path):
    assert train(data, tmp_path / "run") == 0


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_fault_is_one_line_and_exit_code_2(fault, data, tmp_path, capsys):
    named = fault(data)
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert train(data, tmp_path / "run") == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1 and named in error[0], error
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before
    assert not list((tmp_path / "run").glob("*.pth")) if (tmp_path / "run").exists() else True
