"""Real VOC and CamVid files: both sets load whole, and damaged copies give one line each."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.check_data.__main__ import main as check_data
from common.command_line import run_command
from common.datasets.file_dataset import open_dataset
from common.errors import UserError
from common.experiment import compose
from common.loading.loader import Loader
from common.splits.resolve import resolve
from tests.places import SHARED

pytestmark = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="no real data beside the checkout (SHARED)")


@pytest.mark.parametrize(
    ("name", "train", "val", "ignored"), [("camvid", 367, 101, 297_271), ("voc_mini", 110, 60, 618_050)]
)
def test_the_whole_set_loads(name, train, val, ignored, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(SHARED / "data"))
    data = open_dataset(compose(f"{name}/1_8/u2pl").dataset)
    assert (len(data.train_ids), len(data.val_ids)) == (train, val)
    assert data.classes == tuple((SHARED / "data" / name / "classes.txt").read_text().split())
    for image_id in data.train_ids:
        assert data.label(image_id).shape == data.image(image_id).shape[:2]
    assert sum(int((data.label(image_id) == 255).sum()) for image_id in data.val_ids) == ignored


@pytest.mark.parametrize(("name", "counts"), [("camvid", {0: 1601620, 9: 113531}), ("voc_mini", {15: 399045, 19: 0})])
def test_class_ids_are_those_of_the_source(name, counts, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(SHARED / "data"))
    data = open_dataset(compose(f"{name}/1_8/u2pl").dataset)
    total = sum(np.bincount(data.label(image_id).ravel(), minlength=256) for image_id in data.val_ids)
    assert {kind: int(total[kind]) for kind in counts} == counts


def test_augmented_masks_without_a_border_load(monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(SHARED / "data"))
    lists = "ImageSets/Segmentation"
    overrides = ["dataset.label_dir=SegmentationClassAug", f"dataset.train_list={lists}/train_aug.txt"]
    data = open_dataset(compose("voc_mini/1_8/u2pl", overrides).dataset)
    assert len(data.train_ids) == 140
    without = [image_id for image_id in data.train_ids if not (data.label(image_id) == 255).any()]
    assert len(without) == 30


@pytest.mark.parametrize("name", ["voc_mini", "camvid"])
def test_batches_of_real_images(name, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(SHARED / "data"))
    config = compose(f"{name}/1_8/u2pl", ["loader.workers=0"])
    data = open_dataset(config.dataset)
    loader = Loader(data, resolve(data, config.split), config.streams(), config)
    batch = next(loader.epoch(0))
    for part in batch.values():
        assert part["image"].shape[1:] == (3, config.augment.crop, config.augment.crop)
        assert np.isfinite(part["image"]).all() and np.abs(part["image"]).max() < 3
    assert batch["labelled"]["label"].max() <= 255


@pytest.fixture(params=["voc_mini", "camvid"])
def copy(request, tmp_path, monkeypatch):
    """A few real files with lists of their own, and a split with two labelled images."""
    source = SHARED / "data" / request.param
    lists = {part: (source / f"ImageSets/Segmentation/{part}.txt").read_text().split()[:3] for part in ("train", "val")}
    root = tmp_path / "data" / request.param
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for part, ids in lists.items():
        (root / f"ImageSets/Segmentation/{part}.txt").write_text("\n".join(ids))
        for image_id in ids:
            for folder, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
                shutil.copyfile(source / folder / f"{image_id}{suffix}", root / folder / f"{image_id}{suffix}")
    split = tmp_path / "splits" / request.param / "few"
    split.mkdir(parents=True)
    (split / "labeled.txt").write_text("\n".join(lists["train"][:2]))
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "data"))
    return Copy(request.param, root, tmp_path, lists["train"], lists["val"])


class Copy:
    """Where the copied files lie, and ways to use them."""

    def __init__(self, name: str, root: Path, folder: Path, train: list[str], val: list[str]) -> None:
        self.name, self.root, self.folder, self.train, self.val = name, root, folder, train, val
        self.train_list = root / "ImageSets/Segmentation/train.txt"

    def arguments(self) -> list[str]:
        return [f"{self.name}/few/u2pl", f"split.folder={self.folder / 'splits'}"]

    def check(self, capsys) -> tuple[int, list[str]]:
        code = run_command(check_data, [*self.arguments(), "--page", str(self.folder / "page.html")])
        return code, [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem")]

    def load(self, workers: int = 0) -> None:
        """Read every batch of one epoch, as training does."""
        sizes = ["loader.batch_labelled=2", "loader.batch_unlabelled=1", "trainer.iterations_per_epoch=2"]
        config = compose(
            self.arguments()[0], [*self.arguments()[1:], *sizes, f"loader.workers={workers}", "augment.crop=64"]
        )
        data = open_dataset(config.dataset)
        with Loader(data, resolve(data, config.split), config.streams(), config) as loader:
            list(loader.epoch(0))

    def state(self) -> dict[Path, bytes]:
        files = (path for path in self.folder.rglob("*") if path.is_file() and path.name != "page.html")
        return {path: path.read_bytes() for path in files}


def test_the_copies_are_good(copy, capsys):
    copy.load()
    assert copy.check(capsys) == (0, [])


def cut_image(copy: Copy) -> str:
    path = copy.root / "JPEGImages" / f"{copy.train[0]}.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return "cannot be decoded"


def foreign_value(copy: Copy) -> str:
    path = copy.root / "SegmentationClass" / f"{copy.train[0]}.png"
    image = Image.open(path)
    image.putpixel((3, 2), 200)
    image.save(path)
    return "has the value 200 at row 2, column 3"


def other_size(copy: Copy) -> str:
    path = copy.root / "SegmentationClass" / f"{copy.train[0]}.png"
    Image.open(path).resize((50, 40), Image.Resampling.NEAREST).save(path)
    return "is 50x40 pixels but its image is"


def missing_image(copy: Copy) -> str:
    (copy.root / "JPEGImages" / f"{copy.train[0]}.jpg").unlink()
    return "does not exist"


@pytest.mark.parametrize("damage", [cut_image, foreign_value, other_size, missing_image])
def test_damaged_files(copy, damage, capsys):
    message = damage(copy)
    before = copy.state()
    code = run_command(lambda _: copy.load())
    errors = capsys.readouterr().err
    assert code == 2 and errors.count("\n") == 1
    assert message in errors and f"(line 1 of {copy.train_list})" in errors
    code, problems = copy.check(capsys)
    assert code == 1 and len(problems) == 1 and message in problems[0]
    assert copy.state() == before


def test_damage_is_reported_out_of_workers(copy):
    message = cut_image(copy)
    with pytest.raises(UserError, match=message):
        copy.load(workers=1)


def test_empty_and_missing_lists(copy, capsys):
    copy.train_list.write_text("\n")
    assert run_command(lambda _: copy.load()) == 2
    assert "train.txt of data set" in (errors := capsys.readouterr().err) and errors.count("\n") == 1
    assert copy.check(capsys)[0] == 1
    copy.train_list.unlink()
    assert run_command(lambda _: copy.load()) == 2
    assert "does not exist" in capsys.readouterr().err


def test_list_that_names_a_missing_file(copy, capsys):
    copy.train_list.write_text("\n".join([*copy.train, "2099_000001"]))
    code, problems = copy.check(capsys)
    assert code == 1 and len(problems) == 1
    assert "2099_000001.jpg does not exist" in problems[0] and f"(line 4 of {copy.train_list})" in problems[0]


def test_overlap_of_labelled_and_validation(copy, capsys):
    val_list = copy.root / "ImageSets/Segmentation/val.txt"
    val_list.write_text("\n".join([*copy.val, copy.train[1]]))
    code, problems = copy.check(capsys)
    assert code == 1 and len(problems) == 1
    assert f"{copy.train[1]} is labelled and also in the validation list" in problems[0]
    assert f"line 2 of {copy.train_list}, line 4 of {val_list}" in problems[0]
