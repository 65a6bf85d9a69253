"""Golden kinds of USRN's losses: ``entropy``, ``step_*`` (pseudo-labels, gate, losses and gradients of given logits)."""

from __future__ import annotations

import dataclasses

import numpy as np

from common.arrays import IGNORE
from common.config.schema import CriterionConfig
from common.methods.usrn.subclasses import parent_table
from common.methods.usrn.usrn import USRNSettings
from tests.goldens.frameworks import Framework
from tests.goldens.golden import Check, Golden, close, exact
from tests.goldens.u2pl.losses import zero_for_nan
from tests.goldens.usrn.data import repeats


def entropy(golden: Golden, framework: Framework) -> list[Check]:
    """Normalised entropies and their parts."""
    subclasses, checks = framework.module("methods.usrn.subclasses"), []
    for repeat in repeats(golden, "in_prob"):
        probabilities = framework.constant(golden[f"in_prob_{repeat}"])
        terms = framework.array(subclasses.entropy_terms(probabilities))
        total = framework.array(subclasses.normalised_entropy(probabilities))
        checks.append(close(f"out_terms_{repeat}", terms, golden[f"out_terms_{repeat}"]))
        checks.append(close(f"out_entropy_{repeat}", total, golden[f"out_entropy_{repeat}"]))
    return checks


def settings(golden: Golden) -> USRNSettings:
    """Return our settings with the file's numbers."""
    return USRNSettings(
        threshold=golden.number("hp_threshold"),
        subclass_weight=golden.number("hp_w_sub"),
        unsup_weight=golden.number("hp_w_unsup"),
        sup_weight=golden.number("hp_w_sup"),
        start_epoch=golden.number("hp_start"),
        pooled=golden.number("hp_downsample"),
        subclass_counts=tuple(golden["hp_split"].tolist()),
    )


def step(golden: Golden, framework: Framework) -> list[Check]:
    """All losses and gradients, and everything that the weak view decides."""
    ours, method = settings(golden), framework.module("methods.usrn.usrn")
    labels = [framework.constant(golden[name].astype(np.uint8)) for name in ("in_target", "in_target_sub")]
    semi = golden.number("hp_mode") == "semi" and golden.number("hp_epoch") >= ours.start_epoch
    parents = framework.constant(parent_table(ours.subclass_counts))
    halve = framework.module("resize").halve if ours.pooled else lambda x: x
    weak = [halve(framework.tensor(golden[name])) for name in ("in_logits_w", "in_logits_w_sub")]
    terms = {}

    def total(labelled, labelled_sub, strong, strong_sub):
        terms.update(method.labelled_terms(labelled, labelled_sub, *labels, ours, CriterionConfig()))
        if semi:
            decided = method.pseudo_labels(*weak, parents, ours.threshold)
            terms.update(method.unlabelled_terms((halve(strong), halve(strong_sub)), decided, ours))
        return sum(terms.values()) + 0 * (strong.sum() + strong_sub.sum())

    names = ["logits_l", "logits_l_sub", "logits_s", "logits_s_sub"]
    value, gradients = framework.gradients(total, *(golden[f"in_{name}"] for name in names))
    values = {name: float(framework.array(term)) for name, term in terms.items()}
    checks = losses(golden, ours, values, value)
    for name, gradient in zip(names, gradients):
        checks.append(close(f"grad_{name}", gradient, zero_for_nan(golden[f"grad_{name}"])))
        flows = semi or name.startswith("logits_l")
        checks.append(exact(f"has_grad_{name}", flows, golden[f"has_grad_{name}"]))
    for name in ("logits_w", "logits_w_sub"):
        checks.append(exact(f"has_grad_{name}", False, golden[f"has_grad_{name}"]))
    if semi:
        decided = framework.module("methods.usrn.subclasses").pseudo_labels(*weak, parents, ours.threshold)
        checks += decisions(golden, framework, decided, ours.threshold)
    return checks


def losses(golden: Golden, ours: USRNSettings, values: dict[str, float], total: float) -> list[Check]:
    """Compare the terms as they enter the sum; where the authors have NaN, the term over no pixel is 0."""
    weights = {
        "sup": 1.0,
        "sup_sub": ours.subclass_weight,
        "unsup_sub": ours.subclass_weight * ours.unsup_weight,
        "unsup_reg": ours.unsup_weight,
    }
    expected = {name: w * zero_for_nan(golden[f"out_{name}"]) for name, w in weights.items() if f"out_{name}" in golden}
    return [
        exact("terms", sorted(values), sorted(expected)),
        *(close(f"out_{name}", values[name], value) for name, value in expected.items()),
        close("out_total", total, sum(expected.values())),
        close("out_total (theirs)", total, golden["out_total"] if not np.isnan(golden["out_total"]) else total),
    ]


def decisions(golden: Golden, framework: Framework, decided, threshold: float) -> list[Check]:
    """Compare pseudo-labels, confidences, entropies, gate and masks; for high thresholds the short form of the rule, too."""
    ours = {field.name: framework.array(getattr(decided, field.name)) for field in dataclasses.fields(decided)}
    checks = [
        exact("mid_pseudo_sub", ours["subclass"], golden["mid_pseudo_sub"]),
        close("mid_conf_sub", ours["subclass_confidence"], golden["mid_conf_sub"]),
        exact("mid_mask_sub", ours["kept_subclass"] != IGNORE, golden["mid_mask_sub"]),
        exact("mid_parent_of_pseudo", ours["parent"], golden["mid_parent_of_pseudo"]),
        close("mid_entropy", ours["entropy"], golden["mid_entropy"]),
        close("mid_entropy_sub", ours["subclass_entropy"], golden["mid_entropy_sub"]),
        exact("mid_gate_open", ours["gate_open"], golden["mid_gate_open"]),
        exact("mid_class_mask", ours["class_mask"], golden["mid_class_mask"] > 0),
        exact("mid_pseudo_reg", ours["label"], golden["mid_pseudo_reg"]),
        close("mid_conf_reg", ours["confidence"], golden["mid_conf_reg"]),
        exact("mid_mask_reg", ours["kept_label"] != IGNORE, golden["mid_mask_reg"]),
    ]
    if threshold >= 0.5:
        probabilities = framework.array(framework.softmax(golden["in_logits_w"]))
        if golden.number("hp_downsample"):
            halved = framework.module("resize").halve(framework.tensor(golden["in_logits_w"]))
            probabilities = framework.array(framework.softmax(framework.array(halved)))
        best = probabilities.argmax(1)
        kept = (probabilities.max(1) > threshold) & (ours["gate_open"] | (ours["parent"] == best))
        checks.append(exact("short form of the rule", np.where(kept, best, IGNORE), ours["kept_label"]))
    return checks
