"""A window of a resized picture, equal to the bit to what is cut from the whole one."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from common.arrays import Box
from common.images.pillow_resize import SUPPORT, nearest_rows, resized_window


def random_cases(count: int):
    rng = np.random.default_rng(3)
    for _ in range(count):
        height, width = (int(side) for side in rng.integers(1, 90, 2))
        factor = 2 ** rng.uniform(-2.5, 2)
        size = max(int(height * factor), 1), max(int(width * factor * rng.uniform(0.8, 1.25)), 1)
        top, left = (int(rng.integers(0, side)) for side in size)
        crop = int(rng.integers(1, 60))
        yield rng.integers(0, 256, (height, width, 3), dtype=np.uint8), size, Box(top, left, top + crop, left + crop)


@pytest.mark.parametrize("resample", SUPPORT)
def test_a_window_is_cut_from_the_whole(resample):
    shifted = 0
    for image, size, window in random_cases(300):
        whole = np.asarray(Image.fromarray(image).resize(size[::-1], resample))
        expected = whole[window.rows, window.columns]
        np.testing.assert_array_equal(resized_window(image, size, window, resample), expected)
        beside = whole[window.top + 1 : window.bottom + 1, window.columns]
        shifted += not np.array_equal(beside, expected)
    assert shifted > 250, "neighbouring windows are equal: the comparison shows nothing"


def test_nearest_neighbours_are_pillows():
    rng = np.random.default_rng(4)
    for _ in range(200):
        height, width, new_height, new_width = (int(side) for side in rng.integers(1, 300, 4))
        label = rng.integers(0, 256, (height, width), dtype=np.uint8)
        expected = np.asarray(Image.fromarray(label).resize((new_width, new_height), Image.Resampling.NEAREST))
        resized = label[nearest_rows(height, new_height)][:, nearest_rows(width, new_width)]
        np.testing.assert_array_equal(resized, expected)
