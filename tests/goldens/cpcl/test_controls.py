"""Negative controls of CPCL and CPS: one rule broken on purpose, or one number of a file changed, turns the check red."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.methods.cpcl import cpcl as settings
from common.prediction.protocols import Slide
from tests.goldens import controls
from tests.goldens.controls import ohem_below_threshold, other_batch_norm_momentum, save_changed
from tests.goldens.cpcl import data as cpcl_data
from tests.goldens.cpcl import steps as cpcl_steps
from tests.goldens.frameworks import Framework, installed, load_framework
from tests.goldens.golden import Golden

FILES = Path(__file__).parent


def differing(path: Path, framework: Framework | None) -> list[str]:
    """Return the quantities of one of CPCL's files that do not agree."""
    return controls.differing(path, framework, "cpcl")


@pytest.fixture(params=controls.EACH)
def framework(request) -> Framework:
    """Each installed framework."""
    if not installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    return load_framework(request.param)


def wrong_disagreement(**changes) -> Callable:
    """What :func:`common.methods.cpcl.cpcl.disagreement` returns, with some fields computed otherwise from the counts."""

    def broken(framework: Framework, monkeypatch) -> None:
        def disagreement(counts, variant="head"):
            correct = settings.disagreement(counts, variant)
            return dataclasses.replace(correct, **{name: change(correct) for name, change in changes.items()})

        monkeypatch.setattr(framework.module("methods.cpcl.collaborative"), "disagreement", disagreement)

    return broken


def tie_to_the_first(disagreement) -> np.ndarray:
    """Branch 1 wins where both classes have the same score."""
    return disagreement.scores[:, None] >= disagreement.scores[None, :]


def lower_wins(disagreement) -> np.ndarray:
    """The class with the lower score wins."""
    return disagreement.scores[:, None] < disagreement.scores[None, :]


def no_artificial_agreement(framework: Framework, monkeypatch) -> None:
    """The matrix without the identity."""

    def disagreement(counts, variant="head"):
        return settings.disagreement(counts - np.eye(len(counts), dtype=np.int64), variant)

    monkeypatch.setattr(framework.module("methods.cpcl.collaborative"), "disagreement", disagreement)


def mean_over_agreeing_pixels(framework: Framework, monkeypatch) -> None:
    """Both unsupervised losses divided by the pixels that have a target."""
    together = framework.module("methods.cpcl.collaborative")
    original = together.weighted_cross_entropy

    def weighted_cross_entropy(logits, labels, weights, divisor):
        return original(logits, labels, weights, max(int((framework.array(labels) != 255).sum()), 1))

    monkeypatch.setattr(together, "weighted_cross_entropy", weighted_cross_entropy)


def unweighted_classes(framework: Framework, monkeypatch) -> None:
    """The loss after mining without the weights of the classes."""
    losses = framework.module("losses")
    original = losses.cross_entropy
    monkeypatch.setattr(losses, "cross_entropy", lambda logits, labels, weights=(): original(logits, labels))


def all_parameters_decay(framework: Framework, monkeypatch) -> None:
    """BatchNorm and biases decay, too."""
    optimizer = framework.module("optimizer").Optimizer
    monkeypatch.setattr(optimizer, "group", lambda self, name, dimensions: (not name.startswith("encoder."), False))


def labelled_images_last(framework: Framework, monkeypatch) -> None:
    """CPCL's passes in the order of CPS: the labelled images last."""
    branches = framework.module("methods.cpcl.two_branches").TwoBranches
    cpcl = framework.module("methods.cpcl.cpcl").CPCL
    learn_labelled, learn, waiting = branches.learn_labelled, branches.learn, []

    def later(self, branch, images, labels, clock, add=False):
        waiting.append((branch, images, labels, clock))
        return {f"sup{branch}": 0.0, "loss": 0.0}

    def then(self, branch, terms, add=False):
        values = learn(self, branch, terms, False)
        for number, *rest in [entry for entry in waiting if entry[0] == branch]:
            monkeypatch.setattr(cpcl, "learn", learn)
            late = learn_labelled(self, number, *rest, add=True)
            monkeypatch.setattr(cpcl, "learn", then)
            values |= {f"sup{number}": late[f"sup{number}"], "loss": values["loss"] + late["loss"]}
        waiting[:] = [entry for entry in waiting if entry[0] != branch]
        return values

    monkeypatch.setattr(cpcl, "learn_labelled", later)
    monkeypatch.setattr(cpcl, "learn", then)


