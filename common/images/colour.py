"""Colour jitter, grey-scale and blur on 8-bit RGB pictures, with Pillow's arithmetic (as torchvision has them).

Pictures are uint8 ``[H,W,3]``, in and out. Factors multiply; 1 changes nothing. A hue shift is a part of the colour circle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with black."""
    return np.asarray(ImageEnhance.Brightness(Image.fromarray(image)).enhance(factor))


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean grey of the picture."""
    return np.asarray(ImageEnhance.Contrast(Image.fromarray(image)).enhance(factor))


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the grey picture."""
    return np.asarray(ImageEnhance.Color(Image.fromarray(image)).enhance(factor))


def hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turn the hue by ``shift`` in -0.5..0.5 of the circle: 8-bit HSV, the step truncated towards 0, modulo 256."""
    planes = np.asarray(Image.fromarray(image).convert("HSV")).copy()
    planes[..., 0] += np.array(int(shift * 255)).astype(np.uint8)  # wraps, for negative shifts too
    return np.asarray(Image.fromarray(planes, mode="HSV").convert("RGB"))


def grey(image: np.ndarray) -> np.ndarray:
    """Three equal channels of Pillow's luma."""
    return np.repeat(np.asarray(Image.fromarray(image).convert("L"))[..., None], 3, 2)


def gaussian_blur(image: np.ndarray, radius: float) -> np.ndarray:
    """Pillow's Gaussian blur, ``radius`` = standard deviation in pixels."""
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


OPERATIONS: tuple[Callable[[np.ndarray, float], np.ndarray], ...] = (brightness, contrast, saturation, hue)


@dataclass(frozen=True, kw_only=True)
class ColourJitter:
    """The draws of one colour jitter: one value per entry of ``OPERATIONS`` and the order in which these are applied."""

    order: tuple[int, ...]
    values: tuple[float, float, float, float]

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Return the jittered picture."""
        for index in self.order:
            image = OPERATIONS[index](image, self.values[index])
        return image


def draw_colour_jitter(amounts: tuple[float, float, float, float], rng: np.random.Generator) -> ColourJitter:
    """Draw a jitter of at most ``amounts``: order, then brightness, contrast and saturation from 1 - a to 1 + a (not below
    0), then the hue shift from -a to a."""
    order = tuple(int(index) for index in rng.permutation(len(OPERATIONS)))
    factors = [float(rng.uniform(max(0.0, 1 - amount), 1 + amount)) for amount in amounts[:3]]
    return ColourJitter(order=order, values=(*factors, float(rng.uniform(-amounts[3], amounts[3]))))
