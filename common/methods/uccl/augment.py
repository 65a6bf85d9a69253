"""Weak base, strong views and CutMix boxes of FixMatch, UniMatch and UCCL (``dataset/semi.py``, ``dataset/transform.py``).

Geometry and colours are computed on 8-bit pictures with Pillow's filters, as the authors do; pictures are normalised last.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from common.arrays import IGNORE, Box
from common.config.schema import AugmentConfig, Normalisation
from common.config.strict import ranged
from common.images.colour import ColourJitter, draw_colour_jitter, gaussian_blur, grey
from common.images.geometry import size_of_long_side
from common.images.mixing import box_mask
from common.images.pillow_resize import nearest_rows, resized_window
from common.methods.interface import EightBit, Labels
from common.methods.weak_crop import check_around_one

JITTER, JITTER_AMOUNTS = 0.8, (0.5, 0.5, 0.5)
"""How likely a colour jitter is, and its brightness, contrast and saturation; the hue is ``augment.strong_hue``."""
BLUR, BLUR_RADIUS = 0.5, (0.1, 2.0)


@dataclass(frozen=True, kw_only=True)
class BaseDraws:
    """Long side of the resized picture, corner of the crop in the padded one, flip."""

    long_side: int
    left: int
    top: int
    flip: bool


@dataclass(frozen=True, kw_only=True)
class StrongDraws:
    """What one strong view decides; None: this operation is left out, or there is no box."""

    jitter: ColourJitter | None
    grey: bool
    blur: float | None
    box: Box | None


@dataclass(frozen=True, kw_only=True)
class WeakToStrong(EightBit, AugmentConfig):
    """The weak base of every image, and with :meth:`views` the strong views of unlabelled ones.

    ``resize_range`` are factors of the image's long side, ``pad_label`` what padding counts as in the labels. ``strong_hue`` (the
    largest turn of the hue, a part of the colour circle) and ``strong_grey`` (probability) are the strong views'.
    """

    resize_range: tuple[float, float] = ranged((0.5, 2.0), low=0.01)
    pad_label: int = ranged(255, low=0, high=255)
    strong_hue: float = ranged(0.25, low=0.0, high=0.5)
    strong_grey: float = ranged(0.2, low=0.0, high=1.0)

    def __post_init__(self) -> None:
        check_around_one("resize_range", self.resize_range)

    @property
    def normalisation(self) -> Normalisation:
        """Its own."""
        return self

    def pictures(self, image: np.ndarray, labels: Labels, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return ``image`` uint8 ``[S,S,3]`` and ``label`` uint8 ``[S,S]``: the weak base alone."""
        picture, label = self.apply(image, labels["label"], self.draw(*image.shape[:2], rng))
        return {"image": picture, "label": label}

    def views(self, count: int, partner: bool) -> Views:
        """The augmentation of unlabelled images: ``count`` strong views and, with ``partner``, a CutMix partner."""
        return Views(augment=self, count=count, partner=partner)

    def draw(self, height: int, width: int, rng: np.random.Generator) -> BaseDraws:
        """Draw long side, left, top and flip, in this order; both ends of every range are included."""
        low, high = (int(factor * max(height, width)) for factor in self.resize_range)
        long_side = max(int(rng.integers(low, high + 1)), 1)
        new_height, new_width = size_of_long_side(height, width, long_side)
        left, top = (int(rng.integers(0, max(side - self.crop, 0) + 1)) for side in (new_width, new_height))
        return BaseDraws(long_side=long_side, left=left, top=top, flip=bool(rng.random() < self.flip))

    def draw_strong(self, rng: np.random.Generator) -> StrongDraws:
        """Draw one strong view and its CutMix box for a crop, in the authors' order."""
        jitter = draw_colour_jitter((*JITTER_AMOUNTS, self.strong_hue), rng) if rng.random() < JITTER else None
        is_grey = bool(rng.random() < self.strong_grey)
        blur = float(rng.uniform(*BLUR_RADIUS)) if rng.random() < BLUR else None
        return StrongDraws(jitter=jitter, grey=is_grey, blur=blur, box=draw_area_box(self.crop, rng))

    def apply(self, image: np.ndarray, label: np.ndarray | None, draws: BaseDraws) -> tuple[np.ndarray, np.ndarray]:
        """Resize, pad right and bottom, crop and flip; S = ``crop``.

        ``image`` uint8 ``[H,W,3]``, ``label`` uint8 ``[H,W]`` or None. Returns uint8 ``[S,S,3]`` with black padding and uint8
        ``[S,S]``: the label, padded with ``pad_label``; without one 0, and 255 in the padding.
        """
        size = size_of_long_side(*image.shape[:2], draws.long_side)
        window = Box(draws.top, draws.left, draws.top + self.crop, draws.left + self.crop)
        picture = resized_window(image, size, window, Image.Resampling.BILINEAR)
        if label is None:
            plane, fill = np.zeros(picture.shape[:2], np.uint8), IGNORE
        else:
            rows, columns = (nearest_rows(old, new) for old, new in zip(label.shape, size))
            plane, fill = label.take(columns[window.columns], 1).take(rows[window.rows], 0), self.pad_label
        picture, plane = _squared(picture, self.crop, 0), _squared(plane, self.crop, fill)
        return (cv2.flip(picture, 1), cv2.flip(plane, 1)) if draws.flip else (picture, plane)