def statistics_of_all_passes(framework: Framework, monkeypatch) -> None:
    """Plain CPS lets the passes that only give labels move the running statistics a second time."""
    from contextlib import nullcontext

    monkeypatch.setattr(framework.module("methods.cpcl.cps"), "unmoved_statistics", nullcontext)


LOOP = "train_loop_tiny"
RULES = {
    "tie": ("step/voc_tie.npz", wrong_disagreement(first_wins=tie_to_the_first), "label_union"),
    "winner": ("step/voc_random.npz", wrong_disagreement(first_wins=lower_wins), "weight_union"),
    "identity": ("step/city_ohem.npz", no_artificial_agreement, "w"),
    "divisor": ("step/voc_random.npz", mean_over_agreeing_pixels, "loss_inter"),
    "class weights": ("ohem/weighted.npz", unweighted_classes, "loss"),
    "OHEM": ("ohem/kth_decides.npz", ohem_below_threshold, "kept_target"),
    "weight decay": (f"{LOOP}/cpcl_voc.npz", all_parameters_decay, "after__branch1.classifier.bias"),
    "order of the passes": (f"{LOOP}/cpcl_city.npz", labelled_images_last, "after__branch1.head.1.running_mean"),
    "BatchNorm momentum": (
        f"{LOOP}/cps_cutmix_voc.npz", other_batch_norm_momentum, "after__branch2.backbone.1.running_var",
    ),
    "statistics of plain CPS": (f"{LOOP}/cps_voc.npz", statistics_of_all_passes, "after__branch2.head.1.running_mean"),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_turns_the_check_red(rule: str, framework: Framework, monkeypatch) -> None:
    """The quantity that the rule decides differs; that it agrees otherwise is what ``test_goldens.py`` shows."""
    file, broken, quantity = RULES[rule]
    if broken is other_batch_norm_momentum:
        module = __import__(f"tests.goldens.cpcl.mini_{framework.name}", fromlist=["batch_norm"])
        broken(framework, monkeypatch)
        monkeypatch.setattr(module, "batch_norm", framework.module("networks.layers").batch_norm)
    else:
        broken(framework, monkeypatch)
    assert quantity in differing(FILES / file, framework)


def black_everywhere(monkeypatch) -> None:
    """Padding with the mean colour where the authors pad with black."""
    monkeypatch.setattr(cpcl_data, "Slide", lambda **settings: Slide(**{**settings, "larger_pad": "mean"}))


def test_another_padding_turns_the_check_red(monkeypatch) -> None:
    """An image that is larger than the window in one direction only."""
    black_everywhere(monkeypatch)
    assert "score_sum" in differing(FILES / "slide" / "windows_pad_height.npz", load_framework("torch"))


CHANGED = {
    "augment/one_row_short": "out_image",
    "augment/crop_flip": "out_label",
    "cutmix/authors_rect": "masks",
    "metric/city_two_absent": "hist",
    "slide/multi_scale_flip": "score_sum",
    "cps/plain_voc": "grad_sup_2",
    "step/legacy2022_voc": "conf_1",
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_number_turns_the_check_red(name: str, tmp_path) -> None:
    """One entry of one output, in a copy under another name of the same kind, is found."""
    quantity, source = CHANGED[name], FILES / f"{name}.npz"
    path = tmp_path / "cpcl" / f"{name}_other.npz"
    framework = load_framework("torch") if name.split("/")[0] in ("slide", "cps", "step") else None
    assert differing(save_changed(source, path, None), framework) == []
    assert quantity in differing(save_changed(source, path, quantity), framework)


def test_what_float32_turns_decides_the_gates_of_a_deep_step(tmp_path) -> None:
    """Labels that differ from float64's move the mean over the few pixels of agreement; without that run nothing is given."""
    source = FILES / "train_step" / "cpcl_city_r50.npz"
    golden = Golden(source)
    agreeing = golden["overlap"][0] * golden["ps_label_1"][0].size
    assert cpcl_steps.float32_noise(golden, "loss_unsup_inter") == pytest.approx(1 / agreeing)
    assert cpcl_steps.float32_noise(golden, "loss") < cpcl_steps.DEEP
    kept = {name: array for name, array in golden.arrays.items() if not name.startswith("f64_")}
    np.savez(tmp_path / "alone.npz", **kept)
    assert cpcl_steps.float32_noise(Golden(tmp_path / "alone.npz"), "loss_unsup_inter") == 0
