"""Golden kinds of one step's losses for given logits: ``step`` (CPCL), ``cps``, ``ohem``."""

from __future__ import annotations

import numpy as np

from common.config.schema import CriterionConfig
from tests.goldens.cpcl.settings import cpcl_settings, criterion
from tests.goldens.frameworks import Framework
from tests.goldens.golden import Check, Golden, close, exact
from tests.goldens.u2pl.losses import zero_for_nan

SCORE = 1e-12
"""Gate of disagreement scores, which are float64."""


def step(golden: Golden, framework: Framework) -> list[Check]:
    """Mixing, pseudo-labels, disagreement, targets, all losses and their gradients."""
    together, settings = framework.module("methods.cpcl.collaborative"), cpcl_settings(golden)
    classes, masks = golden.number("num_classes"), golden["mask"][:, 0] > 0
    predictions = predicted(golden, framework, settings.variant)
    targets = together.targets(*predictions, classes, settings.variant)
    counts = together.joint_counts(*(prediction.label for prediction in predictions), classes)
    checks = [
        exact("mixed_img", mixed_images(golden, framework, masks), golden["mixed_img"]),
        exact("confusion", framework.array(counts) + np.eye(classes, dtype=np.int64), golden["confusion"]),
        close("w", targets.disagreement.scores, zero_for_nan(golden["w"]), SCORE),
        close("overlap", targets.disagreement.overlap, golden["overlap"], SCORE),
        exact("label_inter", framework.array(targets.intersection), golden["label_inter"]),
        exact("label_union", framework.array(targets.union), golden["label_union"]),
        close("weight_union", framework.array(targets.union_weight), golden["weight_union"]),
    ]
    for branch, prediction in enumerate(predictions, start=1):
        confidence = golden[f"conf_{branch}"]
        computed = framework.array(prediction.confidence).reshape(confidence.shape)
        checks.append(exact(f"ps_label_{branch}", framework.array(prediction.label), golden[f"ps_label_{branch}"]))
        checks.append(close(f"conf_{branch}", computed, confidence))
    unsupervised = 0.0
    for branch, name in ((1, "intersection_loss"), (2, "union_loss")):
        loss, (gradient,) = framework.gradients(
            lambda logits: getattr(together, name)(logits, targets, settings),  # noqa: B023 - called at once
            golden[f"stu_logits_{branch}"],
        )
        unsupervised += settings.unsup_weight * loss
        golden_gradient = zero_for_nan(golden[f"grad_stu_{branch}"])
        checks.append(close(f"grad_stu_{branch}", settings.unsup_weight * gradient, golden_gradient))
        checks.append(close(f"loss_{name.partition('_')[0][:5]}", loss, zero_for_nan(golden[loss_name(name)])))
    labelled, total = supervised(golden, framework, criterion(golden, weighted=True))
    checks.append(close("loss_unsup", unsupervised, zero_for_nan(golden["loss_unsup"])))
    return [*checks, *labelled, *whole_loss(golden, total + unsupervised)]


def loss_name(function: str) -> str:
    """Return the golden's name of our loss function."""
    return {"intersection_loss": "loss_inter", "union_loss": "loss_union"}[function]


def predicted(golden: Golden, framework: Framework, variant: str = "head") -> list:
    """Return both branches' predictions on the mixed images."""
    masks = golden["mask"][:, 0] > 0
    return [
        framework.module("methods.cpcl.collaborative").mixed_prediction(
            framework.tensor(golden[f"tea_u0_{branch}"]), framework.tensor(golden[f"tea_u1_{branch}"]),
            framework.constant(masks), masks.shape[1:], variant,
        )
        for branch in (1, 2)
    ]  # fmt: skip


def mixed_images(golden: Golden, framework: Framework, masks: np.ndarray) -> np.ndarray:
    """Return the two unlabelled batches mixed by our function."""
    pair = (framework.constant(golden[name]) for name in ("u0_img", "u1_img"))
    return framework.array(framework.module("mixing").cutmix(*pair, framework.constant(masks)))


def supervised(golden: Golden, framework: Framework, loss: CriterionConfig) -> tuple[list[Check], float]:
    """Compare both branches' supervised losses and gradients, and return their sum."""
    labels, checks, total = framework.constant(golden["gts"].astype(np.uint8)), [], 0.0
    function = framework.module("losses").supervised_loss
    for branch in (1, 2):
        value, (gradient,) = framework.gradients(
            lambda logits: function(loss, logits, labels), golden[f"sup_logits_{branch}"]
        )
        total += value
        checks.append(close(f"loss_sup_{branch}", value, zero_for_nan(golden[f"loss_sup_{branch}"])))
        checks.append(close(f"grad_sup_{branch}", gradient, zero_for_nan(golden[f"grad_sup_{branch}"])))
    return checks, total


