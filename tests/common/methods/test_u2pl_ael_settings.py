"""U2PL with AEL: schedules, presets, draws and banks, which both frameworks share."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from common.experiment import compose
from common.loading.on_demand import ImagesOnDemand
from common.methods.interface import Clock
from common.methods.presets import resolved
from common.methods.u2pl.augment import WeakCropAndPaste
from common.methods.u2pl.u2pl import CONTRASTIVE_PRESETS
from common.methods.u2pl.u2pl_ael import (
    ClassBanks,
    StepDraws,
    U2PLAELSettings,
    class_probabilities,
    covered_classes,
    images_with,
    keep_thresholds,
)

CITYSCAPES = 19


def clock(epoch: int, step: int = 0, epochs: int = 200, each: int = 139) -> Clock:
    return Clock(epoch=epoch, step=step, iteration=epoch * each + step, epochs=epochs, iterations_per_epoch=each)


AUTHORS = U2PLAELSettings()


def draws(settings: U2PLAELSettings = AUTHORS, step: int = 0) -> StepDraws:
    return StepDraws(resolved(settings), 1, clock(0, step))


def test_schedules():
    settings = U2PLAELSettings()
    assert 100 - settings.percent_kept(clock(0)) == 20 and 100 - settings.percent_kept(clock(100)) == 10
    assert settings.entropy_percent(clock(0)) == settings.entropy_percent(clock(199)) == 20
    assert settings.teacher_decay(clock(0, 0)) == 0 and settings.teacher_decay(clock(0, 1)) == 0.5
    assert settings.teacher_decay(clock(1)) == 0.99
    assert settings.prototype_decay(clock(20)) == 0 and settings.prototype_decay(clock(20, 3)) == 0.75


def test_the_consistency_terms_begin_with_their_epoch():
    assert U2PLAELSettings().consistency(clock(0)) == 1, "the released program's begin at once"
    settings = U2PLAELSettings(consistency_start_epoch=6, consistency_weight=0.5)
    assert [settings.consistency(clock(epoch)) for epoch in (0, 5, 6, 20)] == [0, 0, 0.5, 0.5]


@pytest.mark.parametrize("preset", ["authors", "fixed"])
def test_presets_fill_every_auto_and_single_switches_win(preset):
    settings, values = resolved(U2PLAELSettings(preset=preset)), CONTRASTIVE_PRESETS[preset]
    assert {key: getattr(settings.contrastive, key) for key in values} == values
    assert (settings.drop, settings.contrastive_pixels) == {"authors": ("low", "kept"), "fixed": ("high", "all")}[
        preset
    ]
    assert resolved(U2PLAELSettings(preset=preset, drop="high")).drop == "high"
    assert "auto" not in str(dataclasses.asdict(settings))


def test_streams_load_one_of_two_unlabelled_images_and_sometimes_one_to_paste():
    augment = WeakCropAndPaste(crop=32, paste_resize_range=(0.2, 1.0))
    labelled, paste, unlabelled = U2PLAELSettings().streams(augment)
    assert (labelled.one_of, paste.one_of, unlabelled.one_of) == (1, 1, 2)
    assert (paste.order, paste.probability, paste.source) == ("uniform", 0.5, "labelled")
    assert labelled.pipeline == unlabelled.pipeline == augment
    assert paste.pipeline.resize_range == (0.2, 1.0) and augment.resize_range == (0.5, 2.0)


def test_classes_that_cannot_be_pasted_are_warned_about():
    assert U2PLAELSettings().warnings(CITYSCAPES) == []
    assert "no class 8 among 6" in U2PLAELSettings().warnings(6)[-1]
    assert "nothing is pasted" in U2PLAELSettings(paste_excluded=(0, 1, 2, 3, 4, 5)).warnings(6)[-1]
    everything = U2PLAELSettings(paste_excluded=tuple(range(6)))
    assert not len(draws(everything).pasted_classes(np.zeros(6, np.float32)))


def test_pasted_classes_are_among_the_fourteen_and_the_unsure_ones_are_likelier():
    confidence = np.ones(CITYSCAPES, np.float32)
    confidence[[3, 0]] = 0
    pasted = [draws(step=step).pasted_classes(confidence) for step in range(400)]
    counts = np.bincount(np.concatenate(pasted), minlength=CITYSCAPES)
    assert not counts[[0, 1, 2, 8, 10]].any() and all(1 <= len(classes) <= 3 for classes in pasted)
    # softmax(sqrt(1 - c)): e against 1 for the 13 others.
    share = np.e / (np.e + 13)
    assert counts[3] / 400 == pytest.approx(1 - (1 - share) ** 3, abs=0.07)


def test_partners_show_the_class_and_an_empty_bank_offers_every_image():
    banks = ClassBanks(4, 30, seed=0)
    categories, positions = draws().partners(banks, 200)
    assert set(categories) == {0, 1, 2, 3} and len(set(positions)) > 20
    banks.coverage[1, [3, 7]] = 1
    categories, positions = draws().partners(banks, 200)
    assert set(positions[categories == 1]) == {3, 7} and len(set(positions[categories != 1])) > 20
    assert images_with(banks.coverage, 0).tolist() == list(range(30))


def test_box_of_a_component_or_of_half_the_area():
    label = np.zeros((40, 40), np.uint8)
    label[5:15, 10:30], label[30, 30] = 2, 2
    masks = draws().mix_masks(np.stack([label, label]), [2, 3])
    assert masks.shape == (2, 40, 40)
    expected = np.ones((40, 40), bool)
    expected[5:15, 10:30] = False
    np.testing.assert_array_equal(masks[0], expected)
    assert (~masks[1]).sum() == pytest.approx(800, abs=40)
    two = label.copy()
    two[20:35, 2:9] = 2
    rows = {int((~draws(step=step).mix_masks(two[None], [2])[0]).any(1).argmax()) for step in range(20)}
    assert rows == {5, 20}


def test_draws_repeat_and_differ_between_steps():
    first, again, other = draws(), draws(), draws(step=1)
    shape = (3, 4, 5)
    np.testing.assert_array_equal(first.uniform("labelled", shape), again.uniform("labelled", shape))
    assert not np.array_equal(first.uniform("labelled", shape), first.uniform("unlabelled", shape))
    assert not np.array_equal(first.uniform("labelled", shape), other.uniform("labelled", shape))
    assert first.uniform("labelled", shape).dtype == np.float32
    np.testing.assert_array_equal(first.anchors(50), again.anchors(50))


def test_a_class_never_seen_loses_confidence_and_the_banks_survive_a_restart():
    banks = ClassBanks(3, 5, seed=4)
    start = banks.confidence.copy()
    assert ((start >= 0) & (start < 1)).all() and np.array_equal(start, ClassBanks(3, 9, seed=4).confidence)
    for _ in range(100):
        banks.update_confidence(np.float32([0.9, 0.9, 0.0]), 0.99)
    assert banks.confidence[2] == pytest.approx(start[2] * 0.99**100, rel=1e-4) and banks.confidence.dtype == np.float32
    assert class_probabilities(banks.confidence, 1.0).argmax() == 2
    banks.update_coverage(np.array([1, 4]), np.uint8([[[0, 0], [1, 0]], [[1, 1], [1, 1]]]), 0.5)
    assert banks.coverage.tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]
    other = ClassBanks(3, 5, seed=0)
    other.restore(banks.state())
    assert np.array_equal(other.confidence, banks.confidence) and np.array_equal(other.coverage, banks.coverage)


def test_area_counts_from_the_threshold_on():
    labels = np.uint8([[0, 0, 1], [1, 2, 255], [255, 255, 255]])
    assert covered_classes(labels, 3, 2)[:3].tolist() == [1, 1, 0]


def test_thresholds_spare_the_least_sure_class_even_if_all_are_sure():
    assert keep_thresholds(np.float32([0.5, 0.75, 1.0]), 1.0).tolist() == [0, 0.5, 1]
    assert keep_thresholds(np.float32([0.5, 0.75, 1.0]), 2.0).tolist() == [0, 0.75, 1]
    assert np.isfinite(keep_thresholds(np.ones(3, np.float32), 1.0)).all()


def test_images_on_demand_repeat_whatever_the_number_of_threads():
    config = compose("shapes/12/u2pl_ael", ["augment.crop=40"])
    threaded = dataclasses.replace(config, loader=dataclasses.replace(config.loader, workers=3))
    one, many = (ImagesOnDemand(each, "partner") for each in (config, threaded))
    positions = np.array([5, 0, 5])
    images = one.load(positions, clock(0))
    assert images.shape == (3, 3, 40, 40) and images.dtype == np.float32
    np.testing.assert_array_equal(images, many.load(positions, clock(0)))
    assert not np.array_equal(images[0], images[2]) and not np.array_equal(images, one.load(positions, clock(0, 1)))
    assert one.positions([one.ids[7], one.ids[2]]).tolist() == [7, 2]
