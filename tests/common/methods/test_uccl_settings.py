"""Settings, presets, streams and draws of UCCL, UniMatch and FixMatch, which both frameworks share."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from common.errors import UserError
from common.experiment import compose, known_experiments
from common.methods.interface import Clock
from common.methods.presets import resolved
from common.methods.uccl.augment import Views, WeakToStrong
from common.methods.uccl.fixmatch import FixMatchSettings
from common.methods.uccl.uccl import CKRSettings, SBUSettings, UCCLSettings
from common.methods.uccl.unimatch import UniMatchSettings
from common.methods.uccl.weak_to_strong import CutMixSettings, feature_masks
from common.splits.registry import known_splits

METHODS = ("uccl", "unimatch", "fixmatch")
UCCL_SPLITS = ["voc/183", "voc/366", "voc/732", "voc/1464"] + [
    f"cityscapes/{labelled}" for labelled in (186, 372, 744, 1488)
]
FURTHER = ["voc/92", "cityscapes/100"] + [
    f"voc/{family}_{count}" for family in ("u2pl", "cps") for count in (662, 1323, 2646)
]
PUBLISHED = (74.09, 77.08, 78.18, 79.43, 75.76, 77.21, 78.22, 79.54)


def test_presets_set_what_is_auto():
    authors, fixed = resolved(UCCLSettings()), resolved(UCCLSettings(preset="fixed"))
    assert (authors.cutmix.partner, fixed.cutmix.partner) == ("same", "batch_shift")
    assert (authors.sbu, fixed.sbu) == (
        SBUSettings(support="all", conf_thresh=0.95),
        SBUSettings(support="uncertain", conf_thresh=0.95),
    )
    assert (authors.ckr, fixed.ckr) == (
        CKRSettings(ignored="rows", detach_weights=False),
        CKRSettings(ignored="exclude", detach_weights=True),
    )
    assert (authors.bn_extra_passes, fixed.bn_extra_passes) == (True, False)
    assert (authors.padding, fixed.padding) == ("equal", "above")
    assert (authors.alpha_sbu, authors.beta_ckr) == (0.015, 0.02)


def test_thresholds_of_sbu():
    assert resolved(UCCLSettings(conf_thresh=0.0)).sbu.conf_thresh == 0.0
    assert resolved(UCCLSettings(conf_thresh=0.0, preset="fixed")).sbu.conf_thresh == 0.95
    assert resolved(UCCLSettings(preset="fixed", sbu=SBUSettings(conf_thresh=0.3))).sbu.conf_thresh == 0.3


@pytest.mark.parametrize("preset", ["authors", "fixed"])
def test_single_switches_win_over_the_preset(preset):
    settings = UCCLSettings(
        preset=preset,
        cutmix=CutMixSettings(partner="batch_shift"),
        sbu=SBUSettings(support="uncertain"),
        ckr=CKRSettings(ignored="exclude", detach_weights=False),
        bn_extra_passes=False,
        padding="above",
    )
    filled = resolved(settings)
    assert (filled.cutmix.partner, filled.sbu.support, filled.ckr.ignored) == ("batch_shift", "uncertain", "exclude")
    assert filled.ckr.detach_weights is False and filled.bn_extra_passes is False and filled.padding == "above"
    assert compose("voc/366/uccl", ["method.ckr.detach_weights=true"]).method.ckr.detach_weights is True


@pytest.mark.parametrize("name", [f"{split}/{method}" for split in UCCL_SPLITS for method in METHODS])
def test_published_settings(name):
    config, city = compose(name), name.startswith("city")
    labelled = known_splits(config.dataset.name)[config.split.id].labelled.count
    assert labelled == int(name.split("/")[1]) and (not city or config.split.id == f"cps_{labelled}")
    assert (config.loader.batch_labelled, config.loader.batch_unlabelled) == (8, 8)
    optimizer = config.optimizer
    expected = (0.005, 1, 240, 0.0, "ohem") if city else (0.001, 10, 80, 0.95, "ce")
    settings = (
        optimizer.lr,
        optimizer.head_lr_times,
        config.trainer.epochs,
        config.method.conf_thresh,
        config.criterion.type,
    )
    assert settings == expected and optimizer.poly_lag == 1 and optimizer.weight_decay == 1e-4
    ours = name.endswith("uccl")
    assert config.network.encoder == ("resnet50" if ours else "resnet101") and config.augment.pad_label == 255
    assert config.augment.crop == (321 if not city else 612 if ours else 801)
    if city:
        evaluation = config.evaluation
        assert (evaluation.size, evaluation.stride) == (config.augment.crop, int(config.augment.crop * 2 / 3))
        assert (evaluation.window_rule, evaluation.accumulate) == ("cut_off", "sum_softmax")
        assert (config.criterion.thresh, config.criterion.min_kept_per_image) == (0.7, 100_000)


def test_published_scores():
    assert tuple(compose(f"{split}/uccl").reference.published_miou for split in UCCL_SPLITS) == PUBLISHED
    assert compose("voc/92/unimatch").reference.published_miou == 75.2
    assert compose("voc/92/fixmatch").reference.published_miou is None


def test_further_lists_of_unimatch_are_known():
    known = set(known_experiments())
    assert {f"{split}/{method}" for split in FURTHER for method in METHODS[1:]} <= known
    assert compose("voc/u2pl_662/unimatch").augment.crop == 513 and compose("voc/cps_662/unimatch").augment.crop == 321


@pytest.mark.parametrize(
    ("settings", "views", "partner"),
    [
        (UCCLSettings(), 2, True),
        (UCCLSettings(preset="fixed"), 2, False),
        (UniMatchSettings(), 2, True),
        (FixMatchSettings(), 1, True),
        (FixMatchSettings(preset="fixed"), 1, False),
    ],
)
def test_streams(settings, views, partner):
    augment = WeakToStrong(crop=33)
    labelled, unlabelled = resolved(settings).streams(augment)
    assert (labelled.pipeline, labelled.follows) == (augment, "unlabelled")
    assert unlabelled.pipeline == Views(augment=augment, count=views, partner=partner)


def test_a_threshold_without_uncertain_pixels_is_warned_about():
    assert resolved(UCCLSettings()).warnings(21) == [] and UniMatchSettings(conf_thresh=0.0).warnings(19) == []
    assert "method.sbu.conf_thresh=0.95" in resolved(UCCLSettings(conf_thresh=0.0)).warnings(19)[0]
    assert resolved(UCCLSettings(conf_thresh=0.0, preset="fixed")).warnings(19) == []


def test_surplus_heads_are_refused():
    for head in ("representation=256", "auxiliary=true", "subclasses=40", "prototypes=4"):
        with pytest.raises(
            UserError, match=f"unknown key 'network.{head.partition('=')[0]}' where method.name is unimatch"
        ):
            compose("voc/366/unimatch", [f"network.{head}"])
    assert not compose("voc/366/unimatch", ["network.preset=u2pl", "network.auxiliary=false"]).network.representation


def test_feature_masks_repeat_and_differ_between_steps():
    network = compose("voc/366/uccl").network
    clock = Clock(epoch=1, step=2, iteration=12, epochs=5, iterations_per_epoch=10)
    first, again, other = (feature_masks(network, 6, 1, c) for c in (clock, clock, dataclasses.replace(clock, step=3)))
    assert [mask.shape for mask in first] == [(6, 256, 1, 1), (6, 2048, 1, 1)]
    assert all(np.array_equal(*pair) for pair in zip(first, again))
    assert not np.array_equal(first[1], other[1])
    assert set(np.unique(first[1])) == {0, 2} and 0.95 < first[1].mean() < 1.05
