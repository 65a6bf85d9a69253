"""Boxes of images."""

from __future__ import annotations

import numpy as np
import pytest

from common.arrays import Box, center_box


def test_a_box_shows_its_rows_and_columns():
    image = np.arange(20).reshape(4, 5)
    box = Box(top=1, left=2, bottom=3, right=5)
    np.testing.assert_array_equal(image[box.rows, box.columns], image[1:3, 2:5])
    assert box == (1, 2, 3, 5)


@pytest.mark.parametrize(
    ("size", "inner", "box"),
    [((4, 5), (4, 5), (0, 0, 4, 5)), ((6, 5), (2, 2), (2, 1, 4, 3)), ((5, 3), (2, 1), (1, 1, 3, 2))],
)
def test_the_box_in_the_centre(size, inner, box):
    assert center_box(size, inner) == box
