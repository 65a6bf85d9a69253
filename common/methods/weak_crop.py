"""The weak augmentation of U2PL, PCR and the supervised baseline: random resize, flip and crop (``u2pl/dataset/augmentation.py``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.config.schema import AugmentConfig
from common.config.strict import ranged
from common.images.geometry import nearest_float32, resize_linear, scaled_size
from common.methods.interface import Labels


@dataclass(frozen=True, kw_only=True)
class WeakDraws:
    """What :class:`WeakCrop` decides at random; ``top`` and ``left`` count in the resized and padded image."""

    scale: float
    flip: bool
    top: int
    left: int


def scale_from_draws(a: float, b: float, resize_range: tuple[float, float]) -> float:
    """Return the scale of two draws from [0, 1): ``a`` < 0.5 shrinks to ``low..1``, else it enlarges to ``1..high``.

    ``b`` is the position in that range.
    """
    low, high = resize_range
    return low + (1 - low) * b if a < 0.5 else 1 + (high - 1) * b


def check_around_one(name: str, factors: tuple[float, float]) -> None:
    """Raise :class:`ValueError` unless the range ``factors`` of the option ``name`` holds 1."""
    low, high = factors
    if not low <= 1 <= high:
        raise ValueError(f"{name} = {[low, high]} must go from at most 1 to at least 1")


@dataclass(frozen=True, kw_only=True)
class WeakCrop(AugmentConfig):
    """Random resize by ``resize_range``, flip and crop; ``pad_label`` is what padding counts as in the labels."""

    resize_range: tuple[float, float] = ranged((0.5, 2.0), low=0.01)
    pad_label: int = ranged(255, low=0, high=255)

    def __post_init__(self) -> None:
        check_around_one("resize_range", self.resize_range)

    def __call__(self, image: np.ndarray, labels: Labels, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """:meth:`apply` with fresh draws."""
        return self.apply(image, labels, self.draw(*image.shape[:2], rng))

    def draw(self, height: int, width: int, rng: np.random.Generator) -> WeakDraws:
        """Draw scale (two numbers), flip, top and left, in this order, for an image of ``height`` x ``width`` pixels."""
        scale = scale_from_draws(rng.random(), rng.random(), self.resize_range)
        flip = rng.random() < self.flip
        spare = [max(side - self.crop, 0) for side in scaled_size(height, width, scale)]
        top, left = (int(rng.integers(0, room + 1)) for room in spare)
        return WeakDraws(scale=scale, flip=flip, top=top, left=left)

    def apply(self, image: np.ndarray, labels: Labels, draws: WeakDraws) -> dict[str, np.ndarray]:
        """Normalise, resize, flip, pad and crop one image and its labels alike.

        ``image`` is uint8 RGB ``[H,W,3]``. Returns ``image`` float32 ``[3,S,S]`` and every label uint8 ``[S,S]``, S = ``crop``.
        Padding is 0 in the image (the mean colour).
        """
        size = scaled_size(*image.shape[:2], draws.scale)
        rows, row_margin = _crop_window(size[0], self.crop, draws.top)
        columns, column_margin = _crop_window(size[1], self.crop, draws.left)
        if draws.flip:
            columns = size[1] - 1 - columns
        sample = {"image": _padded(resize_linear(image, size, rows, columns, self), row_margin, column_margin, 0)}
        for name, label in labels.items():
            down, along = (nearest_float32(old, new) for old, new in zip(label.shape, size))
            picked = label.take(along[columns], 1).take(down[rows], 0)
            sample[name] = _padded(picked, row_margin, column_margin, self.pad_label)
        return sample


def _padded(planes: np.ndarray, rows: tuple[int, int], columns: tuple[int, int], fill: int) -> np.ndarray:
    """Return ``[...,H,W]`` with margins of ``fill`` before and behind rows and columns."""
    if not any(rows + columns):
        return planes
    return np.pad(planes, [(0, 0)] * (planes.ndim - 2) + [rows, columns], constant_values=fill)


def _crop_window(length: int, crop: int, start: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Return which of ``length`` positions a window from ``start`` of the padded axis shows, and its margins."""
    before = max(crop - length, 0) // 2
    positions = np.arange(start, start + crop) - before
    shown = positions[(positions >= 0) & (positions < length)]
    leading = int((positions < 0).sum())
    return shown, (leading, crop - len(shown) - leading)
