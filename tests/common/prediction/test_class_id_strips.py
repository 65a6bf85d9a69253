"""Class ids of overlapping windows come out strip by strip, equal to those of the whole sum to the last pixel."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from common.arrays import Box
from common.prediction.sliding import class_id_strips, join_windows, windows

CLASSES = 5


def value_of(window: Box) -> np.ndarray:
    """float32 ``[K,h,w]`` that differs between windows."""
    rng = np.random.default_rng(list(window))
    return rng.standard_normal((CLASSES, window.bottom - window.top, window.right - window.left)).astype(np.float32)


def joined(layout: list[Box], height: int, width: int, mean: bool) -> np.ndarray:
    ids, reached = np.full((height, width), 255, np.uint8), 0
    for top, rows in class_id_strips(layout, map(value_of, layout), CLASSES, width, mean):
        assert top == reached and rows.dtype == np.uint8
        ids[top : top + len(rows)], reached = rows, top + len(rows)
    assert reached == height
    return ids


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("rule", ["shift_back", "cut_off"])
@pytest.mark.parametrize(
    ("height", "width", "size", "stride"),
    [(20, 20, 20, 20), (33, 47, 16, 5), (64, 30, 16, 16), (41, 90, 24, 17), (17, 16, 16, 3)],
)
def test_strips_equal_the_whole(height, width, size, stride, rule, mean):
    layout = windows(height, width, size, stride, rule)
    total = np.zeros((CLASSES, height, width), np.float32)
    visits = np.zeros((height, width), np.float32) if mean else None
    expected = join_windows(layout, value_of, total, visits).argmax(0)
    np.testing.assert_array_equal(joined(layout, height, width, mean), expected)


def test_a_window_that_counts_twice_changes_the_answer():
    layout = windows(33, 47, 16, 5, "cut_off")
    assert (joined(layout, 33, 47, True) != joined([layout[0], *layout], 33, 47, True)).any()


def test_gaps_and_wrong_orders_are_refused():
    tall, low = Box(0, 0, 4, 4), Box(6, 0, 10, 4)
    for layout in ([tall, low], [low, tall]):
        with pytest.raises(ValueError, match="from top to bottom without a gap"):
            list(class_id_strips(layout, map(value_of, layout), CLASSES, 4, True))


def test_memory_does_not_grow_with_the_height():
    def peak(height: int) -> int:
        layout = windows(height, 64, 32, 16, "shift_back")
        tracemalloc.start()
        for _ in class_id_strips(layout, (np.ones((CLASSES, 32, 32), np.float32) for _ in layout), CLASSES, 64, True):
            pass
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    peak(64)
    assert peak(2048) < 1.5 * peak(64) + 200 * len(windows(2048, 64, 32, 16, "shift_back"))
