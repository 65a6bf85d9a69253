"""The weak augmentation of CPS and CPCL: flip, one of a few scales, crop."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from common.arrays import Size
from common.config.schema import AugmentConfig
from common.config.strict import ranged
from common.images.geometry import scaled_size
from common.images.normalise import planes
from common.methods.interface import Labels


@dataclass(frozen=True, kw_only=True)
class CropDraws:
    """What the augmentation decides at random; ``top`` and ``left`` count in the scaled image."""

    flip: bool
    scale: float
    top: int
    left: int


@dataclass(frozen=True, kw_only=True)
class FlipScaleCrop(AugmentConfig):
    """``scales`` are the factors to choose from; with ``crop_off_by_one`` a crop may begin one position past the last whole one.

    ``pad_label`` is what padding counts as in the labels.
    """

    scales: tuple[float, ...] = ranged((0.5, 0.75, 1.0, 1.5, 1.75, 2.0), low=0.01)
    crop_off_by_one: bool = True
    pad_label: int = ranged(255, low=0, high=255)

    def __post_init__(self) -> None:
        if not self.scales:
            raise ValueError("scales must name at least one factor, e.g. [1.0]")

    def __call__(self, image: np.ndarray, labels: Labels, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """:meth:`apply` with fresh draws."""
        return self.apply(image, labels, self.draw(*image.shape[:2], rng))

    def draw(self, height: int, width: int, rng: np.random.Generator) -> CropDraws:
        """Draw flip, scale, top and left, in this order, for an image of ``height`` x ``width`` pixels."""
        flip = rng.random() >= 1 - self.flip
        scale = self.scales[int(rng.integers(len(self.scales)))]
        starts = []
        for size in scaled_size(height, width, scale):
            last = size - self.crop + self.crop_off_by_one
            starts.append(int(rng.integers(0, last, endpoint=True)) if size > self.crop else 0)
        return CropDraws(flip=flip, scale=scale, top=starts[0], left=starts[1])

    def apply(
        self, image: np.ndarray, labels: Labels, draws: CropDraws, size: Size | None = None
    ) -> dict[str, np.ndarray]:
        """Flip, resize, crop, normalise and pad one image and its labels alike.

        ``image`` is uint8 RGB ``[H,W,3]``, resized bilinearly as bytes by OpenCV, labels by its nearest neighbour. Returns
        ``image`` float32 ``[3,S,T]`` and every label uint8 ``[S,T]``; (S, T) = ``size``, by default ``crop`` twice. What is missing
        is added half on either side, rounded down at top and left: 0 in the image (the mean colour).
        """
        height, width = scaled_size(*image.shape[:2], draws.scale)
        size = size or (self.crop, self.crop)
        window = (slice(draws.top, draws.top + size[0]), slice(draws.left, draws.left + size[1]))

        def crop(plane: np.ndarray, interpolation: int) -> np.ndarray:
            flipped = cv2.flip(plane, 1) if draws.flip else plane
            return cv2.resize(flipped, (width, height), interpolation=interpolation)[window]

        pixels = planes(crop(image, cv2.INTER_LINEAR), self)
        margins = [(missing // 2, missing - missing // 2) for missing in np.subtract(size, pixels.shape[1:])]
        sample = {"image": np.pad(pixels, [(0, 0), *margins])}
        for name, label in labels.items():
            sample[name] = np.pad(crop(label, cv2.INTER_NEAREST), margins, constant_values=self.pad_label)
        return sample