def _squared(plane: np.ndarray, size: int, fill: int) -> np.ndarray:
    """``plane`` with ``fill`` at the right and the bottom where it is smaller than ``size``."""
    down, across = (size - side for side in plane.shape[:2])
    if not down and not across:
        return plane
    return cv2.copyMakeBorder(plane, 0, down, 0, across, cv2.BORDER_CONSTANT, value=(fill, fill, fill))


def apply_strong(picture: np.ndarray, draws: StrongDraws) -> np.ndarray:
    """Return the strong view of a weak base, both uint8 ``[S,S,3]``."""
    if draws.jitter is not None:
        picture = draws.jitter.apply(picture)
    if draws.grey:
        picture = grey(picture)
    return picture if draws.blur is None else gaussian_blur(picture, draws.blur)


@dataclass(frozen=True, kw_only=True)
class Views(EightBit):
    """The views of one unlabelled image and, with ``partner``, those of its CutMix partner.

    ``weak``, ``strong1`` .. ``strong{count}`` images; ``ignore`` uint8 ``[S,S]``, 255 in the padding, else 0; ``box1``
    .. bool ``[S,S]``, true where the partner is pasted. The authors' partner is the same image with an augmentation of its
    own (two loaders with one seed), so it is made from the same decoded file: ``mix_weak``, ``mix_strong1`` ..,
    ``mix_ignore``.
    """

    augment: WeakToStrong
    count: int
    partner: bool

    @property
    def crop(self) -> int:
        """Side of the squares."""
        return self.augment.crop

    @property
    def normalisation(self) -> Normalisation:
        """That of the weak base."""
        return self.augment

    def pictures(self, image: np.ndarray, labels: Labels, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return the arrays of the class's description."""
        sample = self._views(image, rng, boxes=True)
        if self.partner:
            other = self._views(image, rng, boxes=False)
            sample |= {f"mix_{name}": value for name, value in other.items()}
        return sample

    def _views(self, image: np.ndarray, rng: np.random.Generator, boxes: bool) -> dict[str, np.ndarray]:
        augment = self.augment
        picture, ignore = augment.apply(image, None, augment.draw(*image.shape[:2], rng))
        sample = {"weak": picture, "ignore": ignore}
        for view in range(1, self.count + 1):
            draws = augment.draw_strong(rng)
            sample[f"strong{view}"] = apply_strong(picture, draws)
            if boxes:
                sample[f"box{view}"] = inside(augment.crop, draws.box)
        return sample


def inside(size: int, box: Box | None) -> np.ndarray:
    """Return bool ``[size,size]``, true in ``box``."""
    return np.zeros((size, size), bool) if box is None else ~box_mask((size, size), box)


def draw_area_box(size: int, rng: np.random.Generator, probability: float = 0.5) -> Box | None:
    """Draw UniMatch's CutMix box in ``size`` x ``size``, or None with 1 - ``probability``.

    An area of 2 to 40 % of the image; then height / width from 0.3 to 1 / 0.3 and the corner, until the box lies inside.
    """
    if rng.random() > probability:
        return None
    area = rng.uniform(0.02, 0.4) * size * size
    while True:
        ratio = rng.uniform(0.3, 1 / 0.3)
        width, height = int(np.sqrt(area / ratio)), int(np.sqrt(area * ratio))
        left, top = int(rng.integers(0, size)), int(rng.integers(0, size))
        if left + width <= size and top + height <= size:
            return Box(top, left, top + height, left + width)
