"""Epochs of a given length over lists of another length, and the augmentation and masks of CPCL."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from common.loading.sampling import repeated_files, sampled_order
from common.methods.cpcl.augment import CropDraws, FlipScaleCrop
from common.methods.cpcl.collaborative import draw_toggled_masks


@pytest.mark.parametrize(("files", "samples"), [(5, 13), (5, 5), (5, 15), (7, 9)])
def test_every_file_comes_as_often_as_it_fits(files, samples):
    order = sampled_order(files, samples, samples, "epoch_permutation", False, np.random.default_rng(0))
    counts = Counter(order).values()
    assert len(order) == samples and set(counts) <= {samples // files, samples // files + 1}
    assert len(counts) == files


def test_the_tail_drawn_at_every_access_repeats_files():
    orders = [sampled_order(5, 9, 9, "per_access", False, np.random.default_rng(seed)) for seed in range(20)]
    assert all(len(set(order)) == 5 for order in orders)
    assert any(max(Counter(order).values()) > 2 for order in orders)


def test_of_a_longer_list_the_first_files_or_other_ones_every_epoch():
    rng = np.random.default_rng(0)
    assert sorted(sampled_order(9, 4, 4, "epoch_permutation", True, rng)) == [0, 1, 2, 3]
    epochs = [sampled_order(9, 4, 4, "epoch_permutation", False, rng) for _ in range(20)]
    assert set().union(*epochs) == set(range(9)) and all(len(set(epoch)) == 4 for epoch in epochs)


def test_a_stream_that_needs_more_begins_a_new_round():
    order = sampled_order(3, 4, 10, "epoch_permutation", False, np.random.default_rng(0))
    assert len(order) == 10 and set(order[:4]) == {0, 1, 2} == set(order[4:8])
    assert repeated_files(3, 2, np.arange(3)).tolist() == [0, 1]


def test_crops_begin_at_most_one_position_too_late():
    config, starts, scales, flips = FlipScaleCrop(crop=24, scales=(0.5, 1.0)), set(), set(), 0
    for seed in range(400):
        draws = config.draw(30, 40, np.random.default_rng(seed))
        scales.add(draws.scale)
        flips += draws.flip
        if draws.scale == 1:
            starts.add(draws.top)
            assert draws.left <= 17
        else:
            assert draws.top == draws.left == 0
    assert starts == set(range(8)) and scales == {0.5, 1.0} and 150 < flips < 250
    exact = FlipScaleCrop(crop=24, scales=(1.0,), crop_off_by_one=False)
    tops = {exact.draw(30, 40, np.random.default_rng(seed)).top for seed in range(100)}
    assert tops == set(range(7))


def test_what_a_crop_lacks_is_mean_colour_and_ignored():
    image, label = np.full((30, 40, 3), 200, np.uint8), np.full((30, 40), 3, np.uint8)
    draws = CropDraws(flip=False, scale=1.0, top=0, left=17)
    sample = FlipScaleCrop(crop=24).apply(image, {"label": label}, draws)
    assert sample["image"].shape == (3, 24, 24) and sample["image"].dtype == np.float32
    assert (sample["label"][:, :23] == 3).all() and (sample["label"][:, 23] == 255).all()
    assert sample["image"][:, :, 23].any() == False and sample["image"][:, :, :23].all()  # noqa: E712


def test_masks_take_a_quarter_and_repeat_only_with_the_seed():
    masks = draw_toggled_masks(64, (64, 48), np.random.default_rng(3))
    assert masks.shape == (64, 64, 48) and masks.dtype == bool
    assert 0.2 < masks.mean() < 0.4
    assert np.array_equal(masks, draw_toggled_masks(64, (64, 48), np.random.default_rng(3)))
    assert len({mask.tobytes() for mask in masks}) == 64
