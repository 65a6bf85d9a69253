"""What CPCL and CPS share on the host: streams and CutMix draws of two networks trained side by side (``specs/cpcl.md``)."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from common.method import Clock, Stream
from common.mixing import draw_toggled_masks
from common.rng import generator

LABELLED = Stream(name="labelled", source="labelled", pipeline="cpcl", labels=("label",))
UNLABELLED = Stream(name="unlabelled", source="unlabelled", pipeline="cpcl")
UNLABELLED_OTHER = Stream(name="unlabelled_other", source="unlabelled", pipeline="cpcl")
"""A second, independent draw from the unlabelled list: what CutMix mixes in."""


class Draws(Protocol):
    """The random decisions of one step; tests replay recorded ones."""

    def mix_masks(self, count: int, size: tuple[int, int]) -> np.ndarray:
        """Return bool ``[count,H,W]``: true where the image of ``unlabelled_other`` shows."""


class StepDraws:
    """CutMix masks from a generator keyed by (seed, epoch, step, process)."""

    def __init__(self, seed: int, clock: Clock, process: int = 0) -> None:
        self._mixing = generator(seed, "collaborative mixing", clock.epoch, clock.step, process)

    def mix_masks(self, count: int, size: tuple[int, int]) -> np.ndarray:
        """See :class:`Draws`."""
        return draw_toggled_masks(count, size, self._mixing)
