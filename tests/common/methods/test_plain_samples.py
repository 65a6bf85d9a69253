"""Samples of every augmentation, equal to the bit to their plain form: resize all of the picture, then pad, cut and mirror."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from common.arrays import IGNORE
from common.images.geometry import _linear_taps, nearest_float32, scaled_size, size_of_long_side
from common.methods.cpcl.augment import FlipScaleCrop
from common.methods.uccl.augment import WeakToStrong
from common.methods.usrn.augment import LabelledCrop
from common.methods.weak_crop import WeakCrop

CROP = 48
AUGMENTS = {
    "weak crop": WeakCrop(crop=CROP, pad_label=7),
    "weak to strong": WeakToStrong(crop=CROP, pad_label=7),
    "flip, scale, crop": FlipScaleCrop(crop=CROP, pad_label=7),
    "long side": LabelledCrop(crop=CROP),
    "long side of base size": LabelledCrop(crop=CROP, base_size=64),
}


def normalised(image: np.ndarray, config) -> np.ndarray:
    return (image.astype(np.float32) - np.float32(config.mean)) / np.float32(config.std)


def framed(plane: np.ndarray, before: tuple[int, int], fill) -> np.ndarray:
    """``plane`` on a ground of ``fill`` that is at least as large as a crop."""
    sides = [max(side, CROP) for side in plane.shape[:2]]
    result = np.empty((*sides, *plane.shape[2:]), plane.dtype)
    result[:] = fill
    result[before[0] : before[0] + plane.shape[0], before[1] : before[1] + plane.shape[1]] = plane
    return result


def cut(plane: np.ndarray, top: int, left: int) -> np.ndarray:
    return plane[top : top + CROP, left : left + CROP]


def centred(shape) -> tuple[int, int]:
    return tuple(max(CROP - side, 0) // 2 for side in shape[:2])


def weak_crop(image, label, config, rng) -> tuple[np.ndarray, np.ndarray]:
    draws = config.draw(*label.shape, rng)
    size = scaled_size(*label.shape, draws.scale)
    (top, bottom, down), (left, right, along) = (
        _linear_taps(old, new, np.arange(new)) for old, new in zip(image.shape, size)
    )
    pixels = normalised(image, config)
    across = pixels[:, left] * (1 - along)[:, None] + pixels[:, right] * along[:, None]
    resized = across[top] * (1 - down)[:, None, None] + across[bottom] * down[:, None, None]
    rows, columns = (nearest_float32(old, new) for old, new in zip(label.shape, size))
    planes = [resized, label[rows][:, columns]]
    planes = [plane[:, ::-1] if draws.flip else plane for plane in planes]
    planes = [framed(plane, centred(size), fill) for plane, fill in zip(planes, (0, config.pad_label))]
    pixels, label = (cut(plane, draws.top, draws.left) for plane in planes)
    return pixels.transpose(2, 0, 1), label


def weak_to_strong(image, label, config, rng) -> tuple[np.ndarray, np.ndarray]:
    draws = config.draw(*label.shape, rng)
    size = size_of_long_side(*label.shape, draws.long_side)[::-1]
    picture = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    label = np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))
    planes = [framed(picture, (0, 0), 0), framed(label, (0, 0), config.pad_label)]
    picture, label = (cut(plane, draws.top, draws.left)[:, :: -1 if draws.flip else 1] for plane in planes)
    return normalised(picture, config).transpose(2, 0, 1), label


def flip_scale_crop(image, label, config, rng) -> tuple[np.ndarray, np.ndarray]:
    draws = config.draw(*label.shape, rng)
    size = scaled_size(*label.shape, draws.scale)[::-1]
    turned = [np.ascontiguousarray(plane[:, :: -1 if draws.flip else 1]) for plane in (image, label)]
    kinds = (cv2.INTER_LINEAR, cv2.INTER_NEAREST)
    picture, label = (
        cut(cv2.resize(plane, size, interpolation=kind), draws.top, draws.left) for plane, kind in zip(turned, kinds)
    )
    pixels = framed(normalised(picture, config), centred(label.shape), 0)
    return pixels.transpose(2, 0, 1), framed(label, centred(label.shape), config.pad_label)


def long_side(image, label, config, rng) -> tuple[np.ndarray, np.ndarray]:
    draws = config.draw(*label.shape, rng)
    size = size_of_long_side(*label.shape, draws.long_side)[::-1]
    picture = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
    planes = [framed(picture, (0, 0), np.rint(config.mean).astype(np.uint8)), framed(label, (0, 0), IGNORE)]
    picture, label = (cut(plane, draws.top, draws.left)[:, :: -1 if draws.flip else 1] for plane in planes)
    return normalised(picture, config).transpose(2, 0, 1), label


PLAIN = {WeakCrop: weak_crop, WeakToStrong: weak_to_strong, FlipScaleCrop: flip_scale_crop, LabelledCrop: long_side}


def compared(name: str, shift: int = 0) -> int:
    """Return how many of 120 samples are equal to their plain form, which sees images whose rows are rolled by ``shift``."""
    config, equal = AUGMENTS[name], 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        height, width = (int(side) for side in rng.integers(9, 120, 2))
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        label = rng.integers(0, 21, (height, width), dtype=np.uint8)
        sample = config(image, {"label": label}, np.random.default_rng(seed))
        rolled = np.roll(image, shift, 0), np.roll(label, shift, 0)
        pixels, expected = PLAIN[type(config)](*rolled, config, np.random.default_rng(seed))
        assert sample["image"].dtype == pixels.dtype == np.float32 and sample["label"].dtype == np.uint8
        assert all(array.flags.c_contiguous for array in sample.values())
        equal += np.array_equal(sample["image"], pixels) and np.array_equal(sample["label"], expected)
    return equal


@pytest.mark.parametrize("name", AUGMENTS)
def test_samples_are_those_of_the_plain_form(name):
    assert compared(name) == 120


@pytest.mark.parametrize("name", AUGMENTS)
def test_the_comparison_can_fail(name):
    assert compared(name, shift=1) < 12
