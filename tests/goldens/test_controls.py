"""Negative controls: one rule broken on purpose, or one number of a file changed, turns the check red."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from common.methods import u2pl as settings
from tests.goldens import u2pl_settings, u2pl_steps
from tests.goldens.frameworks import FRAMEWORKS, Framework, installed, load_framework
from tests.goldens.golden import Check, Golden, close, exact
from tests.goldens.kinds import NEUTRAL, find_kind
from tests.goldens.kinds_u2pl import KINDS

FILES = Path(__file__).parent / "u2pl"
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=FRAMEWORKS)
def framework(request) -> Framework:
    """Each installed framework; cases that ran with the right rules, or ran with a broken one, are forgotten."""
    if not installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    u2pl_steps.run_case.cache_clear()
    yield load_framework(request.param)
    u2pl_steps.run_case.cache_clear()


def differing(path: Path, framework: Framework | None) -> list[str]:
    """Return the quantities of a file that do not agree."""
    checks = find_kind(path.stem, KINDS).check(Golden(path), framework)
    return [check.quantity for check in checks if not check.passed]


def lower_percentile(framework: Framework, monkeypatch) -> None:
    """The lower neighbour instead of the interpolated percentile."""

    def percentile(values, percent: float) -> float:
        ordered = np.sort(framework.array(values))
        return float(ordered[int(percent / 100 * (len(ordered) - 1))])

    monkeypatch.setattr(framework.module("methods.u2pl"), "percentile", percentile)


def preset(key: str, value: str) -> Callable:
    """Another value of one switch of the preset ``authors``."""
    return lambda framework, monkeypatch: monkeypatch.setitem(settings.PRESETS["authors"], key, value)


def teacher_copied_once(framework: Framework, monkeypatch) -> None:
    """The teacher is copied at the first semi-supervised step and then averaged, instead of tied for an epoch."""
    method = u2pl_settings.method
    monkeypatch.setattr(
        u2pl_settings, "method", lambda document: dataclasses.replace(method(document), ema_first_epoch="copy_once")
    )


def other_batch_norm_momentum(framework: Framework, monkeypatch) -> None:
    """The share of the old running statistics taken for that of the new ones."""
    if framework.name == "torch":
        from torch.nn import BatchNorm2d

        momentum = 0.9
    else:
        from mindspore.nn import BatchNorm2d

        momentum = 0.1
    monkeypatch.setattr(framework.module("layers"), "batch_norm", partial(BatchNorm2d, momentum=momentum))


def half_pixel_resize(module: str) -> Callable:
    """Resizing without aligned corners."""

    def broken(framework: Framework, monkeypatch) -> None:
        if framework.name == "torch":
            from torch.nn.functional import interpolate
        else:
            from mindspore.ops import interpolate

        def resize(x, size):
            return interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)

        monkeypatch.setattr(framework.module(module), "resize", resize)

    return broken


def ohem_below_threshold(framework: Framework, monkeypatch) -> None:
    """Pixels at the threshold itself go: one kept pixel less where the threshold is a pixel's probability."""
    losses = framework.module("losses")
    ohem_labels = losses.ohem_labels
    monkeypatch.setattr(losses, "ohem_labels", lambda s, labels, thresh, kept: ohem_labels(s, labels, thresh, kept - 1))


