"""Negative controls: one rule of PCR broken on purpose, or one number of a file changed, turns the check red."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import common.methods.pcr.kmeans
from common.images.mixing import box_mask
from common.methods.pcr import pcr as settings
from tests.goldens import controls
from tests.goldens.controls import half_pixel_resize, ohem_below_threshold, save_changed
from tests.goldens.frameworks import Framework, installed, load_framework
from tests.goldens.golden import Golden
from tests.goldens.kinds import NEUTRAL, find_kind, ignored
from tests.goldens.pcr import data as pcr_data
from tests.goldens.pcr import prototypes as pcr_prototypes
from tests.goldens.pcr import steps as pcr_steps
from tests.goldens.pcr.kinds import KINDS

FILES = Path(__file__).parent


def differing(path: Path, framework: Framework | None) -> list[str]:
    """Return the quantities of one of PCR's files that do not agree."""
    return controls.differing(path, framework, "pcr")


@pytest.fixture(params=controls.EACH)
def framework(request) -> Framework:
    """Each installed framework."""
    if not installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    return load_framework(request.param)


def prototypes_module(**functions):
    """Break a function of PCR's prototypes where the method and the checks find it."""

    def broken(framework: Framework, monkeypatch) -> None:
        framework.module("methods.pcr.pcr")
        for name, wrapper in functions.items():
            controls.everywhere(framework, monkeypatch, name, wrapper)

    return broken


def method_settings(**values):
    """Give the method of a training step other settings."""

    def broken(framework: Framework, monkeypatch) -> None:
        experiment_of = pcr_steps.experiment_of

        def changed(golden: Golden):
            config = experiment_of(golden)
            return dataclasses.replace(config, method=dataclasses.replace(config.method, **values))

        monkeypatch.setattr(pcr_steps, "experiment_of", changed)

    return broken


def floor_of_mindspore(framework: Framework, monkeypatch) -> None:
    """The authors' MindSpore floor under the norm instead of PyTorch's."""
    monkeypatch.setitem(framework.module("networks.prototype_head").NORM_FLOOR, "torch", 1e-4)


def cells_along_rows(framework: Framework, monkeypatch) -> None:
    """Row and column bands of the selection exchanged."""
    select = settings.select_pixels

    def transposed(size, rows, columns, keep=None):
        return select(size, rows.T, columns.T, keep)

    monkeypatch.setattr(pcr_prototypes, "select_pixels", transposed)


def wrong_partner(framework: Framework, monkeypatch) -> None:
    """CutMix with the image before instead of the one after."""
    monkeypatch.setattr(framework.module("mixing"), "partners", lambda batch: (np.arange(batch) - 1) % batch)


def box_outside(framework: Framework, monkeypatch) -> None:
    """CutMix that replaces what lies outside of the box."""
    monkeypatch.setattr(pcr_data, "box_mask", lambda size, box: ~box_mask(size, box))


def strict_confidence(framework: Framework, monkeypatch) -> None:
    """A threshold that is a little too high."""
    framework.module("methods.pcr.pcr")
    stricter = lambda keep: lambda labels, confidence, threshold: keep(labels, confidence, 1.15 * threshold)  # noqa: E731
    controls.everywhere(framework, monkeypatch, "confident_labels", stricter)


