"""Class ids of overlapping windows come out strip by strip, equal to those of the whole sum to the last pixel."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from common.arrays import Box
from common.prediction.sliding import class_id_strips, join_windows, joining_order, windows

CLASSES = 5


def value_of(window: Box) -> np.ndarray:
    """float32 ``[K,h,w]`` that differs between windows."""
    rng = np.random.default_rng(list(window))
    return rng.standard_normal((CLASSES, window.bottom - window.top, window.right - window.left)).astype(np.float32)


def cancelling(window: Box) -> np.ndarray:
    """float32 ``[K,h,w]`` whose sums depend on the order of the windows: small numbers are lost beside large ones."""
    rng = np.random.default_rng(list(window))
    size = (CLASSES, window.bottom - window.top, window.right - window.left)
    return rng.choice(np.float32([1e8, -1e8, 1, 0.3, -0.7]), size)


def joined(layout: list[Box], height: int, width: int, mean: bool, value_of=value_of) -> np.ndarray:
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
    for order in (layout, joining_order(layout)):
        np.testing.assert_array_equal(joined(order, height, width, mean), expected)


@pytest.mark.parametrize(("size", "stride"), [(16, 5), (24, 17)])
def test_sums_are_rounded_as_those_of_the_whole(size, stride):
    layout, sides = windows(41, 90, size, stride, "shift_back"), (41, 90)

    def whole(order: list[Box]) -> np.ndarray:
        total = np.zeros((CLASSES, *sides), np.float32)
        return join_windows(order, cancelling, total, np.zeros(sides, np.float32)).argmax(0)

    for order in (layout, joining_order(layout)):
        np.testing.assert_array_equal(joined(order, *sides, True, cancelling), whole(layout))
    assert (whole(layout) != whole(layout[::-1])).any(), "the order of these windows does not matter"


def test_a_window_that_counts_twice_changes_the_answer():
    layout = windows(33, 47, 16, 5, "cut_off")
    assert (joined(layout, 33, 47, True) != joined([layout[0], *layout], 33, 47, True)).any()


def test_gaps_and_wrong_orders_are_refused():
    tall, low = Box(0, 0, 4, 4), Box(6, 0, 10, 4)
    for layout in ([tall, low], [low, tall]):
        with pytest.raises(ValueError, match="must leave no gap between the rows 4 and 6"):
            list(class_id_strips(layout, map(value_of, layout), CLASSES, 4, True))
    layout = [Box(3, 0, 7, 4), tall]
    with pytest.raises(ValueError, match="must go from top to bottom: those above row 3 are not there yet"):
        list(class_id_strips(layout, map(value_of, layout), CLASSES, 4, True))


def test_rows_that_are_not_joined_from_left_to_right_are_refused():
    whole = [Box(0, 0, 4, 4), Box(0, 3, 4, 7), Box(0, 6, 4, 10)]
    for layout in (whole[::2], [whole[1], whole[0], whole[2]], whole[1:], [*whole[:2], Box(0, 6, 3, 10)]):
        with pytest.raises(ValueError, match="windows of a row must go from left to right without a gap"):
            list(class_id_strips(layout, map(value_of, layout), CLASSES, 10, True))
    with pytest.raises(ValueError, match="must cover all 10 columns"):
        list(class_id_strips(whole[:2], map(value_of, whole[:2]), CLASSES, 10, True))


def peak(height: int, width: int, size: int, stride: int, order=joining_order) -> int:
    """The most memory, in bytes, that joining takes."""
    layout = order(windows(height, width, size, stride, "shift_back"))
    value = np.ones((CLASSES, size, size), np.float32)
    tracemalloc.start()
    for _ in class_id_strips(layout, (value for _ in layout), CLASSES, width, True):
        pass
    high = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return high


def test_memory_does_not_grow_with_the_height():
    peak(64, 64, 32, 16)
    assert peak(2048, 64, 32, 16) < 1.5 * peak(64, 64, 32, 16) + 200 * len(windows(2048, 64, 32, 16, "shift_back"))


def test_of_a_row_of_windows_memory_holds_what_the_next_row_shows():
    width, size, stride = 4096, 48, 32
    of_a_row = (CLASSES + 1) * size * width * 4
    assert peak(32 * 7 + 16, width, size, stride) < 0.6 * of_a_row
    assert peak(32 * 7 + 16, width, size, 16) > 0.6 * of_a_row


def test_a_last_row_that_covers_most_of_the_one_above_takes_no_more():
    width, size, stride = 4096, 48, 32
    even, moved_back = 32 * 7 + 16, 32 * 7 + 17
    assert peak(moved_back, width, size, stride) < 1.3 * peak(even, width, size, stride)
    assert peak(moved_back, width, size, stride, list) > 1.5 * peak(even, width, size, stride)


def test_the_last_row_goes_beside_the_one_above():
    layout = windows(10, 12, 4, 4, "shift_back")
    assert [tuple(window)[:2] for window in joining_order(layout)] == [
        (0, 0), (0, 4), (0, 8), (4, 0), (6, 0), (4, 4), (6, 4), (4, 8), (6, 8),
    ]  # fmt: skip
    assert joining_order(layout[:3]) == layout[:3]
