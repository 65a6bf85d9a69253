"""U2PL's schedules, presets and draws, which both frameworks share."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from common.methods.interface import Clock
from common.methods.presets import resolved
from common.methods.u2pl.u2pl import CONTRASTIVE_PRESETS, ContrastiveSettings, StepDraws, U2PLSettings


def clock(epoch: int, step: int = 0, epochs: int = 80, each: int = 100) -> Clock:
    return Clock(epoch=epoch, step=step, iteration=epoch * each + step, epochs=epochs, iterations_per_epoch=each)


def test_schedules():
    settings = U2PLSettings()
    assert settings.percent_kept(clock(0)) == 80 and settings.percent_kept(clock(40)) == 90
    assert settings.percent_kept(clock(79)) == pytest.approx(100 - 20 / 80)
    assert settings.entropy_percent(clock(0)) == 20 and settings.entropy_percent(clock(79)) == pytest.approx(20 / 80)
    assert settings.teacher_decay(clock(1, 0)) == 0 and settings.teacher_decay(clock(1, 1)) == 0.5
    assert settings.teacher_decay(clock(2, 0)) == 0.99
    assert settings.queue_sizes(3) == [50_000, 30_000, 30_000]


@pytest.mark.parametrize("preset", ["authors", "fixed"])
def test_presets_fill_every_auto_and_single_switches_win(preset):
    settings, values = resolved(U2PLSettings(preset=preset)), CONTRASTIVE_PRESETS[preset]
    assert {key: getattr(settings.contrastive, key) for key in values} == values
    assert settings.ema_first_epoch == {"authors": "tied", "fixed": "copy_once"}[preset]
    switched = U2PLSettings(preset=preset, contrastive=ContrastiveSettings(negatives="paper", class_pairing="position"))
    switched = resolved(switched)
    assert switched.contrastive.negatives == "paper" and switched.contrastive.class_pairing == "position"
    assert "auto" not in str(dataclasses.asdict(settings))


def test_too_few_classes_are_warned_about():
    assert U2PLSettings().warnings(21) == []
    assert "low_rank = 3" in U2PLSettings().warnings(4)[0]
    two = U2PLSettings(contrastive=ContrastiveSettings(low_rank=1))
    assert two.warnings(2) == [] and U2PLSettings().warnings(2)


@pytest.mark.parametrize("mixing", ["cutmix", "cutout", "classmix"])
def test_draws_repeat_and_differ_between_steps(mixing):
    settings = U2PLSettings(mixing=mixing, mixing_probability=1.0)
    labels = np.random.default_rng(0).integers(0, 6, (3, 32, 40)).astype(np.uint8)
    first, again, other = (StepDraws(settings, 1, clock(1, step)) for step in (0, 0, 1))
    masks = first.mix_masks(labels)
    assert masks.shape == labels.shape and masks.dtype == bool
    np.testing.assert_array_equal(masks, again.mix_masks(labels))
    assert not np.array_equal(masks, other.mix_masks(labels))
    np.testing.assert_array_equal(first.anchors(50), again.anchors(50))
    assert first.negatives(7).max() < 7 and len(first.negatives(7)) == 256 * 50


def test_mixing_probability():
    labels = np.zeros((1, 8, 8), np.uint8)
    settings = U2PLSettings()
    mixed = [StepDraws(settings, 0, clock(1, step)).mix_masks(labels) is not None for step in range(200)]
    assert 70 < sum(mixed) < 130
    assert StepDraws(U2PLSettings(mixing="none"), 0, clock(1)).mix_masks(labels) is None
    assert StepDraws(U2PLSettings(mixing_probability=0.0), 0, clock(1)).mix_masks(labels) is None
