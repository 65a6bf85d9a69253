"""Negative controls: one rule broken on purpose, or one number of a file changed, turns the check red."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.methods.u2pl import u2pl as settings
from tests.goldens import controls
from tests.goldens.controls import (
    half_pixel_resize,
    ohem_below_threshold,
    other_batch_norm_momentum,
    save_changed,
)
from tests.goldens.frameworks import Framework, installed, load_framework
from tests.goldens.golden import Golden
from tests.goldens.kinds import NEUTRAL, find_kind
from tests.goldens.u2pl import settings as u2pl_settings
from tests.goldens.u2pl import steps as u2pl_steps
from tests.goldens.u2pl.kinds import KINDS

FILES = Path(__file__).parent


def differing(path: Path, framework: Framework | None) -> list[str]:
    """Return the quantities of one of U2PL's files that do not agree."""
    return controls.differing(path, framework, "u2pl")


@pytest.fixture(params=controls.EACH)
def framework(request) -> Framework:
    """Each installed framework; cases that ran with the right rules, or ran with a broken one, are forgotten."""
    if not installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    u2pl_steps.run_case.cache_clear()
    yield load_framework(request.param)
    u2pl_steps.run_case.cache_clear()


def lower_percentile(framework: Framework, monkeypatch) -> None:
    """The lower neighbour instead of the interpolated percentile."""

    def percentile(values, percent: float, among=None) -> float:
        values = framework.array(values)
        ordered = np.sort(values.ravel() if among is None else values[framework.array(among)])
        return float(ordered[int(percent / 100 * (len(ordered) - 1))])

    monkeypatch.setattr(framework.module("pseudo_labels"), "percentile", percentile)


def preset(key: str, value: str) -> Callable:
    """Another value of one switch of the preset ``authors``."""
    return lambda framework, monkeypatch: monkeypatch.setitem(settings.CONTRASTIVE_PRESETS["authors"], key, value)


def teacher_copied_once(framework: Framework, monkeypatch) -> None:
    """The teacher is copied at the first semi-supervised step and then averaged, instead of tied for an epoch."""
    method = u2pl_settings.method
    monkeypatch.setattr(
        u2pl_settings, "method", lambda document: dataclasses.replace(method(document), ema_first_epoch="copy_once")
    )


RULES = {
    "percentile": ("unsup_loss_a.npz", lower_percentile, "threshold"),
    "one-hot maps": ("train_step_voc_2.npz", preset("label_encoding", "onehot"), "onehot_l_small, onehot_u_small"),
    "class pairing": ("contra_b_missing_classes.npz", preset("class_pairing", "class"), "loss"),
    "negatives": ("contra_a_all_classes.npz", preset("negatives", "paper"), "new_keys"),
    "anchor entropy": ("train_step_city_1.npz", preset("anchor_entropy", "reliable"), "low_mask"),
    "positive": ("contra_d_queue_full.npz", preset("positive", "anchors"), "prototypes"),
    "tied teacher": ("train_step_voc_3.npz", teacher_copied_once, "after/teacher/decoder.pred.weight"),
    "BatchNorm momentum": ("train_step_voc_0.npz", other_batch_norm_momentum, "after/student/encoder.bn1.running_mean"),
    "resize in a step": ("train_step_city_0.npz", half_pixel_resize("methods.base"), "sup_loss"),
    "resize in the network": ("net_voc_semi_r50_48x64.npz", half_pixel_resize("networks.deeplab"), "pred"),
    "OHEM": ("ohem_b_threshold_raised.npz", ohem_below_threshold, "kept_main_aux"),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_turns_the_check_red(rule: str, framework: Framework, monkeypatch) -> None:
    """Exactly the quantity that the rule decides, and what follows from it, differs."""
    file, broken, quantity = RULES[rule]
    assert differing(FILES / file, framework) == []
    u2pl_steps.run_case.cache_clear()
    broken(framework, monkeypatch)
    assert quantity in differing(FILES / file, framework)


CHANGED = {
    "ce_a": "grad_main",
    "queue_a": "queue_3",
    "onehot_rce_a": "onehot_small",
    "mix_cutmix_a": "data_out",
    "mix_cutout_a": "target_out",
    "mix_classmix_a": "mask",
    "transform_b_enlarge": "image_out",
    "metric_a": "union_1",
    "lr_poly_a": "lr_backbone_head",
    "sliding_a": "logits",
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_number_turns_the_check_red(name: str, tmp_path) -> None:
    """One entry of one output, in a copy under another suffix, is found."""
    quantity, source = CHANGED[name], FILES / f"{name}.npz"
    kind = name.rpartition("_a")[0] or "transform"
    path = tmp_path / f"{kind}_other_suffix.npz"
    framework = None if find_kind(name, KINDS).frameworks == NEUTRAL else load_framework("torch")
    assert differing(save_changed(source, path, None), framework) == []
    assert quantity in differing(save_changed(source, path, quantity), framework)


def test_a_renamed_entry_of_a_manifest_is_found(tmp_path) -> None:
    """A name that we do not have and one that we have too many."""
    document = Golden(FILES / "manifest_voc_semi_r50.json").document
    document["state_dict"]["decoder.tail.weight"] = document["state_dict"].pop("decoder.classifier.8.weight")
    path = tmp_path / "manifest_voc_semi_r50.json"
    path.write_text(json.dumps(document))
    quantities = differing(path, load_framework("torch"))
    assert {"names without a counterpart", "names we lack or have too many"} <= set(quantities)


@pytest.mark.parametrize("name", ["checkpoint_layout", "edge_cases"])
def test_an_unknown_entry_of_a_description_is_an_error(name: str, tmp_path) -> None:
    """A key of a checkpoint, or an edge case, that nobody checks."""
    document = Golden(FILES / f"{name}.json").document
    entries = document["train_semi"] if name == "checkpoint_layout" else document
    entries["something_new"] = {}
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(document))
    with pytest.raises(KeyError, match="something_new"):
        differing(path, load_framework("torch"))
