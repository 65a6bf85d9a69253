"""Weak base, strong views and CutMix boxes beyond the golden samples: ranges, small images, partners, the paired order."""

from __future__ import annotations

import numpy as np
import pytest

from common.datasets.file_dataset import open_dataset
from common.experiment import compose
from common.loading.loader import Loader
from common.loading.plan import Plan
from common.methods.uccl import augment as weak_to_strong
from common.methods.uccl.augment import WeakToStrong, draw_area_box
from common.splits.resolve import resolve
from common.splits.split import Split

CONFIG = WeakToStrong(crop=33)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("height", "width"), [(20, 12), (40, 100), (100, 40), (1, 9), (33, 33)])
def test_every_size_gives_whole_samples(height, width):
    """Also images far smaller than the crop, and one of a single row."""
    label = np.full((height, width), 3, np.uint8)
    for seed in range(5):
        sample = CONFIG(picture(height, width), {"label": label}, np.random.default_rng(seed))
        assert sample["image"].shape == (3, 33, 33) and set(np.unique(sample["label"])) <= {3, 255}
        views = CONFIG.views(2, partner=True)(picture(height, width), {}, np.random.default_rng(seed))
        padding = views["ignore"] == 255
        black = (0 - np.float32(CONFIG.mean)) / np.float32(CONFIG.std)
        assert np.array_equal(views["weak"][:, padding], np.repeat(black[:, None], padding.sum(), 1))
        assert views["box1"].dtype == bool and set(np.unique(views["ignore"])) <= {0, 255}


def test_padding_is_where_the_label_is_padded():
    image, label = picture(20, 20), np.zeros((20, 20), np.uint8)
    draws = weak_to_strong.BaseDraws(long_side=20, left=0, top=0, flip=True)
    _, padded = CONFIG.apply(image, label, draws)
    _, ignore = CONFIG.apply(image, None, draws)
    assert np.array_equal(padded, ignore) and (ignore == 0).sum() == 400 and ignore[0, -1] == 0 and ignore[0, 0] == 255


def test_a_partner_is_another_augmentation_of_the_same_image():
    sample = CONFIG.views(1, partner=True)(picture(60, 80), {}, np.random.default_rng(1))
    names = {"weak", "strong1", "ignore"}
    assert set(sample) == names | {"box1"} | {f"mix_{name}" for name in names}
    assert not np.array_equal(sample["weak"], sample["mix_weak"])
    alone = CONFIG.views(1, partner=False)(picture(60, 80), {}, np.random.default_rng(1))
    assert set(alone) == names | {"box1"} and np.array_equal(alone["strong1"], sample["strong1"])


def test_hue_and_grey_can_be_left_out_and_nothing_else_changes():
    kept = WeakToStrong(crop=33, strong_hue=0.0, strong_grey=0.0)
    pairs = [[config.draw_strong(np.random.default_rng(seed)) for config in (CONFIG, kept)] for seed in range(200)]
    assert any(full.grey for full, _ in pairs) and not any(draws.grey for _, draws in pairs)
    for full, draws in pairs:
        assert (draws.blur, draws.box) == (full.blur, full.box) and (draws.jitter is None) == (full.jitter is None)
        if draws.jitter is not None:
            assert draws.jitter.order == full.jitter.order
            assert draws.jitter.values == (*full.jitter.values[:3], 0.0)


def test_boxes_lie_inside_and_have_the_drawn_shape():
    rng, boxes = np.random.default_rng(0), []
    for _ in range(400):
        box = draw_area_box(65, rng)
        boxes.append(box)
        if box is not None:
            top, left, bottom, right = box
            assert 0 <= top < bottom <= 65 and 0 <= left < right <= 65
            assert 0.01 <= (bottom - top) * (right - left) / 65**2 <= 0.4
    assert 150 <= sum(box is None for box in boxes) <= 250


def order(labelled: int, unlabelled: int, epoch: int = 0) -> list[tuple[list[str], list[str]]]:
    """Return the ids of both streams, step by step."""
    split = Split(
        id="own",
        labelled=tuple(f"l{i}" for i in range(labelled)),
        unlabelled=tuple(f"u{i}" for i in range(unlabelled)),
        digest="",
        unlabelled_digest="",
        origin="",
    )
    settings = ["loader.batch_labelled=2", "loader.batch_unlabelled=2", "trainer.iterations_per_epoch=null"]
    config = compose("shapes/12/uccl", settings)
    plan = Plan(split, config.streams(), config)
    return [
        tuple([t.image_id for t in tasks if t.stream == s] for s in ("labelled", "unlabelled"))
        for tasks in plan.tasks(epoch)
    ]


def test_a_labelled_image_always_meets_the_same_unlabelled_ones():
    for epoch in (0, 1):
        pairs = [pair for step in order(3, 10, epoch) for pair in zip(*step)]
        assert len(pairs) == 10 and all(int(labelled[1:]) == int(leader[1:]) % 3 for labelled, leader in pairs)
    assert order(3, 10, 0) != order(3, 10, 1)


def test_a_longer_labelled_list_is_shuffled_by_itself():
    seen = {image for epoch in range(9) for step in order(8, 4, epoch) for image in step[0]}
    assert len(seen) == 8


def test_batches_of_the_loader_hold_all_views():
    config = compose("shapes/12/uccl", ["loader.workers=0", "augment.crop=33"])
    dataset = open_dataset(config.dataset)
    with Loader(dataset, resolve(dataset, config.split), config.streams(), config) as loader:
        batch = next(iter(loader.epoch(0)))
    assert batch["unlabelled"]["mix_strong2"].shape == (8, 3, 33, 33) and batch["unlabelled"]["box2"].shape == (
        8,
        33,
        33,
    )
