"""Golden kinds of UCCL's losses: ``ckr_region``, ``ckr_loss``, ``sbu``, ``ohem``."""

from __future__ import annotations

import numpy as np

from common.config.schema import CriterionConfig
from tests.goldens.frameworks import Framework
from tests.goldens.golden import Check, Golden, close, exact
from tests.goldens.u2pl.losses import zero_for_nan

IGNORE = 255


def ckr_region(golden: Golden, framework: Framework) -> list[Check]:
    """The map of class means, put together from its parts, and the gradients of its product with ``upstream``."""
    ckr, feature, ignored = framework.module("methods.uccl.ckr_sbu"), golden["feature"], golden["ignore"] == IGNORE
    label, upstream = golden["weak_logits"].argmax(1), golden["upstream"]

    def means(features, logits):
        return ckr.class_means(features, ckr.position_weights(logits, framework.constant(ignored))[0])

    class_means = framework.array(means(framework.tensor(feature), framework.tensor(golden["weak_logits"])))
    rows = framework.array(ckr.scrambled_rows(framework.tensor(feature)))
    region = region_map(class_means, rows, label, ignored)
    of_means, of_rows = region_gradient(upstream, class_means, label, ignored)

    def product(features, logits):
        total = (means(features, logits) * framework.tensor(of_means)).sum()
        return total + (ckr.scrambled_rows(features) * framework.tensor(of_rows)).sum()

    loss, gradients = framework.gradients(product, feature, golden["weak_logits"])
    return [
        close("region", region, golden["region"]),
        close("sum of region and upstream", loss, (golden["region"] * upstream).sum(dtype=np.float64)),
        close("d_feature", gradients[0], golden["d_feature"]),
        close("d_weak_logits", gradients[1], golden["d_weak_logits"]),
    ]


def region_map(means: np.ndarray, rows: np.ndarray, label: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Return ``[B,C,h,w]``: the class mean ``[B,K,C]`` of each pixel, the row ``[B,P,C]`` of an ignored one."""
    flat = np.take_along_axis(means, label.reshape(len(label), -1, 1), 1)
    flat = np.where(ignored.reshape(len(label), -1, 1), rows, flat)
    return flat.transpose(0, 2, 1).reshape(len(label), -1, *label.shape[1:])


def region_gradient(
    upstream: np.ndarray, means: np.ndarray, label: np.ndarray, ignored: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients ``[B,K,C]`` and ``[B,P,C]`` that ``upstream`` of the map means for class means and rows."""
    flat = upstream.reshape(*upstream.shape[:2], -1).transpose(0, 2, 1)
    ignored, label = (values.reshape(len(values), -1) for values in (ignored, label))
    of_means = np.zeros_like(means)
    for image in range(len(means)):
        np.add.at(of_means[image], label[image][~ignored[image]], flat[image][~ignored[image]])
    return of_means, flat * ignored[..., None]


def ckr_loss(golden: Golden, framework: Framework) -> list[Check]:
    """The loss of one view, its gradients, and the map's cosine."""
    ckr, ignored = framework.module("methods.uccl.ckr_sbu"), golden["ignore"] == IGNORE
    weak, mask = framework.tensor(golden["feature_weak"]), framework.constant(ignored)
    loss, gradients = framework.gradients(
        lambda strong, logits: ckr.class_knowledge(weak, strong, logits, mask, "rows"),
        golden["feature_strong"],
        golden["weak_logits"],
    )
    weights, _ = ckr.position_weights(framework.tensor(golden["weak_logits"]), mask)
    label, maps = golden["weak_logits"].argmax(1), {}
    for view in ("weak", "strong"):
        feature = framework.tensor(golden[f"feature_{view}"])
        means, rows = (
            framework.array(value) for value in (ckr.class_means(feature, weights), ckr.scrambled_rows(feature))
        )
        maps[view] = region_map(means, rows, label, ignored)
    cosine = framework.array(ckr.cosine(*(framework.tensor(values) for values in maps.values()), 1))
    return [
        close("loss", loss, golden["loss"]),
        close("d_feature_strong", gradients[0], golden["d_feature_strong"]),
        close("d_weak_logits", gradients[1], golden["d_weak_logits"]),
        *(close(f"region_{view}", values, golden[f"region_{view}"]) for view, values in maps.items()),
        close("cosine", cosine, golden["cosine"]),
    ]


def sbu(golden: Golden, framework: Framework) -> list[Check]:
    """The loss of one view and its gradients, from a similarity or from features."""
    ckr, ignored = framework.module("methods.uccl.ckr_sbu"), framework.constant(golden["ignore"] == IGNORE)
    weak_logits, threshold = framework.tensor(golden["weak_logits"]), golden.number("conf_thresh")
    name = "similarity" if "d_similarity" in golden else "feature_strong"

    def similarity(values):
        return values if name == "similarity" else ckr.cosine(framework.tensor(golden["feature_weak"]), values, 1)

    loss, gradients = framework.gradients(
        lambda values, logits: ckr.semantic_update(similarity(values), weak_logits, logits, ignored, threshold, "all"),
        golden[name],
        golden["strong_logits"],
    )
    checks = [
        close("loss", loss, golden["loss"]),
        close(f"d_{name}", gradients[0], golden[f"d_{name}"]),
        close("d_strong_logits", gradients[1], golden["d_strong_logits"]),
    ]
    if name != "similarity":
        similarities = framework.array(similarity(framework.tensor(golden[name])))
        checks.append(close("similarity", similarities, golden["similarity"]))
    if "uncertain_fraction" in golden:
        confidence, _ = framework.module("pseudo_labels").certainty(weak_logits)
        uncertain = (framework.array(confidence) <= np.float32(threshold)) & (golden["ignore"] != IGNORE)
        checks.append(close("uncertain_fraction", uncertain.mean(), golden["uncertain_fraction"]))
        has_gradient = any(gradient.any() for gradient in gradients)
        checks.append(exact("has_gradient", has_gradient, golden["has_gradient"]))
    return checks


def ohem(golden: Golden, framework: Framework) -> list[Check]:
    """Loss and gradient with hard examples; 0 where nothing is labelled."""
    criterion = CriterionConfig(
        type="ohem", thresh=golden.number("thresh"), min_kept=golden.number("min_kept"), aux_weight=0.0
    )
    label = golden["target"].copy()
    label[label == golden.number("ignore_index")] = IGNORE
    losses, label = framework.module("losses"), framework.constant(label)
    loss, (gradient,) = framework.gradients(
        lambda logits: losses.supervised_loss(criterion, logits, label), golden["pred"]
    )
    return [
        close("loss", loss, zero_for_nan(golden["loss"])),
        close("d_pred", gradient, zero_for_nan(golden["d_pred"])),
    ]
