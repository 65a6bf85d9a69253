"""Negative controls of the kinds ``ael_*``: one rule of AEL broken on purpose turns the check red."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.methods.u2pl import u2pl_ael as ael
from tests.goldens import controls
from tests.goldens.controls import differing
from tests.goldens.frameworks import Framework, installed, load_framework
from tests.goldens.u2pl import ael as kinds

FILES = Path(__file__).parent


def replaced(module, name: str, make: Callable[[Callable], Callable]) -> Callable:
    """A rule whose function ``name`` of ``module`` is replaced by what ``make`` makes of it."""
    return lambda monkeypatch: monkeypatch.setattr(module, name, make(getattr(module, name)))


def four_neighbours(monkeypatch) -> None:
    """Pixels that touch at a corner only are not connected."""
    find = ael.cv2.connectedComponentsWithStats
    monkeypatch.setattr(
        ael.cv2, "connectedComponentsWithStats", lambda member, connectivity: find(member, connectivity=4)
    )


NEUTRAL_RULES = {
    "8 neighbours": ("ael_cutmix_mask_e_corner_contact", four_neighbours, "box_y0x0y1x1"),
    "small components do not count": (
        "ael_cutmix_mask_b_too_small",
        replaced(kinds, "component_boxes", lambda boxes: lambda labels, category, _: boxes(labels, category, 0)),
        "used_random_half_area_box",
    ),
    "shares of height and width": (
        "ael_cutmix_mask_c_class_absent",
        replaced(kinds, "proportioned_box", lambda box: lambda size, u, *place: box(size, 1 - u, *place)),
        "mask",
    ),
    "only the chosen classes are pasted": (
        "ael_copy_paste_a",
        replaced(kinds, "paste_classes", lambda paste: lambda *a: paste(*a[:4], np.arange(255))),
        "label_out",
    ),
    "exponent of the probabilities": (
        "ael_sample_from_bank_b_smooth",
        replaced(kinds, "class_probabilities", lambda share: lambda confidence, _: share(confidence, 1.0)),
        "class_probability",
    ),
    "images that show the class": (
        "ael_sample_from_bank_a",
        replaced(kinds, "images_with", lambda find: lambda coverage, category: find(1 - coverage, category)),
        "images that we would not draw",
    ),
    "share of the bank that stays": (
        "ael_confidence_a",
        replaced(kinds, "moved_average", lambda move: lambda bank, confidence, momentum: move(bank, confidence, 0.99)),
        "bank_after",
    ),
    "area of a class that counts": (
        "ael_bank_update_a",
        replaced(ael, "covered_classes", lambda find: lambda labels, classes, area: find(labels, classes, 4 * area)),
        "bank_after",
    ),
}


@pytest.mark.parametrize("rule", NEUTRAL_RULES)
def test_a_broken_rule_of_the_host_turns_the_check_red(rule: str, monkeypatch) -> None:
    """Exactly the quantity that the rule decides, and what follows from it, differs."""
    file, broken, quantity = NEUTRAL_RULES[rule]
    path, framework = FILES / f"{file}.npz", load_framework("torch") if installed("torch") else None
    assert differing(path, framework, "u2pl") == []
    broken(monkeypatch)
    assert quantity in differing(path, framework, "u2pl")


def probability_one(framework: Framework, monkeypatch) -> None:
    """Every pixel counts as surely classified."""
    ones = lambda logits, labels: framework.constant(np.ones(labels.shape, np.float32))  # noqa: E731
    monkeypatch.setattr(framework.module("methods.u2pl.u2pl_ael"), "true_class_probability", ones)


def sampling_without_exponent(framework: Framework, monkeypatch) -> None:
    """The sampling rate of a class is not raised to its power."""
    monkeypatch.setattr(
        framework.module("methods.u2pl.u2pl_ael"),
        "keep_thresholds",
        lambda confidence, _: ael.keep_thresholds(confidence, 1.0),
    )


def ignored_pixels_outside_of_the_divisor(framework: Framework, monkeypatch) -> None:
    """Pixels without a label have no weight at all."""
    module = framework.module("methods.u2pl.u2pl_ael")
    loss = module.weighted_cross_entropy

    def broken(logits, labels, weights, divisor):
        weights = weights * (labels != 255)
        return loss(logits, labels, weights, weights.sum())

    monkeypatch.setattr(module, "weighted_cross_entropy", broken)


def unweighted_means(framework: Framework, monkeypatch) -> None:
    """The class means do not look at the pixels' confidence."""
    module = framework.module("methods.u2pl.contrastive")
    means = module.class_means
    monkeypatch.setattr(module, "class_means", lambda features, members, weights=None: means(features, members))


RULES = {
    "confidence of a class": ("ael_confidence_a", probability_one, "confidence"),
    "exponent of the sampling rate": ("ael_consistency_b_gamma2", sampling_without_exponent, "loss"),
    "ignored pixels in the divisor": ("ael_consistency_a", ignored_pixels_outside_of_the_divisor, "loss"),
    "weighted means": ("ael_contra_conf_weight_a", unweighted_means, "loss"),
}


@pytest.mark.parametrize("name", controls.EACH)
@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_of_a_framework_turns_the_check_red(rule: str, name: str, monkeypatch) -> None:
    """Exactly the quantity that the rule decides, and what follows from it, differs."""
    if not installed(name):
        pytest.skip(f"{name} is not installed")
    file, broken, quantity = RULES[rule]
    framework, path = load_framework(name), FILES / f"{file}.npz"
    assert differing(path, framework, "u2pl") == []
    broken(framework, monkeypatch)
    assert quantity in differing(path, framework, "u2pl")
