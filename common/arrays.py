"""Conventions of the arrays that pass between the rooms: sizes, boxes, the ignored label."""

from __future__ import annotations

from typing import NamedTuple

IGNORE = 255
"""The value of a label pixel that counts nowhere, as ``Dataset.label`` returns it."""

Size = tuple[int, int]
"""Height and width in pixels."""


class Box(NamedTuple):
    """A half-open rectangle of an image: rows ``top..bottom``, columns ``left..right``."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def rows(self) -> slice:
        """What the box shows of an array's axis of rows."""
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        """What the box shows of an array's axis of columns."""
        return slice(self.left, self.right)


def center_box(size: Size, inner: Size) -> Box:
    """Return the box of ``inner`` pixels in the centre of ``size``; where a pixel is left over, it lies below and right."""
    top, left = ((side - part) // 2 for side, part in zip(size, inner))
    return Box(top=top, left=left, bottom=top + inner[0], right=left + inner[1])
