"""Negative controls of USRN: one rule broken on purpose, or one number of a file changed, turns the check red."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.config.schema import CountedSteps
from common.make_subclasses import balanced_kmeans
from common.methods.usrn import augment as augment_usrn
from common.prediction import protocols
from common.training.schedules import poly
from tests.goldens import controls
from tests.goldens.controls import half_pixel_resize, save_changed
from tests.goldens.frameworks import Framework, installed, load_framework
from tests.goldens.golden import Golden
from tests.goldens.kinds import NEUTRAL, find_kind
from tests.goldens.usrn import data as usrn_data
from tests.goldens.usrn import steps as usrn_steps
from tests.goldens.usrn.kinds import KINDS

FILES = Path(__file__).parent


def differing(path: Path, framework: Framework | None) -> list[str]:
    """Return the quantities of one of USRN's files that do not agree."""
    return controls.differing(path, framework, "usrn")


@pytest.fixture(params=controls.EACH)
def framework(request) -> Framework:
    """Each installed framework."""
    if not installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    return load_framework(request.param)


def replace(module: str, name: str, changed: Callable) -> Callable:
    """Put ``changed(original)`` in the place of a function of a framework's module."""

    def broken(framework: Framework, monkeypatch) -> None:
        target = framework.module(module)
        monkeypatch.setattr(target, name, changed(getattr(target, name)))

    return broken


def gate_turned_round(original: Callable) -> Callable:
    """The gate opens where the class branch is the less certain one."""
    entropies = []

    def entropy(probabilities):
        entropies.append(original(probabilities))
        return -entropies[-1]

    return entropy


def natural_entropy(original: Callable) -> Callable:
    """Not divided by the logarithm of the number of channels."""
    return lambda probabilities: original(probabilities) * np.log2(probabilities.shape[1]).item()


def divided_by_kept(original: Callable) -> Callable:
    """The mean over the kept pixels instead of all."""

    def loss(logits, kept):
        number = float((kept != 255).sum())
        return original(logits, kept) * (float(np.prod(kept.shape)) / max(number, 1.0))

    return loss


def shifted_parents(framework: Framework, monkeypatch) -> None:
    """Every subclass belongs to the next class."""
    original = usrn_steps.parent_table
    monkeypatch.setattr(usrn_steps, "parent_table", lambda counts: (original(counts) + 1) % len(counts))


def lower_threshold(framework: Framework, monkeypatch) -> None:
    """More pixels are kept."""
    original = usrn_steps.settings

    def settings(golden: Golden):
        recorded = original(golden)
        return dataclasses.replace(recorded, threshold=recorded.threshold / 2)

    monkeypatch.setattr(usrn_steps, "settings", settings)