def whole_loss(golden: Golden, total: float) -> list[Check]:
    """Compare the sum; where a term of the authors' is NaN there is nothing to compare it with."""
    return [] if np.isnan(golden["loss"]) else [close("loss", total, golden["loss"])]


def cps(golden: Golden, framework: Framework) -> list[Check]:
    """Losses and gradients of CPS, with CutMix where the file has a mask."""
    return cps_cutmix(golden, framework) if "mask" in golden else cps_plain(golden, framework)


def cps_cutmix(golden: Golden, framework: Framework) -> list[Check]:
    """Each branch learns the other's label of the mixed images."""
    weight, cross_entropy = golden.number("cps_weight"), framework.module("losses").cross_entropy
    labels = {branch: prediction.label for branch, prediction in enumerate(predicted(golden, framework), start=1)}
    checks, mutual = [], 0.0
    for branch in (1, 2):
        loss, (gradient,) = framework.gradients(
            lambda logits: weight * cross_entropy(logits, labels[3 - branch]),  # noqa: B023 - called at once
            golden[f"unsup_logits_{branch}"],
        )
        mutual += loss
        checks.append(exact(f"ps_label_{branch}", framework.array(labels[branch]), golden[f"ps_label_{branch}"]))
        checks.append(close(f"grad_unsup_{branch}", gradient, golden[f"grad_unsup_{branch}"]))
    labelled, total = supervised(golden, framework, criterion(golden, weighted=False))
    return [*checks, close("loss_cps_weighted", mutual, golden["loss_cps_weighted"]), *labelled,
            *whole_loss(golden, total + mutual)]  # fmt: skip


def cps_plain(golden: Golden, framework: Framework) -> list[Check]:
    """Each branch learns the other's label of both batches, as one mean over all their pixels."""
    weight, losses = golden.number("cps_weight"), framework.module("losses")
    loss, size = criterion(golden, weighted=False), golden["gts"].shape[1:]
    truth = framework.constant(golden["gts"].astype(np.uint8))
    class_ids = framework.module("methods.cpcl.collaborative").class_ids
    views = ("sup", "unsup")
    labels = {
        (branch, view): class_ids(framework.tensor(golden[f"{view}_logits_{branch}"]), size)
        for branch in (1, 2)
        for view in views
    }
    count = sum(len(golden[f"{view}_logits_1"]) for view in views)
    checks, mutual, total = [], 0.0, 0.0
    for branch in (1, 2):
        both = np.concatenate([framework.array(labels[branch, view]) for view in views])
        checks.append(exact(f"max_{branch}", both, golden[f"max_{branch}"]))
        for view in views:
            logits = golden[f"{view}_logits_{branch}"]
            value, (gradient,) = framework.gradients(
                lambda z: losses.cross_entropy(z, labels[3 - branch, view]),  # noqa: B023 - called at once
                logits,
            )
            share = weight * len(logits) / count
            mutual, gradient = mutual + share * value, share * gradient
            if view == "sup":
                value, (labelled,) = framework.gradients(lambda z: losses.supervised_loss(loss, z, truth), logits)
                total, gradient = total + value, gradient + labelled
                checks.append(close(f"loss_sup_{branch}", value, golden[f"loss_sup_{branch}"]))
            checks.append(close(f"grad_{view}_{branch}", gradient, golden[f"grad_{view}_{branch}"]))
    return [*checks, close("loss_cps_weighted", mutual, golden["loss_cps_weighted"]),
            *whole_loss(golden, total + mutual)]  # fmt: skip


def ohem(golden: Golden, framework: Framework) -> list[Check]:
    """Which pixels are kept, the class-weighted loss of these and its gradient."""
    loss = CriterionConfig(
        type="ohem", thresh=golden.number("thresh"), min_kept=golden.number("min_kept"),
        class_weights=tuple(golden["class_weight"].tolist()),
    )  # fmt: skip
    losses, target = framework.module("losses"), framework.constant(golden["target"].astype(np.uint8))
    kept = losses.ohem_labels(framework.tensor(golden["logits"]), target, loss.thresh, loss.min_kept)
    value, (gradient,) = framework.gradients(lambda z: losses.supervised_loss(loss, z, target), golden["logits"])
    return [
        exact("kept_target", framework.array(kept), golden["kept_target"]),
        close("loss", value, zero_for_nan(golden["loss"])),
        close("grad", gradient, zero_for_nan(golden["grad"])),
    ]
