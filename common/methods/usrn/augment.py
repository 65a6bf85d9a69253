"""USRN's augmentation (``base/base_dataset.py``): labelled crops, and two views of unlabelled ones."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from common.arrays import IGNORE, Box
from common.config.schema import AugmentConfig, Normalisation
from common.config.strict import ranged
from common.images.colour import ColourJitter, draw_colour_jitter, grey
from common.images.geometry import size_of_long_side
from common.images.pillow_resize import resized_window
from common.methods.interface import EightBit, Labels
from common.methods.weak_crop import check_around_one

JITTER = (0.4, 0.4, 0.4, 0.1)
JITTER_PROBABILITY, GREY_PROBABILITY, BLUR_PROBABILITY = 0.8, 0.2, 0.5
BLUR_KERNEL = 5


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Long side after resizing, corner of the crop in the resized and padded image, and whether it is mirrored."""

    long_side: int
    top: int
    left: int
    flip: bool


@dataclass(frozen=True, kw_only=True)
class LongSideCrop(EightBit, AugmentConfig):
    """The long side becomes ``base_size`` (null: the image's own) times a factor of ``resize_range``, then flip and crop."""

    resize_range: tuple[float, float] = ranged((0.5, 2.0), low=0.01)
    base_size: int | None = ranged(None, low=8)

    @property
    def normalisation(self) -> Normalisation:
        """Its own."""
        return self

    def draw(self, height: int, width: int, rng: np.random.Generator) -> Geometry:
        """Draw long side, top, left and flip, in this order; a large number flips."""
        long_side, rooms = self._draw_size(height, width, rng)
        top, left = (int(rng.integers(0, room + 1)) for room in rooms)
        return Geometry(long_side=long_side, top=top, left=left, flip=bool(rng.random() > 1 - self.flip))

    def _draw_size(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, list[int]]:
        """Draw the long side; return it and the positions that a crop can be moved down and right by."""
        low, high = self.resize_range
        base = self.base_size or max(height, width)
        long_side = int(rng.integers(int(low * base), int(high * base) + 1))
        return long_side, [max(side - self.crop, 0) for side in size_of_long_side(height, width, long_side)]

    def apply(self, image: np.ndarray, labels: Labels, draws: Geometry) -> dict[str, np.ndarray]:
        """Return ``image`` uint8 ``[S,S,3]`` (bicubic, padded with the mean colour) and every label (nearest, padded with 255)."""
        size = size_of_long_side(*image.shape[:2], draws.long_side)
        window = Box(draws.top, draws.left, draws.top + self.crop, draws.left + self.crop)
        picture = resized_window(image, size, window, Image.Resampling.BICUBIC)
        sample = {"image": _squared(picture, draws, self.crop, np.rint(self.mean).astype(np.uint8))}
        for name, label in labels.items():
            resized = cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)
            sample[name] = _squared(resized[window.rows, window.columns], draws, self.crop, IGNORE)
        return sample


def _squared(shown: np.ndarray, draws: Geometry, crop: int, fill: np.ndarray | int) -> np.ndarray:
    """What the window shows, with ``fill`` where it reaches beyond the picture, mirrored if that was drawn."""
    padded = np.empty((crop, crop, *shown.shape[2:]), np.uint8)
    padded[:] = fill
    padded[: shown.shape[0], : shown.shape[1]] = shown
    return cv2.flip(padded, 1) if draws.flip else padded


@dataclass(frozen=True, kw_only=True)
class LabelledCrop(LongSideCrop):
    """Labelled images; with ``labelled_jitter`` the colours change, too."""

    labelled_jitter: bool = False

    def __post_init__(self) -> None:
        check_around_one("resize_range", self.resize_range)

    def pictures(self, image: np.ndarray, labels: Labels, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return ``image`` uint8 ``[S,S,3]`` and all labels uint8 ``[S,S]``."""
        sample = self.apply(image, labels, self.draw(*image.shape[:2], rng))
        if self.labelled_jitter:
            sample["image"] = draw_colour_jitter(JITTER, rng).apply(sample["image"])
        return sample


@dataclass(frozen=True, kw_only=True)
class LabelledAndUnlabelledCrop(LabelledCrop):
    """The augmentation of stage C: labelled images, and :attr:`unlabelled` ones with a range of their own."""

    unlabelled_resize_range: tuple[float, float] = ranged((0.8, 2.0), low=0.01)

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.unlabelled_resize_range
        if low > high:
            raise ValueError(f"unlabelled_resize_range = [{low}, {high}] must go from low to high")

    @property
    def unlabelled(self) -> UnlabelledCrop:
        """The augmentation of unlabelled images."""
        return UnlabelledCrop(
            crop=self.crop, flip=self.flip, mean=self.mean, std=self.std, base_size=self.base_size,
            resize_range=self.unlabelled_resize_range,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StrongDraws:
    """What the strong view does to its picture; ``jitter`` None: nothing."""

    blur: bool
    jitter: ColourJitter | None
    grey: bool


def draw_strong(rng: np.random.Generator) -> StrongDraws:
    """Draw blur, jitter and grey-scale, in this order."""
    blurred = rng.random() < BLUR_PROBABILITY
    jitter = draw_colour_jitter(JITTER, rng) if rng.random() < JITTER_PROBABILITY else None
    return StrongDraws(blur=bool(blurred), jitter=jitter, grey=bool(rng.random() < GREY_PROBABILITY))


def blur(image: np.ndarray, kernel: int = BLUR_KERNEL) -> np.ndarray:
    """OpenCV's Gaussian blur of ``kernel`` x ``kernel`` pixels with the standard deviation of its own rule."""
    return cv2.GaussianBlur(image, (kernel, kernel), 0)


def apply_strong(image: np.ndarray, draws: StrongDraws) -> np.ndarray:
    """Return the strong view of a crop, both uint8 ``[S,S,3]``."""
    image = blur(image) if draws.blur else image
    image = draws.jitter.apply(image) if draws.jitter else image
    return grey(image) if draws.grey else image


@dataclass(frozen=True, kw_only=True)
class UnlabelledCrop(LongSideCrop):
    """Unlabelled images: ``weak`` is the crop, ``strong`` the same blurred, jittered or grey."""

    def draw(self, height: int, width: int, rng: np.random.Generator) -> Geometry:
        """Draw long side, left, top and flip, in this order, as the authors' second loader does; a small number flips."""
        long_side, rooms = self._draw_size(height, width, rng)
        left, top = (int(rng.integers(0, room + 1)) for room in reversed(rooms))
        return Geometry(long_side=long_side, top=top, left=left, flip=bool(rng.random() < self.flip))

    def pictures(self, image: np.ndarray, labels: Labels, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return ``weak`` and ``strong`` uint8 ``[S,S,3]``, and labels, if any, uint8 ``[S,S]``."""
        sample = self.apply(image, labels, self.draw(*image.shape[:2], rng))
        crop = sample.pop("image")
        return sample | {"weak": crop, "strong": apply_strong(crop, draw_strong(rng))}