def no_pooling(framework: Framework, monkeypatch) -> None:
    """The first rows and columns instead of the means of four."""
    monkeypatch.setattr(framework.module("resize"), "halve", lambda x: x[:, :, : x.shape[2] // 2, : x.shape[3] // 2])


RULES = {
    "gate": (
        "step_basic.npz",
        replace("methods.usrn.subclasses", "normalised_entropy", gate_turned_round),
        "mid_gate_open",
    ),
    "entropy": (
        "entropy.npz",
        replace("methods.usrn.subclasses", "normalised_entropy", natural_entropy),
        "out_entropy_2",
    ),
    "divisor": ("step_basic.npz", replace("methods.usrn.usrn", "self_training_loss", divided_by_kept), "out_unsup_reg"),
    "parents": ("step_voc_331.npz", shifted_parents, "mid_class_mask"),
    "threshold": ("step_low_threshold.npz", lower_threshold, "mid_mask_reg"),
    "pooling": ("step_downsample.npz", no_pooling, "out_unsup_sub"),
    "resize of the classes": ("step_basic.npz", half_pixel_resize("methods.usrn.usrn"), "out_sup"),
    "resize of features": ("saved_features.npz", half_pixel_resize("resize"), "out_saved_0"),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_turns_the_check_red(rule: str, framework: Framework, monkeypatch) -> None:
    """The quantity that the rule decides differs."""
    file, broken, quantity = RULES[rule]
    broken(framework, monkeypatch)
    assert quantity in differing(FILES / file, framework)


def test_labels_all_ignored_would_be_nan(framework: Framework, monkeypatch) -> None:
    """Without the divisor's floor the loss over no pixel is no number, and that is found."""
    monkeypatch.setattr(
        framework.module("methods.usrn.usrn"),
        "supervised_loss",
        lambda criterion, logits, labels: logits.sum() * float("nan"),
    )
    assert "out_sup" in differing(FILES / "step_labels_all_ignored.npz", framework)


def counter_starts_with_the_epoch(monkeypatch) -> None:
    """The learning rate's counter starts anew with every epoch."""

    def rate(config: CountedSteps, clock) -> float:
        counted = config.counted_steps or clock.iterations_per_epoch
        return poly(config.lr, clock.epoch * counted + clock.step, clock.epochs * counted, config.poly_power)

    monkeypatch.setattr(load_framework("torch").module("optimizer"), "learning_rate", rate)


def top_before_left(monkeypatch) -> None:
    """Unlabelled crops draw their row first."""
    monkeypatch.setattr(augment_usrn.UnlabelledCrop, "draw", augment_usrn.LongSideCrop.draw)


def rounded_quantisation(monkeypatch) -> None:
    """To the nearest integer instead of towards zero."""
    monkeypatch.setattr(
        usrn_data, "quantise", lambda f: np.clip(np.rint(f.astype(np.float32) * 1000), -32768, 32767).astype(np.int16)
    )


def exact_nearest(monkeypatch) -> None:
    """Subclass labels are enlarged by another rule of nearest neighbours."""
    original = usrn_data.nearest_opencv

    def nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        if size < labels.shape:
            return original(labels, size)
        return cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)

    monkeypatch.setattr(usrn_data, "nearest_opencv", nearest)


def unbalanced(monkeypatch) -> None:
    """Every point goes to its nearest centre."""
    cheapest = lambda costs, prices: (costs.argmin(0), prices)  # noqa: E731
    monkeypatch.setattr(balanced_kmeans, "balanced_assignment", cheapest)


def zero_padding(monkeypatch) -> None:
    """Images are padded with zeros."""

    def pad(images, multiple):
        margins = [-side % multiple for side in images.shape[2:]]
        return np.pad(images, [(0, 0), (0, 0), (0, margins[0]), (0, margins[1])])

    monkeypatch.setattr(protocols, "reflect_pad", pad)


NEUTRAL_RULES = {
    "counter": ("poly_lr.npz", counter_starts_with_the_epoch, "out_lr_short_loop (authors)"),
    "quantise": ("quantise.npz", rounded_quantisation, "out_int16"),
    "nearest": ("subclass_labels.npz", exact_nearest, "out_subclass_0"),
    "balance": ("balanced_kmeans.npz", unbalanced, "out_assignment_many"),
    "padding": ("validation.npz", zero_padding, "out_padded_0"),
}


@pytest.mark.parametrize("rule", NEUTRAL_RULES)
def test_a_broken_rule_without_framework_turns_the_check_red(rule: str, monkeypatch) -> None:
    """The quantity that the rule decides differs."""
    file, broken, quantity = NEUTRAL_RULES[rule]
    broken(monkeypatch)
    framework = None if find_kind(Path(file).stem, KINDS).frameworks == NEUTRAL else load_framework("torch")
    assert quantity in differing(FILES / file, framework)


def test_the_order_of_draws_is_checked(monkeypatch) -> None:
    """A draw that does not fit where it is asked for, or another crop."""
    top_before_left(monkeypatch)
    try:
        quantities = differing(FILES / "augment_unlabelled_0.npz", None)
    except IndexError:
        return
    assert "out_weak_0" in quantities or "out_weak_1" in quantities


CHANGED = {
    "augment_labelled_0": "out_image_1",
    "augment_unlabelled_1": "out_strong_input_0",
    "blur": "out_image",
    "mapping": "out_parent_372",
    "palettes": "out_city",
    "metrics": "out_inter_1",
    "entropy": "out_terms_3",
    "subclass_labels": "out_subclass_2",
    "step_city_186": "grad_logits_s_sub",
    "poly_lr": "out_lr_semi",
    "net_baseline_r50_372": "out_logits_every_third_1",
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_number_turns_the_check_red(name: str, tmp_path) -> None:
    """One entry of one output, in a copy under another suffix, is found."""
    quantity = CHANGED[name]
    path = save_changed(FILES / f"{name}.npz", tmp_path / f"{name}_hidden.npz", quantity)
    framework = None if find_kind(name, KINDS).frameworks == NEUTRAL else load_framework("torch")
    assert any(affected.startswith(quantity) for affected in differing(path, framework))
