"""Negative controls of UCCL's golden files: one rule broken on purpose turns the check red."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.methods.uccl import weak_to_strong as shared
from common.methods.uccl.uccl import UCCLSettings
from common.methods.uccl.unimatch import UniMatchSettings
from tests.goldens import controls
from tests.goldens.controls import half_pixel_resize, ohem_below_threshold, save_changed
from tests.goldens.frameworks import Framework, installed, load_framework

FILES = Path(__file__).parent


def differing(path: Path, framework: Framework | None) -> list[str]:
    """Return the quantities of one of UCCL's files that do not agree."""
    return controls.differing(path, framework, "uccl")


@pytest.fixture(params=controls.EACH)
def framework(request) -> Framework:
    """Each installed framework; graphs with a broken rule are forgotten."""
    if not installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    yield load_framework(request.param)
    controls.forget_graphs()


def preset(value, *keys: str) -> Callable:
    """Another value of one switch of the preset ``authors``; ``keys`` lead to it."""

    def broken(framework: Framework, monkeypatch) -> None:
        values = UCCLSettings.presets["authors"]
        for key in keys[:-1]:
            values = values[key]
        monkeypatch.setitem(values, keys[-1], value)

    return broken


def other_partner(framework: Framework, monkeypatch) -> None:
    """CutMix with the next image of the batch."""
    monkeypatch.setitem(shared.AUTHORS_CUTMIX, "partner", "batch_shift")


def boxes_swapped(framework: Framework, monkeypatch) -> None:
    """The partner outside of the box instead of inside."""
    module = framework.module("methods.uccl.weak_to_strong")
    cutmix = module.cutmix
    monkeypatch.setattr(module, "cutmix", lambda values, others, boxes: cutmix(others, values, boxes))


def divisor_of_certain_pixels(framework: Framework, monkeypatch) -> None:
    """The mean over certain pixels instead of all that are no padding."""
    module = framework.module("methods.uccl.weak_to_strong")

    def certain_loss(logits, label, confidence, ignore, threshold):
        share = framework.module("pseudo_labels").certain_share(confidence, ignore, threshold)
        return module_loss(logits, label, confidence, ignore, threshold) / share

    module_loss = module.certain_loss
    monkeypatch.setattr(module, "certain_loss", certain_loss)


def rows_in_order(framework: Framework, monkeypatch) -> None:
    """Ignored pixels keep their own feature, as was meant."""

    def scrambled_rows(feature):
        return feature.reshape(feature.shape[0], feature.shape[1], -1).swapaxes(1, 2)

    monkeypatch.setattr(framework.module("methods.uccl.ckr_sbu"), "scrambled_rows", scrambled_rows)


def confidence_above(framework: Framework, monkeypatch) -> None:
    """The sure pixels taken for the uncertain ones."""
    module = framework.module("methods.uccl.ckr_sbu")
    certainty = module.certainty

    def opposite(logits):
        confidence, label = certainty(logits)
        return 1 - confidence, label

    monkeypatch.setattr(module, "certainty", opposite)


def padding_without_aligned_corners(framework: Framework, monkeypatch) -> None:
    """The padding resized without aligned corners, by whatever the framework resizes it with."""
    if framework.name == "torch":
        half_pixel_resize("methods.uccl.ckr_sbu")(framework, monkeypatch)
        return
    monkeypatch.setattr(framework.module("methods.uccl.ckr_sbu"), "corners_of_white", half_pixel_corners)


def half_pixel_corners(source, size):
    """What :func:`common.images.pytorch_resize.corners_of_white` would return without aligned corners."""
    taps = []
    for old, new in zip(source, size):
        position = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        taps.append(np.stack([np.floor(position), np.ceil(position)]).astype(np.int32))
    return *taps, np.broadcast_to((np.arange(16) == 15)[:, None, None], (16, *size)).copy()


def no_lag(framework: Framework, monkeypatch) -> None:
    """The plain poly schedule."""
    module = importlib.import_module("tests.goldens.uccl.data")
    config = module.OptimizerConfig
    monkeypatch.setattr(module, "OptimizerConfig", lambda poly_lag, **rest: config(**rest))


def windows_shifted(framework: Framework, monkeypatch) -> None:
    """Windows at the border moved back instead of cut."""
    module = importlib.import_module("tests.goldens.uccl.data")
    monkeypatch.setattr(module, "authors_windows", lambda: {"window_rule": "shift_back", "accumulate": "sum_softmax"})


