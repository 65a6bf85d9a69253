"""Colour operations: identities, ranges, order of the draws."""

from __future__ import annotations

import numpy as np
import pytest

from common.images import colour


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)


@pytest.mark.parametrize("operation", [colour.brightness, colour.contrast, colour.saturation])
def test_factor_one_changes_nothing_and_zero_removes(operation, image):
    assert np.array_equal(operation(image, 1.0), image)
    removed = operation(image, 0.0)
    if operation is colour.saturation:
        assert np.array_equal(removed, colour.grey(image))
    else:
        assert len(np.unique(removed)) == 1


def test_hue_turns_by_thirds_of_the_circle_and_wraps():
    red, green, blue = (np.uint8([[[255 * (i == k) for i in range(3)]]]) for k in range(3))
    assert np.array_equal(colour.hue(red, 0.0), red)
    assert np.array_equal(colour.hue(red, 0.3334), green)
    assert np.array_equal(colour.hue(red, -0.3334) > 200, blue > 200)


def test_blur_keeps_flat_pictures_and_smooths_others(image):
    flat = np.full((8, 8, 3), 77, np.uint8)
    assert np.array_equal(colour.gaussian_blur(flat, 2.0), flat)
    assert colour.gaussian_blur(image, 2.0).std() < image.std()


def test_jitter_applies_its_values_in_its_order(image):
    jitter = colour.ColourJitter(order=(2, 0, 3, 1), values=(0.6, 1.4, 0.5, 0.1))
    expected = colour.contrast(colour.hue(colour.brightness(colour.saturation(image, 0.5), 0.6), 0.1), 1.4)
    assert np.array_equal(jitter.apply(image), expected)
    other = colour.ColourJitter(order=(0, 1, 2, 3), values=jitter.values)
    assert not np.array_equal(other.apply(image), expected)


def test_draws_stay_in_their_ranges_and_repeat():
    draws = [colour.draw_colour_jitter((0.4, 0.4, 1.5, 0.1), np.random.default_rng(seed)) for seed in range(200)]
    values = np.array([draw.values for draw in draws])
    assert (values.min(0) >= [0.6, 0.6, 0.0, -0.1]).all() and (values.max(0) <= [1.4, 1.4, 2.5, 0.1]).all()
    assert len({draw.order for draw in draws}) == 24
    assert draws[3] == colour.draw_colour_jitter((0.4, 0.4, 1.5, 0.1), np.random.default_rng(3))
