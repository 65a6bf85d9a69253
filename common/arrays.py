"""Conventions of the arrays that pass between the rooms: sizes, boxes, the ignored label."""

from __future__ import annotations

from dataclasses import dataclass

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A half-open rectangle of an image: rows ``top..bottom``, columns ``left..right``."""

    top: int
    left: int
    bottom: int
    right: int


IGNORE = 255
"""The value of a label pixel that counts nowhere, as ``Dataset.label`` returns it."""
