"""Where the windows of the protocol ``slide`` lie, and how their values are joined."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from common.arrays import Box
from common.errors import UserError

ROWS_AT_ONCE = 32

WindowRule = Literal["shift_back", "cut_off"]
"""What happens to a window that reaches over the border: it moves back (U2PL, CPCL, PCR) or is cut (UCCL)."""


def windows(height: int, width: int, size: int, stride: int, rule: WindowRule) -> list[Box]:
    """Return the windows of an image, rows from top to bottom, each row from left to right; they cover every pixel.

    ``shift_back`` (``specs/u2pl.md`` section 14): starts 0, stride, ..., ceil((L - size) / stride) + 1 of them, the
    last one ends at the border; all windows are ``size`` x ``size``, so a smaller image must be padded before
    (ValueError). ``cut_off`` (``specs/uccl.md`` section 8): starts 0, stride, ... while they lie inside the image;
    windows at the border may be smaller, down to one pixel. Raises :class:`UserError` for a stride that leaves gaps.
    """
    if stride < 1 or size < 1:
        raise UserError(f"evaluation.size = {size} and evaluation.stride = {stride} must be at least 1")
    if stride > size:
        raise UserError(
            f"evaluation.stride = {stride} leaves gaps between windows of evaluation.size = {size}; lower it"
        )
    spans = _shift_back if rule == "shift_back" else _cut_off
    columns = spans(width, size, stride)
    return [
        Box(top=top, left=left, bottom=bottom, right=right)
        for top, bottom in spans(height, size, stride)
        for left, right in columns
    ]


def join_windows(layout: Sequence[Box], values_of: Callable[[Box], Any], total: Any, visits: Any | None) -> Any:
    """Add ``values_of(window)`` ``[K,h,w]`` of every window to its place in ``total`` ``[K,H,W]`` and return the sum.

    With ``visits`` ``[H,W]`` the sum is divided by how many windows show a pixel. Both are zeros on entry, arrays of NumPy or
    of a framework alike, and are changed.
    """
    for window in layout:
        total[:, window.rows, window.columns] += values_of(window)
        if visits is not None:
            visits[window.rows, window.columns] += 1
    if visits is not None:
        total /= visits
    return total


def class_id_strips(
    layout: Sequence[Box], values: Iterable[np.ndarray], classes: int, width: int, mean: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """Join windows as :func:`join_windows` does and yield (top, class ids uint8 ``[rows,width]``) from top to bottom.

    ``layout`` goes from top to bottom, ``values`` holds ``[K,h,w]`` of every window in the same order; ``mean`` divides by
    how many windows show a pixel. Rows are given out as soon as no window below shows them, so memory grows with the
    width and a window's height, not with the image's. Raises ValueError where windows leave a gap.
    """
    tallest = max(window.bottom - window.top for window in layout)
    total, visits = np.zeros((classes, tallest, width), np.float32), np.zeros((tallest, width), np.float32)
    following = [window.top for window in layout[1:]] + [max(window.bottom for window in layout)]
    for window, value, below in zip(layout, values, following):
        height = window.bottom - window.top
        total[:, :height, window.columns] += value
        visits[:height, window.columns] += 1
        rows = below - window.top
        if not 0 <= rows <= tallest:
            raise ValueError(f"windows must go from top to bottom without a gap, not from row {window.top} to {below}")
        if rows:
            if mean:
                total[:, :rows] /= visits[:rows]
            yield window.top, class_ids_of(total[:, :rows])
            for plane in (*total, visits):
                plane[: tallest - rows] = plane[rows:]
                plane[tallest - rows :] = 0


def class_ids_of(values: np.ndarray) -> np.ndarray:
    """Return the arg-max over the classes of ``[K,h,w]`` as uint8 ``[h,w]``; of equal values the first class counts.

    A running maximum over a few rows at a time stays in the processor's cache: half the time of NumPy's ``argmax``.
    """
    ids = np.zeros(values.shape[1:], np.uint8)
    for top in range(0, len(ids), ROWS_AT_ONCE):
        part, found = values[:, top : top + ROWS_AT_ONCE], ids[top : top + ROWS_AT_ONCE]
        best = part[0].copy()
        for class_id in range(1, len(part)):
            np.putmask(found, part[class_id] > best, class_id)
            np.maximum(best, part[class_id], out=best)
    return ids


def _shift_back(length: int, size: int, stride: int) -> list[tuple[int, int]]:
    if length < size:
        raise ValueError(f"a side of {length} is smaller than the window of {size}; pad it first")
    starts = [min(index * stride, length - size) for index in range(math.ceil((length - size) / stride) + 1)]
    return [(start, start + size) for start in starts]


def _cut_off(length: int, size: int, stride: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, length)) for start in range(0, length, stride)]
