"""The weak augmentation of CPS and CPCL: flip, one of a few scales, crop (``specs/cpcl.md`` section 6.2).

Drawing and applying are apart, so that recorded draws can be replayed.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from common.arrays import Size
from common.config.schema import AugmentConfig
from common.images.geometry import scaled_size
from common.images.normalise import normalise
from common.methods.weak_crop import Labels


@dataclass(frozen=True, kw_only=True)
class CropDraws:
    """What the augmentation decides at random; ``top`` and ``left`` count in the scaled image."""

    flip: bool
    scale: float
    top: int
    left: int


def draw_flip_scale_crop(height: int, width: int, config: AugmentConfig, rng: np.random.Generator) -> CropDraws:
    """Draw flip, scale, top and left, in this order, for an image of ``height`` x ``width`` pixels.

    With ``config.crop_off_by_one`` a crop may begin one position past the last whole one.
    """
    flip = rng.random() >= 1 - config.flip
    scale = config.scales[int(rng.integers(len(config.scales)))]
    starts = []
    for size in scaled_size(height, width, scale):
        last = size - config.crop + config.crop_off_by_one
        starts.append(int(rng.integers(0, last, endpoint=True)) if size > config.crop else 0)
    return CropDraws(flip=flip, scale=scale, top=starts[0], left=starts[1])


def apply_flip_scale_crop(
    image: np.ndarray, labels: Labels, draws: CropDraws, config: AugmentConfig, size: Size | None = None
) -> dict[str, np.ndarray]:
    """Flip, resize, crop, normalise and pad one image and its labels alike.

    ``image`` is uint8 RGB ``[H,W,3]``, resized bilinearly as bytes by OpenCV, labels by its nearest neighbour. Returns
    ``image`` float32 ``[3,S,T]`` and every label uint8 ``[S,T]``; (S, T) = ``size``, by default ``config.crop`` twice. What
    is missing is added half on either side, rounded down at top and left: 0 in the image (the mean colour),
    ``config.pad_label`` in the labels.
    """
    height, width = scaled_size(*image.shape[:2], draws.scale)
    size = size or (config.crop, config.crop)
    window = (slice(draws.top, draws.top + size[0]), slice(draws.left, draws.left + size[1]))

    def crop(plane: np.ndarray, interpolation: int) -> np.ndarray:
        flipped = np.ascontiguousarray(plane[:, ::-1]) if draws.flip else plane
        return cv2.resize(flipped, (width, height), interpolation=interpolation)[window]

    pixels = normalise(crop(image, cv2.INTER_LINEAR), config).transpose(2, 0, 1)
    margins = [(missing // 2, missing - missing // 2) for missing in np.subtract(size, pixels.shape[1:])]
    sample = {"image": np.pad(pixels, [(0, 0), *margins])}
    for name, label in labels.items():
        sample[name] = np.pad(crop(label, cv2.INTER_NEAREST), margins, constant_values=config.pad_label)
    return sample


def flip_scale_crop(
    image: np.ndarray, labels: Labels, config: AugmentConfig, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """:func:`apply_flip_scale_crop` with fresh draws."""
    return apply_flip_scale_crop(image, labels, draw_flip_scale_crop(*image.shape[:2], config, rng), config)


PIPELINES = {"cpcl": flip_scale_crop}
