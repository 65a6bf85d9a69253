"""Pictures of predictions."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from common.reports.palettes import colours
from common.reports.pictures import comparison, difference_map, overlay, png_data_uri, side_by_side, write_png

VOC = colours("voc", 21)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)


def test_overlay_blends_and_leaves_ignored_pixels(image):
    ids = np.full((4, 6), 1, dtype=np.uint8)
    ids[0, 0] = 255
    half = overlay(image, ids, VOC)
    assert half.dtype == np.uint8
    np.testing.assert_array_equal(half[0, 0], image[0, 0])
    expected = np.rint(0.5 * image[1, 1] + 0.5 * np.array([128, 0, 0]))
    np.testing.assert_array_equal(half[1, 1], expected)
    np.testing.assert_array_equal(overlay(image, ids, VOC, alpha=0), image)
    np.testing.assert_array_equal(overlay(image, ids, VOC, alpha=1)[1, 1], [128, 0, 0])
    with pytest.raises(ValueError, match="alpha"):
        overlay(image, ids, VOC, alpha=1.5)


def test_difference_map_has_three_kinds():
    label = np.array([[1, 2, 255]], dtype=np.uint8)
    prediction = np.array([[1, 3, 1]], dtype=np.uint8)
    right, wrong, ignored = difference_map(label, prediction)[0].tolist()
    assert wrong[0] > wrong[1] and right[1] > right[0] and ignored == [255, 255, 255]


def test_side_by_side_aligns_tops_on_white(image):
    strip = side_by_side([image, image[:2, :3]], gap=2)
    assert strip.shape == (4, 6 + 2 + 3, 3)
    np.testing.assert_array_equal(strip[:, :6], image)
    np.testing.assert_array_equal(strip[:2, 8:], image[:2, :3])
    assert (strip[:, 6:8] == 255).all() and (strip[2:, 8:] == 255).all()


def test_comparison_shows_four_panels(image):
    label = np.zeros((4, 6), dtype=np.uint8)
    strip = comparison(image, label, label, VOC)
    assert strip.shape == (4, 4 * 6 + 3 * 4, 3)
    np.testing.assert_array_equal(strip[:, :6], image)
    np.testing.assert_array_equal(strip[:, 10:16], VOC[label])


def test_png_round_trips(image, tmp_path):
    write_png(tmp_path / "picture.png", image)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "picture.png")), image)
    head, _, data = png_data_uri(image).partition(",")
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(base64.b64decode(data)))), image)
