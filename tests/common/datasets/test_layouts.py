"""Whole data sets in each layout, written as the downloads have them and read through the experiment's configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config.layers import dataset_config
from common.config.schema import Folders
from common.datasets.file_dataset import FileDataset, open_dataset
from common.errors import UserError
from common.experiment import compose
from common.reports.palettes import voc_palette

TRAIN, VAL, EXTRA = ("aachen_000000_000019", "jena_000078_000019"), ("frankfurt_000000_000294",), "bremen_000001_000002"
OFFICIAL_IDS = np.array([[7, 8, 11, 0], [33, 24, 4, 26]], np.uint8)
TRAIN_IDS = np.array([[0, 1, 2, 255], [18, 11, 255, 13]], np.uint8)
IMAGE = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)


def save(path: Path, array: np.ndarray | Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(path)


def parts() -> list[tuple[str, str]]:
    return [("train", name) for name in TRAIN] + [("val", name) for name in VAL]


def official(root: Path, kinds: tuple[str, ...] = ("labelIds",)) -> None:
    for part, name in parts():
        city = name.partition("_")[0]
        save(root / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png", IMAGE)
        for kind in kinds:
            values = OFFICIAL_IDS if kind == "labelIds" else TRAIN_IDS
            save(root / "gtFine" / part / city / f"{name}_gtFine_{kind}.png", values)


def flattened_cps(root: Path) -> None:
    for part, name in parts():
        save(root / "images" / part / f"{name}.png", IMAGE)
        save(root / "segmentation" / part / f"{name}_gtFine.png", TRAIN_IDS)


def flattened_usrn(root: Path, kind: str = "labelTrainIds") -> None:
    """Training images in flattened folders, validation images in the official tree."""
    for part, name in parts():
        values = TRAIN_IDS if kind == "labelTrainIds" else OFFICIAL_IDS
        if part == "train":
            save(root / "images" / part / f"{name}_leftImg8bit.png", IMAGE)
            save(root / "segmentation" / part / f"{name}_gtFine_{kind}.png", values)
        else:
            city = name.partition("_")[0]
            save(root / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png", IMAGE)
            save(root / "gtFine" / part / city / f"{name}_gtFine_{kind}.png", values)


def cityscapes(root: Path, *overrides: str) -> FileDataset:
    return open_dataset(compose("cityscapes/all/suponly", [f"dataset.root={root}", *overrides]).dataset)


@pytest.mark.parametrize(
    ("write", "overrides"),
    [
        (official, ()),
        (lambda root: official(root, ("labelTrainIds",)), ()),
        (lambda root: official(root, ("labelTrainIds", "labelIds")), ("dataset.label_encoding=cityscapes_ids",)),
        (lambda root: official(root, ("labelTrainIds", "labelIds")), ("dataset.label_encoding=index",)),
        (flattened_cps, ("dataset.layout=cityscapes_cps",)),
        (flattened_usrn, ("dataset.layout=cityscapes_usrn",)),
        (lambda root: flattened_usrn(root, "labelIds"), ("dataset.layout=cityscapes_usrn",)),
    ],
    ids=["labelIds", "labelTrainIds", "both as ids", "both as train ids", "CPS", "USRN", "USRN labelIds"],
)
def test_cityscapes_as_downloaded(write, overrides, tmp_path):
    write(tmp_path)
    data = cityscapes(tmp_path, *overrides)
    assert (data.train_ids, data.val_ids) == (TRAIN, VAL)  # without lists: what the folders hold
    for name in (*TRAIN, *VAL):
        np.testing.assert_array_equal(data.image(name), IMAGE)
        np.testing.assert_array_equal(data.label(name), TRAIN_IDS)


def test_a_list_in_the_folder_takes_precedence_and_keeps_its_order(tmp_path):
    official(tmp_path)
    lines = [f"leftImg8bit/train/{name.partition('_')[0]}/{name}_leftImg8bit.png" for name in reversed(TRAIN)]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    assert cityscapes(tmp_path).train_ids == TRAIN[::-1]


def test_coarsely_annotated_images_can_be_unlabelled(tmp_path):
    official(tmp_path)
    save(tmp_path / "leftImg8bit" / "train_extra" / "bremen" / f"{EXTRA}_leftImg8bit.png", IMAGE)
    np.testing.assert_array_equal(cityscapes(tmp_path).image(EXTRA), IMAGE)


@pytest.mark.parametrize(("write", "layout"), [(flattened_cps, "cityscapes_cps"), (official, "cityscapes")])
def test_the_wrong_layout_names_the_right_one(write, layout, tmp_path):
    write(tmp_path)
    (tmp_path / "train.txt").write_text("\n".join(TRAIN))
    (tmp_path / "val.txt").write_text("\n".join(VAL))
    other = "cityscapes" if layout != "cityscapes" else "cityscapes_cps"
    with pytest.raises(
        UserError, match=rf"does not exist, but it is there in the layout {layout}; set .*{layout} \(line 1"
    ):
        cityscapes(tmp_path, f"dataset.layout={other}").image(TRAIN[0])


def test_a_missing_list_names_the_command_that_fetches_it(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    voc = open_dataset(compose("voc/all/suponly", [f"dataset.root={tmp_path}"]).dataset)
    with pytest.raises(
        UserError, match="train_aug.txt .* does not exist.*python -m common.splits import voc/train PATH"
    ):
        _ = voc.train_ids
    with pytest.raises(UserError, match="import cityscapes/train PATH"):
        _ = cityscapes(tmp_path).train_ids


VOC_LABEL = np.array([[0, 15, 255], [20, 1, 0]], np.uint8)


def palette(indices: np.ndarray) -> Image.Image:
    image = Image.fromarray(indices, mode="P")
    image.putpalette(voc_palette().tobytes())
    return image


def test_voc_with_separate_augmented_masks_palette_or_grey(tmp_path):
    """Official masks have a palette; the augmented ones of other images lie elsewhere, with a palette or grey."""
    for name in ("2007_000032", "2008_000002", "2008_000003"):
        save(tmp_path / "JPEGImages" / f"{name}.jpg", np.zeros((2, 3, 3), np.uint8))
    save(tmp_path / "SegmentationClass" / "2007_000032.png", palette(VOC_LABEL))
    save(tmp_path / "SegmentationClassAug" / "2008_000002.png", palette(VOC_LABEL))
    save(tmp_path / "SegmentationClassAug" / "2008_000003.png", VOC_LABEL)
    voc = open_dataset(compose("voc/all/suponly", [f"dataset.root={tmp_path}"]).dataset)
    for name in ("2007_000032", "2008_000002", "2008_000003"):
        np.testing.assert_array_equal(voc.label(name), VOC_LABEL)
    with pytest.raises(UserError, match="SegmentationClassAug/2009_000001.png does not exist"):
        voc.label("2009_000001")


def test_voc_as_cps_arranges_it(tmp_path):
    for part, name in (("train_aug", "2007_000032"), ("val", "2007_000033")):
        save(tmp_path / part / "image" / f"{name}.jpg", np.zeros((2, 3, 3), np.uint8))
        save(tmp_path / part / "label" / f"{name}.png", VOC_LABEL)
        (tmp_path / f"{part}.txt").write_text(f"{name}\n")
    lists = ["dataset.train_list=train_aug.txt", "dataset.val_list=val.txt"]
    voc = open_dataset(
        compose("voc/all/suponly", [f"dataset.root={tmp_path}", "dataset.layout=voc_cps", *lists]).dataset
    )
    for name in (*voc.train_ids, *voc.val_ids):
        assert voc.image(name).shape == (2, 3, 3)
        np.testing.assert_array_equal(voc.label(name), VOC_LABEL)


@pytest.mark.parametrize("count", [2, 37, 254])
def test_any_number_of_classes(count, tmp_path):
    label = np.array([[0, count - 1], [255, 1]], np.uint8)
    save(tmp_path / "images" / "a.png", np.zeros((2, 2, 3), np.uint8))
    save(tmp_path / "labels" / "a.png", label)
    config = Folders(
        name="own", layout="folders", root=str(tmp_path), classes=tuple(f"c{index}" for index in range(count)),
        image_dir="images", label_dir="labels", image_suffix=".png",
    )  # fmt: skip
    np.testing.assert_array_equal(open_dataset(config).label("a"), label)


def test_the_decoded_cache(tmp_path):
    official(tmp_path / "data")
    plain, kept = cityscapes(tmp_path / "data"), cityscapes(tmp_path / "data", f"dataset.cache={tmp_path / 'cache'}")
    assert dataset_config("cityscapes").cache == ""
    for _ in range(2):  # decoded, then from the cache
        for name in (*TRAIN, *VAL):
            np.testing.assert_array_equal(kept.image(name), plain.image(name))
            np.testing.assert_array_equal(kept.label(name), plain.label(name))
            assert kept.image(name).flags.writeable
    files = sorted((tmp_path / "cache").rglob("*.npy"))
    assert len(files) == 6
    # A replaced image is decoded again, and so is one whose cached array is damaged.
    path = plain.image_path(TRAIN[0])
    save(path, 255 - IMAGE)
    np.testing.assert_array_equal(kept.image(TRAIN[0]), 255 - IMAGE)
    for damage in (
        lambda file: file.write_bytes(file.read_bytes()[:20]), lambda file: np.save(file, np.zeros(3)),
        lambda file: np.save(file, np.array([{}])), lambda file: file.write_bytes(file.read_bytes().replace(b"(", b"(9" * 9, 1)),
    ):  # fmt: skip
        for file in (tmp_path / "cache").rglob("*.npy"):
            damage(file)
        np.testing.assert_array_equal(kept.image(TRAIN[0]), 255 - IMAGE)
        np.testing.assert_array_equal(kept.label(VAL[0]), TRAIN_IDS)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is empty; replace it"):
        kept.image(TRAIN[0])
