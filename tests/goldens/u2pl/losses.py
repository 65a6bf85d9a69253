"""Golden kinds of U2PL's pixel losses: ``unsup_loss``, ``ohem``, ``ce``, ``onehot_rce``."""

from __future__ import annotations

import numpy as np

from common.config.schema import CriterionConfig
from tests.goldens.frameworks import Framework
from tests.goldens.golden import Check, Golden, close, exact

IGNORE = 255


def unsup_loss(golden: Golden, framework: Framework) -> list[Check]:
    """Dropped pixels, threshold, weight, loss and gradient of the unsupervised loss."""
    pseudo = framework.module("pseudo_labels")
    probabilities = framework.softmax(golden["pred_teacher"])
    target = framework.constant(golden["target_in"].astype(np.uint8))
    kept, threshold = pseudo.drop_unreliable(pseudo.entropy(probabilities), target, golden.number("percent"))
    loss, (gradient,) = framework.gradients(lambda logits: pseudo.unsupervised_loss(logits, kept), golden["predict"])
    labels = framework.array(kept)
    number = int((labels != IGNORE).sum())
    checks = [
        exact("target_out", labels, golden["target_out"]),
        exact("n_kept", number, golden["n_kept"]),
        close("loss", loss, zero_for_nan(golden["loss"])),
        close("grad_predict", gradient, zero_for_nan(golden["grad_predict"])),
    ]
    if number:
        checks.append(close("weight", labels.size / number, golden["weight"]))
    if threshold is not None:
        checks.append(close("threshold", threshold, golden["threshold"]))
    return checks


def ohem(golden: Golden, framework: Framework) -> list[Check]:
    """Loss, gradients and number of kept pixels of both heads with online hard example mining."""
    criterion = CriterionConfig(
        type="ohem",
        thresh=golden.number("thresh"),
        min_kept=golden.number("min_kept"),
        aux_weight=golden.number("aux_weight"),
    )
    losses = framework.module("losses")
    label = framework.constant(golden["label"].astype(np.uint8))
    checks = supervised(golden, framework, criterion)
    kept = []
    for part in ("main", "aux"):
        scores = framework.tensor(golden[part])
        mined = losses.ohem_labels(scores, label, criterion.thresh, criterion.min_kept)
        kept.append(int((framework.array(mined) != IGNORE).sum()))
        loss = float(framework.array(losses.supervised_loss(criterion, scores, label)))
        checks.append(close(f"loss_{part}", loss, zero_for_nan(golden[f"loss_{part}"])))
    return [*checks, exact("kept_main_aux", kept, golden["kept_main_aux"])]


def ce(golden: Golden, framework: Framework) -> list[Check]:
    """Loss and gradients of plain cross entropy, with or without an auxiliary head (weight 0: there is none)."""
    return supervised(golden, framework, CriterionConfig(type="ce", aux_weight=golden.number("aux_weight")))


def supervised(golden: Golden, framework: Framework, criterion: CriterionConfig) -> list[Check]:
    """``loss``, ``grad_main`` and ``grad_aux`` of ``supervised_loss``."""
    losses = framework.module("losses")
    label = framework.constant(golden["label"].astype(np.uint8))
    parts = ["main", "aux"] if golden["grad_aux"].size else ["main"]
    loss, gradients = framework.gradients(
        lambda *scores: losses.supervised_loss(criterion, scores[0], label, *scores[1:]),
        *(golden[part] for part in parts),
    )
    checks = [close("loss", loss, zero_for_nan(golden["loss"]))]
    return checks + [
        close(f"grad_{part}", gradient, zero_for_nan(golden[f"grad_{part}"]))
        for part, gradient in zip(parts, gradients)
    ]


def onehot_rce(golden: Golden, framework: Framework) -> list[Check]:
    """The authors' class maps at both sizes, and the reverse cross entropy with its gradient."""
    contrastive, losses = framework.module("methods.u2pl.contrastive"), framework.module("losses")
    label = framework.constant(golden["label"].astype(np.uint8))
    classes = golden["onehot"].shape[1]
    small = framework.module("resize").nearest_floor(label, golden["onehot_small"].shape[2:])
    loss, (gradient,) = framework.gradients(
        lambda logits: losses.reverse_cross_entropy(logits, label), golden["predict"]
    )
    return [
        exact("onehot", framework.array(contrastive.label_maps(label, classes, "union_first")), golden["onehot"] > 0),
        exact(
            "onehot_small",
            framework.array(contrastive.label_maps(small, classes, "union_first")),
            golden["onehot_small"] > 0,
        ),
        close("rce", loss, zero_for_nan(golden["rce"])),
        close("grad_predict", gradient, zero_for_nan(golden["grad_predict"])),
    ]


def zero_for_nan(golden: np.ndarray) -> np.ndarray:
    """What we return where the authors' program gives NaN: 0 for a loss over no pixel."""
    return np.where(np.isnan(golden), np.zeros_like(golden), golden)