def nearest_feature(original):
    """Features of the upper left neighbour instead of interpolated ones."""
    return lambda features, pixels, size: original(features, pixels // 4 * 4, size)


def by_prediction(original):
    """Upkeep by the class that the prototype head prefers: labels shifted by one."""
    return lambda features, labels, match, shape: original(
        features, (labels + (labels != 255)) % shape[0], match, shape
    )


def sums_without_means(original):
    """Sums instead of means in the upkeep."""
    return lambda prototypes, sums, counts, momentum: original(prototypes, sums, counts > 0, momentum)


RULES = {
    "temperature": (
        "proto_loss_basic",
        prototypes_module(prototype_logits=lambda f: lambda x, p, t: f(x, p, 2 * t)),
        "loss",
    ),
    "floor of norms": ("prototype_predict_tiny_norm", floor_of_mindspore, "logits"),
    "selection": ("patch_select_basic", cells_along_rows, "mask"),
    "interpolation": ("train_step_basic", prototypes_module(pixel_features=nearest_feature), "proto_logits"),
    "resize in a step": ("train_step_aux", half_pixel_resize("methods.base"), "sup_linear"),
    "partner": ("cutmix_three", wrong_partner, "mixed_images"),
    "box": ("cutmix_two", box_outside, "mixed_labels"),
    "confidence": ("pseudo_label_basic", strict_confidence, "target"),
    "OHEM": ("ohem_kth_above_thresh", ohem_below_threshold, "kept_target"),
    "denominator": ("train_step_divide_by_all", method_settings(unsup_denominator="valid"), "unsup_linear"),
    "labelled prototype loss": ("train_step_no_cutmix", method_settings(proto_sup=False), "grad_rep"),
    "momentum": ("train_step_basic", method_settings(proto_momentum=0.9), "new_prototypes"),
    "class of the upkeep": ("update_prototypes_basic", prototypes_module(prototype_sums=by_prediction), "counts"),
    "mean of the upkeep": (
        "update_prototypes_basic",
        prototypes_module(updated_prototypes=sums_without_means),
        "new_prototypes",
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_turns_the_check_red(rule: str, framework: Framework, monkeypatch) -> None:
    """The quantity that the rule decides differs."""
    file, broken, quantity = RULES[rule]
    path = FILES / f"{file}.npz"
    assert differing(path, framework) == []
    broken(framework, monkeypatch)
    assert quantity in differing(path, framework)


def test_the_order_of_seeds_matters(monkeypatch) -> None:
    """k-means++ that weighs by distances instead of their squares takes other seeds."""
    path = FILES / "kmeans_basic.npz"
    assert differing(path, None) == []
    squared = common.methods.pcr.kmeans._to_one
    monkeypatch.setattr(common.methods.pcr.kmeans, "_to_one", lambda points, centre: squared(points, centre) ** 0.01)
    assert "seed_index" in differing(path, None)


CHANGED = {
    "kmeans_basic": "assignment",
    "kmeans_empty_cluster": "centres",
    "init_prototypes_few_pixels": "prototypes",
    "init_prototypes_class_absent": "class_counts",
    "cutmix_box": "box",
    "schedules": "loader_result",
    "resize_align_corners": "to_9_7",
    "miou_basic": "union",
    "miou_label_one_past_last": "intersection",
    "sliding_smaller_than_crop": "prediction",
    "prototype_predict_basic": "grad_features",
    "prototype_predict_equal_and_zero": "match",
    "proto_loss_all_ignored": "loss_over_all",
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_number_turns_the_check_red(name: str, tmp_path) -> None:
    """One entry of one output is found."""
    quantity = CHANGED[name]
    path = save_changed(FILES / f"{name}.npz", tmp_path / f"{name}.npz", quantity)
    framework = None if find_kind(name, KINDS).frameworks == NEUTRAL else load_framework("torch")
    assert quantity in differing(path, framework)


def test_a_renamed_entry_of_a_manifest_is_found(tmp_path) -> None:
    """A name that the layout does not have is an error, one that is missing a difference."""
    document = Golden(FILES / "manifest_voc_mindspore.json").document
    removed = [row for row in document["parameters"] if row[0] != "decoder.head.0.weight"]
    path = tmp_path / "manifest_voc_mindspore.json"
    path.write_text(json.dumps(document | {"parameters": removed}))
    assert "names we lack or have too many" in differing(path, load_framework("torch"))


def test_a_reference_program_is_no_golden_file() -> None:
    """A description beside the files is not looked at."""
    assert ignored(Path("pcr/reference_numpy.py")) and not ignored(Path("pcr/proto_loss_basic.npz"))
