"""Golden kinds of PCR's pixel losses: ``ohem``, ``pseudo_label``."""

from __future__ import annotations

import numpy as np

from common.config.schema import CriterionConfig
from tests.goldens.frameworks import Framework
from tests.goldens.golden import Check, Golden, close, exact


def ohem(golden: Golden, framework: Framework) -> list[Check]:
    """Kept pixels, loss and gradient with hard example mining, and plain cross entropy over both numbers of pixels."""
    losses, pcr = framework.module("losses"), framework.module("methods.pcr.pcr")
    criterion = CriterionConfig(type="ohem", thresh=golden.number("thresh"), min_kept=golden.number("min_kept"))
    target = framework.constant(golden["target"].astype(np.uint8))
    kept = losses.ohem_labels(framework.tensor(golden["logits"]), target, criterion.thresh, criterion.min_kept)
    mined, (gradient,) = framework.gradients(
        lambda logits: losses.supervised_loss(criterion, logits, target), golden["logits"]
    )
    plain, (plain_gradient,) = framework.gradients(lambda x: losses.cross_entropy(x, target), golden["logits"])
    over_all = pcr.consistency_loss(framework.tensor(golden["logits"]), target, "all")
    return [
        exact("kept_target", framework.array(kept), golden["kept_target"]),
        close("loss", mined, golden["loss"]),
        close("grad_logits", gradient, golden["grad_logits"]),
        close("plain_cross_entropy", plain, golden["plain_cross_entropy"]),
        close("plain_cross_entropy_over_all", framework.array(over_all), golden["plain_cross_entropy_over_all"]),
        close("plain_grad_logits", plain_gradient, golden["plain_grad_logits"]),
    ]


def pseudo_label(golden: Golden, framework: Framework) -> list[Check]:
    """Confidence and class of the teacher's logits, and what three thresholds leave."""
    confident_labels = framework.module("pseudo_labels").confident_labels
    probabilities = framework.array(framework.softmax(golden["teacher_logits"]))
    label, confidence = probabilities.argmax(1).astype(np.uint8), probabilities.max(1)
    checks = [close("confidence", confidence, golden["confidence"]), exact("label", label, golden["label"])]
    thresholds = {"target": golden.number("threshold"), "target_thresh_0": 0.0, "target_thresh_1_1": 1.1}
    for name, threshold in thresholds.items():
        kept = confident_labels(framework.constant(label), framework.constant(confidence), threshold)
        checks.append(exact(name, framework.array(kept), golden[name]))
    return checks