RULES = {
    "percentile": ("unsup_loss_a.npz", lower_percentile, "threshold"),
    "one-hot maps": ("train_step_voc_2.npz", preset("label_encoding", "onehot"), "onehot_l_small, onehot_u_small"),
    "class pairing": ("contra_b_missing_classes.npz", preset("class_pairing", "class"), "loss"),
    "negatives": ("contra_a_all_classes.npz", preset("negatives", "paper"), "new_keys"),
    "anchor entropy": ("train_step_city_1.npz", preset("anchor_entropy", "reliable"), "low_mask"),
    "positive": ("contra_d_queue_full.npz", preset("positive", "anchors"), "prototypes"),
    "tied teacher": ("train_step_voc_3.npz", teacher_copied_once, "after/teacher/decoder.pred.weight"),
    "BatchNorm momentum": ("train_step_voc_0.npz", other_batch_norm_momentum, "after/student/encoder.bn1.running_mean"),
    "resize in a step": ("train_step_city_0.npz", half_pixel_resize("methods.u2pl"), "sup_loss"),
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
    quantity = CHANGED[name]
    arrays = dict(Golden(FILES / f"{name}.npz").arrays)
    changed = arrays[quantity].copy()
    changed.flat[changed.size // 2] += changed.dtype.type(1)
    kind = name.rpartition("_a")[0] or "transform"
    path = tmp_path / f"{kind}_other_suffix.npz"
    np.savez(path, **arrays)
    framework = None if find_kind(name, KINDS).frameworks == NEUTRAL else load_framework("torch")
    assert differing(path, framework) == []
    np.savez(path, **arrays | {quantity: changed})
    assert quantity in differing(path, framework)


def test_a_renamed_entry_of_a_manifest_is_found(tmp_path) -> None:
    """A name that we do not have and one that we have too many."""
    document = Golden(FILES / "manifest_voc_semi_r50.json").document
    document["state_dict"]["decoder.tail.weight"] = document["state_dict"].pop("decoder.classifier.8.weight")
    path = tmp_path / "manifest_voc_semi_r50.json"
    path.write_text(json.dumps(document))
    found = differing(path, load_framework("torch"))
    assert {"names without a counterpart", "names we lack or have too many"} <= set(found)


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


def run_pytest(folder: Path, method: str) -> subprocess.CompletedProcess:
    """Run the golden tests of ``folder`` in a process of their own."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/goldens/test_goldens.py"]
    return subprocess.run([*command, "--goldens", folder, "-k", method], cwd=ROOT, capture_output=True, text=True)


def test_a_file_of_an_unknown_kind_fails(tmp_path) -> None:
    """It stands beside a known kind under another suffix, one that is still pending, and a description."""
    folder = tmp_path / "u2pl"
    folder.mkdir()
    (folder / "metric_hidden.npz").write_bytes((FILES / "metric_a.npz").read_bytes())
    (folder / "README.md").write_text("not a golden file")
    np.savez(folder / "ael_something_a.npz", a=1)
    assert run_pytest(tmp_path, "u2pl").returncode == 0
    np.savez(folder / "new_loss_a.npz", a=1)
    outcome = run_pytest(tmp_path, "u2pl")
    assert outcome.returncode == 1
    assert "1 failed, 1 passed, 2 skipped" in outcome.stdout
    assert "unknown kind" in outcome.stdout and "new_loss_a" in outcome.stdout


def test_a_method_without_kinds_fails(tmp_path) -> None:
    """Every file of a folder that has no table of kinds fails."""
    folder = tmp_path / "nonesuch"
    folder.mkdir()
    np.savez(folder / "metric_a.npz", a=1)
    np.savez(folder / "metric_b.npz", a=1)
    outcome = run_pytest(tmp_path, "nonesuch")
    assert outcome.returncode == 1
    assert "2 failed" in outcome.stdout and "unknown kind" in outcome.stdout


def test_a_folder_without_goldens_is_an_error(tmp_path) -> None:
    """A wrong path does not pass silently."""
    outcome = run_pytest(tmp_path / "wrong", "u2pl")
    assert outcome.returncode not in (0, 1)
    assert "holds no folder of golden files" in outcome.stdout + outcome.stderr


def test_comparisons() -> None:
    """NaN and another shape never agree; the difference is relative to the largest golden entry."""
    assert not close("x", [np.nan], [0.0]).passed
    assert not close("x", [1.0, 1.0], [1.0]).passed
    assert not exact("x", [1, 1], [1]).passed
    assert close("x", [10.0, 1.0], [10.0, 2.0]).difference == pytest.approx(0.1)
    assert exact("x", [1, 2, 3], [1, 0, 0]) == Check("x", 2.0, 0.0)
