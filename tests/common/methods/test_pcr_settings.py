"""PCR's settings, schedules, draws and first prototypes, which both frameworks share."""

from __future__ import annotations

import numpy as np
import pytest

from common.config.schema import CriterionConfig
from common.errors import UserError
from common.experiment import compose
from common.methods.interface import Clock
from common.methods.pcr.first_prototypes import (
    PixelSample,
    first_prototypes,
    matching_positions,
    read_prototypes,
)
from common.methods.pcr.kmeans import class_prototypes, kmeans, seed_centres
from common.methods.pcr.pcr import PCRSettings, StepDraws, check_crop, select_pixels
from tests.oracles.distributed_epoch import distributed_epoch

UNIVERSE = {"voc": 10582, "cityscapes": 2975}
SPLITS = {
    "voc": ["92", "183", "366", "732", "1464", "662", "1323", "2646", "5291"]
    + [f"{number}_cps" for number in (662, 1323, 2646, 5291)],
    "cityscapes": ["186", "372", "744", "1488", "372_old"],
}
PUBLISHED = {
    "voc": {"92": 70.06, "183": 74.71, "366": 77.16, "732": 78.49, "1464": 80.65},
    "cityscapes": {"186": 73.41, "372": 76.31, "744": 78.40, "1488": 79.11},
}


def clock(epoch: int, step: int = 0, epochs: int = 80, each: int = 100) -> Clock:
    return Clock(epoch=epoch, step=step, iteration=epoch * each + step, epochs=epochs, iterations_per_epoch=each)


@pytest.mark.parametrize(("dataset", "split"), [(name, split) for name, splits in SPLITS.items() for split in splits])
def test_every_published_setting_resolves(dataset, split):
    """The authors' keys that have an effect, and as many steps as 8 processes with 2 + 2 images make."""
    config = compose(f"{dataset}/{split}/pcr")
    voc = dataset == "voc"
    assert config.reference.published_miou == PUBLISHED[dataset].get(split)
    labelled = int(split.partition("_")[0])
    each = distributed_epoch(UNIVERSE[dataset] - labelled, 8, 2)[1]
    assert config.trainer.iterations_per_epoch == each and config.trainer.epochs == (80 if voc else 200)
    assert (config.loader.batch_labelled, config.loader.batch_unlabelled) == (16, 16)
    assert config.augment.crop == (513 if voc else 769) and config.augment.pad_label == 0
    assert config.augment.resize_range == (0.5, 2.0) and config.augment.flip == 0.5
    rates = (0.001, 10, 1e-4) if voc else (0.01, 1, 5e-4)
    assert (config.optimizer.lr, config.optimizer.head_lr_times, config.optimizer.weight_decay) == rates
    assert config.optimizer.momentum == 0.9 and config.optimizer.poly_power == 0.9
    assert config.criterion == CriterionConfig(
        type="ohem", thresh=0.7, min_kept=100_000, min_kept_per_image=50_000, aux_weight=0.4
    )
    network = config.network
    assert (network.encoder, network.prototypes, network.auxiliary) == ("resnet101", 4 if voc else 3, not voc)
    assert network.stem_pool == "ceil" and network.zero_init_residual and network.multi_grid == (1, 2, 4)
    assert network.prototype_temperature == 0.1 and network.prototype_norm == "torch"
    assert config.method == PCRSettings(confidence_threshold=0.8 if voc else 0.65)
    assert config.evaluation.protocol == ("whole" if voc else "slide") and config.evaluation.head == "linear"


def test_defaults_of_the_projects_choices():
    settings = PCRSettings()
    assert (settings.unsup_filter, settings.unsup_denominator, settings.proto_sup) == ("confidence", "valid", True)
    assert (settings.unsup_weight, settings.proto_weight, settings.cutmix_prob) == (1, 1, 0.5)
    assert (settings.proto_init, settings.proto_init_space, settings.proto_init_pixels) == ("warmup", "raw", 5000)
    assert (settings.teacher_copy, settings.teacher_bn, settings.proto_sync) == ("once", "forward", True)
    assert (settings.ema_decay, settings.proto_momentum, settings.select_granularity) == (0.99, 0.99, 32)


