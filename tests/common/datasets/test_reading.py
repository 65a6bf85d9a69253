"""Images and labels of every kind are read as arrays."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from common.datasets.file_dataset import open_dataset
from common.errors import UserError
from tests.common.datasets.small import CITYSCAPES, IMAGE, LABEL, config_of, palette_image, save


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_images_of_every_kind_become_rgb(root, mode):
    save(root / "images" / "one.tif", Image.fromarray(IMAGE).convert(mode))
    image = open_dataset(config_of(root, image_suffix=".tif")).image("one")
    assert image.shape == IMAGE.shape and image.dtype == np.uint8
    if mode in ("1", "L", "LA"):
        assert (image == image[..., :1]).all()
    if mode == "RGBA":
        np.testing.assert_array_equal(image, IMAGE)


def test_palette_labels_are_read_as_indices(root):
    image = palette_image(LABEL)
    save(root / "labels" / "one.png", image)
    np.testing.assert_array_equal(open_dataset(config_of(root)).label("one"), LABEL)
    assert not np.array_equal(np.asarray(image.convert("L")), LABEL), (
        "the conversion that must not happen would go unseen"
    )


def test_sixteen_bit_labels_and_another_ignore_index(root):
    save(root / "labels" / "one.png", np.where(LABEL == 255, 11, LABEL).astype(np.uint16))
    np.testing.assert_array_equal(open_dataset(config_of(root, ignore_index=11)).label("one"), LABEL)
    with pytest.raises(UserError, match="has the value 11 at row 0, column 3"):
        open_dataset(config_of(root)).label("one")


def test_labels_whose_classes_start_at_one(root):
    stored = np.where(LABEL == 255, 255, LABEL + 1).astype(np.uint8)
    stored[0] = 0
    save(root / "labels" / "one.png", stored)
    with pytest.raises(
        UserError, match="has the value 3 .* classes 0..2 .*if the classes start at 1, set dataset.label_shift=1"
    ):
        open_dataset(config_of(root)).label("one")
    data = open_dataset(config_of(root, label_shift=1))
    assert (data.label("one")[0] == 255).all() and data.ignored_classes == frozenset()
    np.testing.assert_array_equal(data.label("one")[1:], LABEL[1:])
    save(root / "labels" / "one.png", np.where(LABEL == 2, 4, LABEL).astype(np.uint8))
    with pytest.raises(UserError, match="has the value 4 .* outside the classes 1..3 and not 255"):
        data.label("one")


def test_classes_that_no_label_can_show(root):
    assert open_dataset(config_of(root)).ignored_classes == frozenset()
    assert open_dataset(config_of(root, ignore_index=0)).ignored_classes == {0}
    assert open_dataset(config_of(root, ignore_index=2, label_shift=1)).ignored_classes == {1}
    city = {"layout": "cityscapes", "classes": CITYSCAPES}
    assert (
        open_dataset(config_of(root, ignore_index=0, label_encoding="cityscapes_ids", **city)).ignored_classes
        == frozenset()
    )
    assert open_dataset(config_of(root, ignore_index=0, **city)).ignored_classes == {0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("a", "b", "a")}, "classes 0 and 2 are both called 'a'; names must differ"),
        ({"label_shift": 253}, "label_shift = 253 and 3 classes go beyond the value 254"),
        (
            {"label_shift": 1, "layout": "cityscapes", "classes": CITYSCAPES, "label_encoding": "auto"},
            "label_shift = 1 belongs to label_encoding: index",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(root, changes, message):
    with pytest.raises(UserError, match=message):
        config_of(root, **changes)


def test_labels_beyond_a_byte_do_not_wrap(root):
    save(root / "labels" / "one.png", np.where(LABEL == 255, 256, LABEL).astype(np.uint16))
    with pytest.raises(UserError, match="has the value 256"):
        open_dataset(config_of(root)).label("one")


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_mask_belongs_to_the_upright_picture(root, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns = {3: 2, 6: -1, 8: 1}[orientation]
    save(root / "images" / "one.png", IMAGE, exif=exif)
    save(root / "labels" / "one.png", np.rot90(LABEL, turns).copy())
    data = open_dataset(config_of(root))
    np.testing.assert_array_equal(data.image("one"), np.rot90(IMAGE, turns))
    np.testing.assert_array_equal(data.label("one"), np.rot90(LABEL, turns))
    if orientation != 3:
        save(root / "labels" / "one.png", LABEL)
        with pytest.raises(UserError, match="6x4 pixels but its image is 4x6.* orientation tag, remove it if"):
            data.label("one")


def test_the_largest_picture_is_a_setting(root):
    data = open_dataset(config_of(root, max_pixels=23))
    with pytest.raises(
        UserError, match=r"image .*one.png has 6x4 pixels, more than dataset.max_pixels = 23.*line 1 of"
    ):
        data.image("one")


def test_a_cached_picture_of_another_reader_is_not_used(root, monkeypatch):
    data = open_dataset(config_of(root, cache=str(root / "cache")))
    data.image("one")
    for path in (root / "cache").rglob("*.npy"):
        np.save(path, IMAGE + 1)
    np.testing.assert_array_equal(data.image("one"), IMAGE + 1)
    monkeypatch.setattr("common.datasets.decoded_cache.READER", -1)
    np.testing.assert_array_equal(data.image("one"), IMAGE)


def test_ignore_index_must_be_a_byte(root):
    with pytest.raises(UserError, match="ignore_index = -1"):
        open_dataset(config_of(root, ignore_index=-1))
