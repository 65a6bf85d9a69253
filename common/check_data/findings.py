"""What a check of the data has found: problems, remarks and the classes of the labels."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from common.errors import UserError

Result = TypeVar("Result")


class Problems:
    """The problems found so far, each once; they are printed when they are found. Remarks do not count as problems."""

    def __init__(self) -> None:
        self.lines: dict[str, None] = {}
        self.remarks: dict[str, None] = {}

    def add(self, problem: str) -> None:
        """Take one problem, one line."""
        if problem not in self.lines:
            self.lines[problem] = None
            _say(f"problem: {problem}")

    def remark(self, text: str) -> None:
        """Take what is worth knowing but may be as it should."""
        self.remarks[text] = None
        _say(f"note: {text}")

    def attempt(self, read: Callable[..., Result], *arguments: object) -> Result | None:
        """Return ``read(*arguments)``; its :class:`UserError` becomes a problem and gives None."""
        try:
            return read(*arguments)
        except UserError as error:
            self.add(str(error))
            return None


class Histogram:
    """Pixels and images of every class over some labels; the last place counts ignored pixels."""

    def __init__(self, classes: int) -> None:
        self.pixels = [0] * (classes + 1)
        self.images = [0] * (classes + 1)

    def add(self, label: np.ndarray) -> None:
        """Count one label, uint8 ``[H,W]`` of class ids and 255."""
        self.merge(counts_of(label))

    def merge(self, counts: dict[int, int]) -> None:
        """Count one label by its numbers of pixels."""
        for value, count in counts.items():
            place = min(value, len(self.pixels) - 1)
            self.pixels[place] += count
            self.images[place] += 1


def counts_of(label: np.ndarray) -> dict[int, int]:
    """Return the number of pixels of every value in a label, uint8 ``[H,W]``."""
    counts = np.bincount(label.ravel(), minlength=256)
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def _say(line: str) -> None:
    """Print above a progress bar."""
    tqdm.write(line, file=sys.stdout)