def test_when_what_begins():
    settings = PCRSettings()
    assert not settings.semi_supervised(clock(0, 99)) and settings.semi_supervised(clock(1))
    assert not settings.with_prototypes(clock(0)) and settings.with_prototypes(clock(1))
    assert settings.copies_student(clock(1)) and not settings.copies_student(clock(1, 1))
    assert settings.teacher_decay(clock(1)) == 0 and settings.teacher_decay(clock(1, 1)) == 0.5
    whole = PCRSettings(teacher_copy="whole_epoch")
    assert whole.copies_student(clock(1, 7)) and whole.update_decay(clock(1, 99)) == 0
    assert not whole.copies_student(clock(2)) and whole.update_decay(clock(2)) == 0.99
    early = PCRSettings(proto_init="file", proto_file="a.npz", proto_warmup_epochs=0)
    assert early.with_prototypes(clock(0)) and not early.semi_supervised(clock(0))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.proto_init=file", "proto_file"),
        ("method.proto_file=a.npz", "set both or neither"),
        ("method.proto_sync=false", "several processes"),
        ("method={unsup_filter: entropy_drop, teacher_bn: ema}", "teacher_bn=forward"),
        ("method={unsup_filter: entropy_drop, unsup_denominator: all}", "unsup_denominator=all"),
        ("network.prototypes=0", "network.prototypes"),
        ("method.unsup_filter=confidense", "did you mean 'confidence'"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(override, message):
    with pytest.raises(UserError, match=message) as caught:
        compose("shapes/12/pcr", [override])
    assert "\n" not in str(caught.value)


def test_prototype_head_needs_prototypes():
    with pytest.raises(UserError, match="needs a network with prototypes"):
        compose("shapes/12/u2pl", ["evaluation.head=prototype"])


def test_a_crop_smaller_than_the_grid_is_refused():
    with pytest.raises(UserError, match="select_granularity = 32"):
        check_crop(compose("shapes/12/pcr", ["method.select_granularity=32", "augment.crop=31"]))
    check_crop(compose("shapes/12/pcr", ["method.select_granularity=32", "augment.crop=32"]))


def test_a_threshold_that_keeps_nothing_is_warned_about():
    assert PCRSettings().warnings(21) == [] and "keeps no" in PCRSettings(confidence_threshold=1.1).warnings(21)[0]


def test_one_pixel_in_every_cell_and_draws_repeat():
    size, cells = (33, 33), 8
    settings = PCRSettings(select_granularity=cells)
    first, again, other = (StepDraws(settings, 1, clock(1, step)).pixels(size) for step in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other) and (np.diff(first) > 0).all()
    rows, columns = first // 33, first % 33
    assert sorted(zip(rows // 4, columns // 4)) == [(i, j) for i in range(cells) for j in range(cells)]
    with pytest.raises(ValueError, match="square"):
        select_pixels((33, 30), np.zeros((2, 2), int), np.zeros((2, 2), int))


def test_cutmix_is_one_coin_for_the_batch():
    settings = PCRSettings()
    masks = [StepDraws(settings, 0, clock(1, step)).mix_masks(3, (32, 40)) for step in range(200)]
    assert 70 < sum(mask is not None for mask in masks) < 130
    mixed = next(mask for mask in masks if mask is not None)
    assert mixed.shape == (3, 32, 40) and np.allclose(mixed.mean((1, 2)), 0.5, atol=0.02)
    assert not np.array_equal(mixed[0], mixed[1])
    assert StepDraws(PCRSettings(cutmix_prob=0.0), 0, clock(1)).mix_masks(3, (32, 40)) is None


def test_kmeans_separates_blobs_and_ties_stay_ties():
    rng = np.random.default_rng(0)
    blobs = np.concatenate([rng.normal(centre, 0.1, (50, 4)) for centre in (0, 3, 9)])
    seeds = seed_centres(blobs, np.array([0.1, 0.5, 0.9]))
    centres, assignment, passes = kmeans(blobs, blobs[seeds])
    assert sorted(np.round(centres.mean(1)).astype(int)) == [0, 3, 9] and passes < 10
    assert all(len(set(assignment[start : start + 50])) == 1 for start in (0, 50, 100))
    same = np.ones((5, 2))
    np.testing.assert_array_equal(seed_centres(same, np.array([0.99, 0.5, 0.5])), [4, 0, 1])
    assert (kmeans(same, same[:2])[1] == 0).all()


def test_absent_and_tiny_classes():
    features = np.arange(12, dtype=np.float32).reshape(3, 4)
    prototypes, counts = class_prototypes(features, np.array([1, 255, 1]), np.full((3, 4), 0.5))
    assert counts.tolist() == [0, 2, 0] and not prototypes[[0, 2]].any()
    np.testing.assert_array_equal(prototypes[1], features[[0, 2, 0, 2]])


def maps(images: int, ignored: bool = False):
    """Features whose first channel is the class of the pixel, and labels of two classes."""
    rng = np.random.default_rng(5)
    for _ in range(images):
        label = np.repeat(np.repeat(rng.integers(0, 2, (5, 5)), 4, 0), 4, 1).astype(np.uint8)[:17, :17]
        small = label[::4, ::4].astype(np.float32)
        yield np.stack([small, 1 - small, np.full_like(small, 7)]), np.full_like(label, 255) if ignored else label


@pytest.mark.parametrize("space", ["raw", "unit"])
def test_first_prototypes_are_class_centres(space):
    settings = PCRSettings(proto_init_space=space, proto_init_pixels=30)
    prototypes, note = first_prototypes(settings, maps(6), (3, 2, 3), seed=1)
    again, _ = first_prototypes(settings, maps(6), (3, 2, 3), seed=1)
    np.testing.assert_array_equal(prototypes, again)
    norm = np.sqrt(50) if space == "unit" else 1.0
    np.testing.assert_allclose(prototypes.reshape(3, 2, 3)[:2, 0] * norm, [[0, 1, 7], [1, 0, 7]], rtol=1e-6)
    assert not prototypes[4:].any() and "60 labelled pixels of 6 images; no pixel of class 2" in note


def test_first_prototypes_without_any_label_are_zero():
    prototypes, note = first_prototypes(PCRSettings(), maps(2, ignored=True), (3, 2, 3), seed=1)
    assert prototypes.shape == (6, 3) and not prototypes.any() and "0 labelled pixels" in note


def test_a_sample_does_not_depend_on_the_order():
    rng = np.random.default_rng(0)
    rows, keys = rng.random((40, 2)).astype(np.float32), rng.random(40)
    samples = []
    for order in (np.arange(40), rng.permutation(40)):
        sample = PixelSample(10, 2)
        for part in np.array_split(order, 4):
            sample.add(rows[part], keys[part])
        samples.append(sample)
    assert set(samples[0].keys) == set(samples[1].keys) == set(np.sort(keys)[:10])
    np.testing.assert_array_equal(matching_positions(513, 129), np.arange(129) * 4)


@pytest.mark.parametrize("shape", [(3, 2, 5), (6, 5)])
def test_prototypes_of_a_file(tmp_path, shape):
    values = np.random.default_rng(0).random(shape)
    np.savez(tmp_path / "start.npz", prototypes=values)
    settings = PCRSettings(proto_init="file", proto_file=str(tmp_path / "start.npz"))
    prototypes = read_prototypes(settings, (3, 2, 5))
    np.testing.assert_array_equal(prototypes, values.reshape(6, 5).astype(np.float32))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"prototypes": np.zeros((3, 2, 4))}, "of the shape"),
        ({"prototypes": np.full((3, 2, 5), np.nan)}, "not finite"),
        ({"centres": np.zeros((3, 2, 5))}, "no array called prototypes"),
        ({"prototypes": np.full((3, 2, 5), 1e300)}, "not finite"),
        ({"prototypes": np.array([{}])}, "no readable .npz"),
        (b"something else", "no readable .npz"),
        (b"", "no readable .npz"),
        (b"PK\x03\x04 no archive", "no readable .npz"),
        (None, "no prototypes at"),
    ],
)
def test_a_wrong_file_of_prototypes_is_one_line(tmp_path, content, message):
    path = tmp_path / "start.npz"
    if isinstance(content, dict):
        np.savez(path, **content)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_prototypes(PCRSettings(proto_init="file", proto_file=str(path)), (3, 2, 5))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
