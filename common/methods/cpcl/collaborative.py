"""What CPCL and CPS share on the host: streams and CutMix draws of two networks trained side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from common.config.loaders import RepeatedLists
from common.config.schema import AugmentConfig
from common.methods.cpcl.augment import FlipScaleCrop
from common.methods.interface import OWN_LABEL, Clock, MethodSettings, Stream
from common.rng import generator


@dataclass(frozen=True, kw_only=True)
class TwoBranchSettings(MethodSettings):
    """What CPS and CPCL have in common: two networks side by side, the authors' augmentation and epochs."""

    augment: ClassVar = FlipScaleCrop
    loader: ClassVar = RepeatedLists
    branches: ClassVar = 2
    passed_alone: ClassVar = ("labelled", "unlabelled")

    def mixes(self) -> bool:
        """Whether CutMix mixes two draws of unlabelled images."""
        return True

    def streams(self, augment: AugmentConfig) -> tuple[Stream, ...]:
        """Labelled images and one draw of unlabelled ones, or, to mix, two independent draws, all augmented alike."""
        unlabelled = ["unlabelled", "unlabelled_other"] if self.mixes() else ["unlabelled"]
        return (
            Stream(name="labelled", source="labelled", pipeline=augment, labels=OWN_LABEL),
            *(Stream(name=name, source="unlabelled", pipeline=augment) for name in unlabelled),
        )


class Draws(Protocol):
    """The random decisions of one step; tests replay recorded ones."""

    def mix_masks(self, count: int, size: tuple[int, int]) -> np.ndarray:
        """Return bool ``[count,H,W]``: true where the image of ``unlabelled_other`` shows."""


class StepDraws:
    """CutMix masks from a generator keyed by (seed, epoch, step, group)."""

    def __init__(self, seed: int, clock: Clock, group: int = 0) -> None:
        self._mixing = generator(seed, "collaborative mixing", clock.epoch, clock.step, group)

    def mix_masks(self, count: int, size: tuple[int, int]) -> np.ndarray:
        """See :class:`Draws`."""
        return draw_toggled_masks(count, size, self._mixing)


def area_sides(area: np.ndarray, exponent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return heights area^exponent and widths with ``height * width = area``, all as shares of the image."""
    heights = np.exp(exponent * np.log(area))
    return heights, area / heights


def placed_boxes(size: tuple[int, int], sides: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return int64 ``[...,4]`` boxes of ``sides`` ``[...,2]`` (shares of ``size``) at ``places`` ``[...,2]`` in [0, 1].

    Sides and positions round half to even; 0 and 1 are the first and the last position inside the image.
    """
    shape = np.array(size)
    extent = np.round(sides * shape)
    start = np.round((shape - extent) * places)
    return np.concatenate([start, start + extent], -1).astype(np.int64)


def toggled_mask(size: tuple[int, int], boxes: np.ndarray, invert: bool = True) -> np.ndarray:
    """Return bool ``[H,W]``: false (with ``invert``, else true) outside of ``boxes``, turned round by every box in turn."""
    mask = np.full(size, not invert)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] ^= True
    return mask


def draw_toggled_masks(
    count: int,
    size: tuple[int, int],
    rng: np.random.Generator,
    area_range: tuple[float, float] = (0.25, 0.5),
    boxes: int = 3,
    invert: bool = True,
) -> np.ndarray:
    """Draw CutMix masks bool ``[count,H,W]`` of several boxes each (CPS and CPCL).

    Each box has an area in ``area_range`` over the number of boxes, any aspect and place. Drawn in this order: the areas
    of all boxes, the exponents of their heights, their places. True is where the other image shows.
    """
    area = rng.uniform(*area_range, size=(count, boxes))
    sides = np.stack(area_sides(area, rng.uniform(size=(count, boxes))), -1) * np.sqrt(1 / boxes)
    placed = placed_boxes(size, sides, rng.uniform(size=(count, boxes, 2)))
    return np.stack([toggled_mask(size, mask_boxes, invert) for mask_boxes in placed])