def logits_added(framework: Framework, monkeypatch) -> None:
    """Logits of the windows added up instead of probabilities."""
    module = importlib.import_module("tests.goldens.uccl.data")
    monkeypatch.setattr(module, "authors_windows", lambda: {"window_rule": "cut_off", "accumulate": "sum_logits"})


RULES = {
    "SBU's support": ("step_uccl_voc.npz", preset("uncertain", "sbu", "support"), "loss_sim_weighted"),
    "CKR's padding": ("step_uccl_voc.npz", preset("exclude", "ckr", "ignored"), "loss_region_weighted"),
    "CKR's gradient": ("step_uccl_voc.npz", preset(True, "ckr", "detach_weights"), "d_w1_low"),
    "CutMix partner": ("step_unimatch_voc.npz", other_partner, "call0_images"),
    "CutMix box": ("step_fixmatch_city.npz", boxes_swapped, "call2_images"),
    "divisor": ("step_unimatch_voc.npz", divisor_of_certain_pixels, "loss_w_fp"),
    "scrambled rows": ("ckr_loss_partial_ignore.npz", rows_in_order, "loss"),
    "uncertain pixels": ("sbu_partial_ignore_thr60.npz", confidence_above, "loss"),
    "padding's resize": ("ignore_resize_612_to_153.npz", padding_without_aligned_corners, "is_ignored"),
    "lagged schedule": ("lr_schedule.npz", no_lag, "lr_at_step"),
    "windows": ("evaluate.npz", windows_shifted, "window_sizes"),
    "joining of windows": ("evaluate.npz", logits_added, "pred_sliding_window"),
    "OHEM": ("ohem_by_min_kept.npz", ohem_below_threshold, "loss"),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_turns_the_check_red(rule: str, framework: Framework, monkeypatch) -> None:
    """Exactly the quantity that the rule decides, and what follows from it, differs."""
    file, broken, quantity = RULES[rule]
    assert differing(FILES / file, framework) == []
    broken(framework, monkeypatch)
    controls.forget_graphs()
    assert any(affected.startswith(quantity) for affected in differing(FILES / file, framework))


def test_left_out_passes_are_found(framework: Framework, monkeypatch) -> None:
    """Without the two extra passes, whose outputs nobody reads, the calls differ, and nothing else."""
    module = importlib.import_module("tests.goldens.uccl.steps")
    answers = module.ANSWERS["uccl"]
    monkeypatch.setitem(module.ANSWERS, "uccl", [*answers[:3], *answers[5:]])
    monkeypatch.setitem(UCCLSettings.presets["authors"], "bn_extra_passes", False)
    quantities = differing(FILES / "step_uccl_voc.npz", framework)
    assert quantities and all(quantity.startswith("call") for quantity in quantities)


def test_a_threshold_of_the_step_matters(framework: Framework, monkeypatch) -> None:
    """Every file's own threshold reaches the loss."""
    module = importlib.import_module("tests.goldens.uccl.steps")
    monkeypatch.setattr(module, "settings", lambda name, conf_thresh: UniMatchSettings(conf_thresh=conf_thresh + 0.3))
    assert {"loss_s", "mask_ratio"} <= set(differing(FILES / "step_unimatch_voc.npz", framework))


CHANGED = {
    "cutmix_boxes_33": "box_y0_y1_x0_x1",
    "colour_ops": "hue_1",
    "sample_train_u_landscape_0": "out_strong2",
    "sample_train_l_portrait_padded_1": "out_mask",
    "intersection_union": "union",
    "ckr_region_edges": "d_weak_logits",
    "sbu_voc_thr95": "d_similarity",
    "network_resnet50_voc": "feature_first8",
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_number_turns_the_check_red(name: str, tmp_path) -> None:
    """One entry of one output, in a copy, is found."""
    quantity = CHANGED[name]
    path = save_changed(FILES / f"{name}.npz", tmp_path / f"{name}.npz", quantity)
    assert any(quantity.removeprefix("out_") in affected for affected in differing(path, load_framework("torch")))


def test_other_weights_of_the_terms_are_found(framework: Framework, monkeypatch) -> None:
    """``alpha_sbu`` and ``beta_ckr`` are what the released program has."""
    module = importlib.import_module("tests.goldens.uccl.steps")
    settings = module.settings
    changed = lambda name, **values: dataclasses.replace(settings(name, **values), beta_ckr=0.03)  # noqa: E731
    monkeypatch.setattr(module, "settings", changed)
    assert {"loss", "loss_region_weighted"} <= set(differing(FILES / "step_uccl_voc.npz", framework))
