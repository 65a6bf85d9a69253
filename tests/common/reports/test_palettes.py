"""Colours of the classes and label images that keep their ids."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.paths import PROJECT
from common.reports.palettes import colours, voc_palette, write_label_png

CAMVID_LABELS = Path(os.environ.get("SHARED", PROJECT.parent / "shared")) / "data" / "camvid" / "SegmentationClass"

VOC = (
    (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128), (128, 128, 128),
    (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0), (64, 0, 128), (192, 0, 128), (64, 128, 128), (192, 128, 128),
    (0, 64, 0), (128, 64, 0), (0, 192, 0), (128, 192, 0), (0, 64, 128),
)  # fmt: skip


def test_voc_bit_palette():
    palette = voc_palette()
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    np.testing.assert_array_equal(palette[:21], VOC)
    np.testing.assert_array_equal(palette[255], (224, 224, 192))
    assert len(np.unique(palette, axis=0)) == 256


@pytest.mark.parametrize(("name", "classes", "void"), [("voc", 21, 255), ("cityscapes", 19, 0), ("camvid", 11, 0)])
def test_classes_have_different_colours_and_the_rest_is_black(name, classes, void):
    table = colours(name, classes)
    assert table.shape == (256, 3) and table.dtype == np.uint8
    assert len(np.unique(table[:classes], axis=0)) == classes
    assert (table[255] == void).all()
    assert not table[classes:255].any()


def test_known_colours():
    assert colours("cityscapes", 19)[[0, 10, 13, 18]].tolist() == [
        [128, 64, 128],
        [70, 130, 180],
        [0, 0, 142],
        [119, 11, 32],
    ]
    assert colours("camvid", 11)[[0, 4, 10]].tolist() == [[128, 128, 128], [60, 40, 222], [0, 128, 192]]


def test_camvid_colours_are_those_of_its_label_files():
    files = sorted(CAMVID_LABELS.glob("*.png")) if CAMVID_LABELS.is_dir() else []
    if not files:
        pytest.skip(f"optional real data beside the checkout is absent: {CAMVID_LABELS}")
    with Image.open(files[0]) as label:
        stored = np.array(label.getpalette(), dtype=np.uint8).reshape(-1, 3)
    np.testing.assert_array_equal(stored[:11], colours("camvid", 11)[:11])


def test_own_data_sets_may_have_many_classes_in_voc_colours():
    assert len(np.unique(colours("voc", 254)[:254], axis=0)) == 254


def test_bad_names_and_too_many_classes_are_refused():
    with pytest.raises(UserError, match="unknown palette 'ade'; one of voc, cityscapes, camvid"):
        colours("ade", 10)
    with pytest.raises(UserError, match="palette camvid has 11 colours but there are 12 classes"):
        colours("camvid", 12)


def test_label_png_keeps_ids_and_shows_colours(tmp_path):
    ids = np.array([[0, 1, 2], [20, 3, 255]], dtype=np.uint8)
    palette = colours("voc", 21)
    write_label_png(tmp_path / "deep" / "label.png", ids, palette)
    with Image.open(tmp_path / "deep" / "label.png") as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.array(picture), ids)
        np.testing.assert_array_equal(np.array(picture.convert("RGB")), palette[ids])
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["label.png"]


def test_label_png_refuses_other_arrays(tmp_path):
    with pytest.raises(TypeError, match="uint8"):
        write_label_png(tmp_path / "label.png", np.zeros((2, 2), dtype=np.int64), colours("voc", 21))
    assert not list(tmp_path.iterdir())
