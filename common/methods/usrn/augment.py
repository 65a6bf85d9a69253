"""USRN's augmentation pipelines (``specs/usrn.md`` sections 7.2 and 7.3): labelled crops, and two views of unlabelled ones.

Each is split into drawing and applying, as in ``common/methods/weak_crop.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from common.arrays import IGNORE, Size
from common.config.schema import AugmentConfig
from common.images.colour import ColourJitter, draw_colour_jitter, grey
from common.images.normalise import normalise
from common.methods.weak_crop import Labels

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


def resized(height: int, width: int, long_side: int) -> Size:
    """Return height and width after resizing the longer one to ``long_side``."""
    if height > width:
        return long_side, max(int(long_side * width / height + 0.5), 1)
    return max(int(long_side * height / width + 0.5), 1), long_side


def draw_geometry(size: Size, unlabelled: bool, config: AugmentConfig, rng: np.random.Generator) -> Geometry:
    """Draw long side, the corner's two coordinates and the flip, in this order, for an image of ``size``.

    The authors' two loaders differ: unlabelled crops draw ``left`` first and flip for small numbers, not for large ones.
    """
    low, high = config.unlabelled_resize_range if unlabelled else config.resize_range
    base = config.base_size or max(size)
    long_side = int(rng.integers(int(low * base), int(high * base) + 1))
    room = [max(side - config.crop, 0) for side in resized(*size, long_side)]
    corner = {axis: int(rng.integers(0, room[axis] + 1)) for axis in ((1, 0) if unlabelled else (0, 1))}
    number = rng.random()
    flip = number < config.flip if unlabelled else number > 1 - config.flip
    return Geometry(long_side=long_side, top=corner[0], left=corner[1], flip=bool(flip))


def apply_geometry(image: np.ndarray, labels: Labels, draws: Geometry, crop: int, mean: tuple[float, ...]) -> Labels:
    """Return ``image`` uint8 ``[S,S,3]`` (bicubic, padded with the mean colour) and every label (nearest, padded with 255)."""
    size = resized(*image.shape[:2], draws.long_side)
    picture = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)
    sample = {"image": _crop(np.asarray(picture), draws, crop, np.rint(mean).astype(np.uint8))}
    for name, label in labels.items():
        sample[name] = _crop(cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST), draws, crop, IGNORE)
    return sample


def _crop(plane: np.ndarray, draws: Geometry, crop: int, fill: np.ndarray | int) -> np.ndarray:
    window = plane[draws.top : draws.top + crop, draws.left : draws.left + crop]
    padded = np.empty((crop, crop, *plane.shape[2:]), np.uint8)
    padded[:] = fill
    padded[: window.shape[0], : window.shape[1]] = window
    return np.ascontiguousarray(padded[:, ::-1] if draws.flip else padded)


def planes(image: np.ndarray, config: AugmentConfig) -> np.ndarray:
    """Return the normalised image, float32 ``[3,H,W]``."""
    return np.ascontiguousarray(normalise(image, config).transpose(2, 0, 1))


def labelled(
    image: np.ndarray, labels: Labels, config: AugmentConfig, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Resize, pad, crop, flip; with ``config.labelled_jitter`` a colour jitter, too. Returns ``image`` and all labels."""
    draws = draw_geometry(image.shape[:2], False, config, rng)
    sample = apply_geometry(image, labels, draws, config.crop, config.mean)
    if config.labelled_jitter:
        sample["image"] = draw_colour_jitter(JITTER, rng).apply(sample["image"])
    return sample | {"image": planes(sample["image"], config)}


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


def unlabelled(
    image: np.ndarray, labels: Labels, config: AugmentConfig, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Resize, pad, crop, flip once; ``weak`` is that crop, ``strong`` the same blurred, jittered or grey."""
    draws = draw_geometry(image.shape[:2], True, config, rng)
    sample = apply_geometry(image, labels, draws, config.crop, config.mean)
    crop = sample.pop("image")
    strong = apply_strong(crop, draw_strong(rng))
    return sample | {"weak": planes(crop, config), "strong": planes(strong, config)}


PIPELINES = {"usrn_labelled": labelled, "usrn_unlabelled": unlabelled}
