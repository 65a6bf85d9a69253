"""The weak pipeline against the authors' recorded samples, against PyTorch, and its own rules."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from common.images.geometry import center_crop, nearest_float32, pad_to, scaled_size
from common.images.normalise import normalise
from common.methods.weak_crop import WeakCrop, WeakDraws, scale_from_draws
from common.rng import generator
from tests.places import SHARED

GOLDEN = SHARED / "golden" / "u2pl"
needs_goldens = pytest.mark.skipif(not GOLDEN.is_dir(), reason="no reference numbers beside the checkout (SHARED)")
CONFIG = WeakCrop(crop=32)


@pytest.fixture
def sample():
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (41, 57, 3), dtype=np.uint8), rng.integers(0, 5, (41, 57), dtype=np.uint8)


def replay(golden) -> tuple[WeakDraws, WeakCrop]:
    config = WeakCrop(crop=int(golden["crop"]), resize_range=tuple(golden["scale"]), pad_label=0)
    a, b, flip = golden["draws_random"]
    top, left = golden["draws_crop_h_w"]
    scale = scale_from_draws(a, b, config.resize_range)
    return WeakDraws(scale=scale, flip=bool(flip < 0.5), top=int(top), left=int(left)), config


def agrees(golden, image, label) -> bool:
    scale = np.abs(golden["image_out"]).max()
    close = image.shape == golden["image_out"].shape and np.abs(image - golden["image_out"]).max() <= 1e-5 * scale
    return bool(close and np.array_equal(label, golden["label_out"]))


@needs_goldens
@pytest.mark.parametrize("name", ["a_shrink", "b_enlarge", "e_no_flip"])
def test_recorded_samples(name):
    golden = np.load(GOLDEN / f"transform_{name}.npz")
    draws, config = replay(golden)
    out = config.apply(golden["image"], {"label": golden["label"]}, draws)
    assert agrees(golden, out["image"], out["label"])
    wrong = dataclasses.replace(draws, flip=not draws.flip)
    out = config.apply(golden["image"], {"label": golden["label"]}, wrong)
    assert not agrees(golden, out["image"], out["label"])


@needs_goldens
@pytest.mark.parametrize("name", ["c_val_center", "d_val_center_large"])
def test_recorded_centre_crops(name):
    golden = np.load(GOLDEN / f"transform_{name}.npz")
    size = int(golden["crop"])
    assert agrees(golden, *center_crop(golden["image"], golden["label"], size, CONFIG))
    shifted = np.roll(golden["image"], 1, axis=1)
    assert not agrees(golden, *center_crop(shifted, golden["label"], size, CONFIG))


@pytest.mark.parametrize(
    ("a", "b", "scale"), [(0.0, 0.0, 0.5), (0.49, 0.5, 0.75), (0.5, 0.0, 1.0), (0.9, 0.25, 1.25), (0.1, 0.999, 0.9995)]
)
def test_half_of_the_draws_shrink(a, b, scale):
    assert scale_from_draws(a, b, (0.5, 2.0)) == pytest.approx(scale)


def test_other_resize_ranges():
    assert scale_from_draws(0.2, 0.5, (0.8, 3.0)) == pytest.approx(0.9)
    assert scale_from_draws(0.7, 0.5, (0.8, 3.0)) == pytest.approx(2.0)
    assert scale_from_draws(0.2, 0.5, (1.0, 1.0)) == scale_from_draws(0.7, 0.5, (1.0, 1.0)) == 1.0


def test_against_pytorch(sample):
    torch = pytest.importorskip("torch")
    image, label = sample
    config = dataclasses.replace(CONFIG, crop=200)
    x = torch.from_numpy(normalise(image, config)).permute(2, 0, 1)[None]
    y = torch.from_numpy(label.astype(np.float32))[None, None]
    for scale in (0.5, 0.61, 0.999, 1.0, 1.37, 2.0):
        height, width = size = scaled_size(*label.shape, scale)
        out = config.apply(image, {"label": label}, WeakDraws(scale=scale, flip=False, top=0, left=0))
        top, left = (200 - height) // 2, (200 - width) // 2
        linear = torch.nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)[0].numpy()
        nearest = torch.nn.functional.interpolate(y, size=size, mode="nearest")[0, 0].numpy()
        seen = (slice(top, top + height), slice(left, left + width))
        np.testing.assert_allclose(out["image"][(slice(None), *seen)], linear, atol=1e-5 * np.abs(linear).max(), rtol=0)
        np.testing.assert_array_equal(out["label"][seen], nearest)


def test_nearest_float32_rounds_as_float32():
    torch = pytest.importorskip("torch")
    differs = 0
    for old in range(3, 60):
        for new in range(1, 130):
            expected = torch.nn.functional.interpolate(torch.arange(float(old))[None, None], size=new, mode="nearest")
            np.testing.assert_array_equal(nearest_float32(old, new), expected[0, 0].numpy())
            differs += not np.array_equal(nearest_float32(old, new), np.arange(new) * old // new)
    assert differs, "exact integer arithmetic gives the same: the float32 rule would go untested"


def test_normalise_is_float32_arithmetic(sample):
    expected = (sample[0].astype(np.float32) - np.float32(CONFIG.mean)) / np.float32(CONFIG.std)
    np.testing.assert_array_equal(normalise(sample[0], CONFIG), expected)


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.3, 2.0])
@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_is_a_window_of_the_whole(sample, scale, flip):
    """Only what the crop shows is computed; it must be what resizing, flipping, padding and cutting give."""
    image, label = sample
    height, width = size = scaled_size(*label.shape, scale)
    large = dataclasses.replace(CONFIG, crop=max(size))
    whole = large.apply(image, {"label": label}, WeakDraws(scale=scale, flip=flip, top=0, left=0))
    above, before = (large.crop - height) // 2, (large.crop - width) // 2
    planes = [*whole["image"], whole["label"]]
    expected = [
        pad_to(plane[above : above + height, before : before + width], 32, fill)
        for plane, fill in zip(planes, (0, 0, 0, 255))
    ]
    top, left = max(height - 32, 0) // 2, max(width - 32, 0)
    out = CONFIG.apply(image, {"label": label}, WeakDraws(scale=scale, flip=flip, top=top, left=left))
    for plane, wanted in zip([*out["image"], out["label"]], expected):
        np.testing.assert_allclose(plane, wanted[top : top + 32, left : left + 32], atol=1e-6)


def test_small_images_are_padded_more_at_the_end():
    image, label = np.full((3, 6, 3), 200, np.uint8), np.ones((3, 6), np.uint8)
    draws = WeakDraws(scale=1.0, flip=False, top=0, left=0)
    out = dataclasses.replace(CONFIG, crop=8, pad_label=7).apply(image, {"label": label}, draws)
    rows, columns = (out["label"] == 1).any(1), (out["label"] == 1).any(0)
    assert np.flatnonzero(rows).tolist() == [2, 3, 4] and np.flatnonzero(columns).tolist() == [1, 2, 3, 4, 5, 6]
    assert set(np.unique(out["label"])) == {1, 7}
    assert (out["image"][:, out["label"] == 7] == 0).all() and (out["image"][:, out["label"] == 1] != 0).all()


def test_all_labels_follow_the_same_geometry(sample):
    image, label = sample
    out = CONFIG(image, {"label": label, "twin": label + 100}, generator(0, "test"))
    seen = out["label"] != CONFIG.pad_label
    np.testing.assert_array_equal(out["twin"][seen], out["label"][seen] + 100)
    assert set(out) == {"image", "label", "twin"}
    assert set(CONFIG(image, {}, generator(0, "test"))) == {"image"}


def test_types_shapes_and_layout(sample):
    out = CONFIG(sample[0], {"label": sample[1]}, generator(1, "test"))
    assert (out["image"].dtype, out["image"].shape) == (np.float32, (3, 32, 32))
    assert (out["label"].dtype, out["label"].shape) == (np.uint8, (32, 32))
    assert all(array.flags.c_contiguous for array in out.values())


def test_draws_are_uniform_and_inside():
    rng, config = np.random.default_rng(0), dataclasses.replace(CONFIG, resize_range=(1.0, 1.0))
    draws = [config.draw(34, 20, rng) for _ in range(600)]
    assert {draw.top for draw in draws} == {0, 1, 2} and {draw.left for draw in draws} == {0}
    assert 0.4 < np.mean([draw.flip for draw in draws]) < 0.6
    scales = [CONFIG.draw(34, 20, rng).scale for _ in range(600)]
    assert 0.4 < np.mean(np.array(scales) < 1) < 0.6 and min(scales) >= 0.5 and max(scales) < 2


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_flip_probability(flip):
    rng, config = np.random.default_rng(0), dataclasses.replace(CONFIG, flip=flip)
    assert {config.draw(40, 40, rng).flip for _ in range(50)} == {bool(flip)}


def test_a_pixel_is_the_least_that_remains():
    image = np.zeros((1, 3, 3), np.uint8)
    out = CONFIG.apply(image, {"label": image[..., 0]}, WeakDraws(scale=0.1, flip=True, top=0, left=0))
    assert (out["label"] == 0).sum() == 1
