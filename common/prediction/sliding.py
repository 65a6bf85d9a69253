"""Where the windows of the protocol ``slide`` lie, and how their values are joined."""

from __future__ import annotations

import math
from collections import deque
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

    ``shift_back`` (U2PL's ``eval.py``): starts 0, stride, ..., ceil((L - size) / stride) + 1 of them, the
    last one ends at the border; all windows are ``size`` x ``size``, so a smaller image must be padded before
    (ValueError). ``cut_off`` (UniMatch's and UCCL's ``supervised.py``): starts 0, stride, ... while they lie inside the image;
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


def joining_order(layout: Sequence[Box]) -> list[Box]:
    """Return the windows of a layout in the order in which :func:`class_id_strips` needs least memory.

    That is by rows from top to bottom; but the last row, which the border may have moved back over most of the one above,
    goes beside that one, each window as soon as those above it are there. Every pixel meets its windows in the same order.
    """
    tops = sorted({window.top for window in layout})

    def place(window: Box) -> tuple[int, int]:
        if window.top == tops[-1] and len(tops) > 1:
            return tops[-2], 2 * window.right - 1
        return window.top, 2 * window.left

    return sorted(layout, key=place)


def class_id_strips(
    layout: Sequence[Box], values: Iterable[np.ndarray], classes: int, width: int, mean: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """Join windows as :func:`join_windows` does and yield (top, class ids uint8 ``[rows,width]``) from top to bottom.

    ``layout`` is in rows of windows of one height from top to bottom, each from left to right, or as :func:`joining_order`
    returns it; ``values`` holds ``[K,h,w]`` of every window in the same order; ``mean`` divides by how many windows show a
    pixel. Class ids are decided as soon as no window that follows shows a pixel: memory holds the sums of the columns of one
    window, and of the rows that two rows of windows share. It grows with the width, not with the image's height. Raises
    ValueError where windows leave a gap or come in another order.
    """
    rows = _rows(layout, classes, width, mean)
    for window, value in zip(layout, values):
        row = rows[window.top]
        row.add(window, value)
        if row.left == width:
            yield row.top, row.ids
            del rows[row.top]
    if rows:
        raise ValueError(f"windows must cover all {width} columns, and those from row {min(rows)} do not")


def _rows(layout: Sequence[Box], classes: int, width: int, mean: bool) -> dict[int, _RowOfWindows]:
    by_top: dict[int, list[Box]] = {}
    for window in layout:
        by_top.setdefault(window.top, []).append(window)
    rows: dict[int, _RowOfWindows] = {}
    below = None
    for top in sorted(by_top, reverse=True):
        below = rows[top] = _RowOfWindows(by_top[top], classes, width, mean, below)
    return rows


class _RowOfWindows:
    """Sums of windows that lie side by side. From the left, what is done becomes class ids and goes to the row ``below``.

    ``above`` holds float32 ``[K+1,rows,columns]`` of the rows that the row above has summed before, in pieces from the left;
    the last plane counts the windows that show a pixel.
    """

    def __init__(
        self, windows: Sequence[Box], classes: int, width: int, mean: bool, below: _RowOfWindows | None
    ) -> None:
        self.top, self.bottom, self.mean, self.below = windows[0].top, windows[0].bottom, mean, below
        self.height = (self.bottom if below is None else below.top) - self.top
        if self.height > self.bottom - self.top:
            raise ValueError(f"windows must leave no gap between the rows {self.bottom} and {below.top}")
        self.shape = (classes + 1, self.bottom - self.top, max(window.right - window.left for window in windows))
        self.width, self.following = width, iter([*(window.left for window in windows[1:]), width])
        self.above: deque[np.ndarray] | tuple[()] | None = None
        self.left = self.right = 0
        if below is not None:
            below.above = ()

    def add(self, window: Box, value: np.ndarray) -> None:
        """Add ``value``, ``[K,h,w]`` of a window, the next one to the right."""
        if not self.left <= window.left <= self.right or window.bottom != self.bottom:
            raise ValueError(
                f"windows of a row must go from left to right without a gap, unlike {window} after {self.right}"
            )
        if not self.right:
            self.sums = np.empty(self.shape, np.float32)
            self.ids = np.empty((self.height, self.width), np.uint8)
            if self.below is not None:
                self.below.above = deque()
        self._widen(window.right)
        shown = self.sums[:, :, : window.right - self.left]
        shown[:-1] += value
        shown[-1] += 1
        self._finish(min(next(self.following), self.right))

    def _widen(self, right: int) -> None:
        """Take what the row above has summed of the columns before ``right``."""
        while self.right < right:
            columns, depth = right - self.right, 0
            if self.above is not None:
                if not self.above:
                    raise ValueError(
                        f"windows must go from top to bottom: those above row {self.top} are not there yet"
                    )
                piece = self.above.popleft()
                if piece.shape[2] > columns:
                    self.above.appendleft(piece[:, :, columns:])
                piece = piece[:, :, :columns]
                depth, columns = piece.shape[1:]
                self.sums[:, :depth, self.right - self.left :][:, :, :columns] = piece
            self.sums[:, depth:, self.right - self.left :][:, :, :columns] = 0
            self.right += columns

    def _finish(self, until: int) -> None:
        """Decide the columns before ``until``."""
        columns = until - self.left
        if columns <= 0:
            return
        done = self.sums[:, : self.height, :columns]
        if self.mean:
            done[:-1] /= done[-1]
        self.ids[:, self.left : until] = class_ids_of(done[:-1])
        if self.below is not None:
            self.below.above.append(self.sums[:, self.height :, :columns].copy())
        for plane in self.sums:
            plane[:, : self.right - until] = plane[:, columns : self.right - self.left]
        self.left = until


def class_ids_of(values: np.ndarray) -> np.ndarray:
    """Return the arg-max over the classes of ``[K,h,w]`` as uint8 ``[h,w]``; of equal values the first class counts.

    A running maximum over a few rows at a time stays in the processor's cache: half the time of NumPy's ``argmax``.
    """
    ids = np.zeros(values.shape[1:], np.uint8)
    for top in range(0, len(ids), ROWS_AT_ONCE):
        part, part_ids = values[:, top : top + ROWS_AT_ONCE], ids[top : top + ROWS_AT_ONCE]
        best = part[0].copy()
        for class_id in range(1, len(part)):
            np.putmask(part_ids, part[class_id] > best, class_id)
            np.maximum(best, part[class_id], out=best)
    return ids


def _shift_back(length: int, size: int, stride: int) -> list[tuple[int, int]]:
    if length < size:
        raise ValueError(f"a side of {length} is smaller than the window of {size}; pad it first")
    starts = [min(index * stride, length - size) for index in range(math.ceil((length - size) / stride) + 1)]
    return [(start, start + size) for start in starts]


def _cut_off(length: int, size: int, stride: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, length)) for start in range(0, length, stride)]
