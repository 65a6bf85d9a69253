"""Golden kinds of PCR's prototypes: prediction, pixel selection, loss, k-means, start and upkeep."""

from __future__ import annotations

import numpy as np

from common.methods.pcr.kmeans import class_prototypes, kmeans, seed_centres
from common.methods.pcr.pcr import select_pixels
from tests.goldens.frameworks import Framework
from tests.goldens.golden import Check, Golden, close, exact


def predict(golden: Golden, framework: Framework) -> list[Check]:
    """Logits and winners, with PyTorch's and MindSpore's rule for tiny norms, and the gradient of given ones of the logits."""
    predictor = framework.module("networks.prototype_head").prototype_logits
    prototypes, temperature = framework.constant(golden["prototypes"]), golden.number("temperature")
    rows = pixels_first(golden["features"])
    logits, match = predictor(framework.tensor(rows), prototypes, temperature)
    expected = golden["logits" if "logits" in golden else "logits_torch_rule"]
    checks = [close("logits", framework.array(logits), pixels_first(expected))]
    if "match" in golden:
        checks.append(exact("match", framework.array(match), pixels_first(golden["match"])))
    if "logits_mindspore_rule" in golden:
        other, _ = predictor(framework.tensor(rows), prototypes, temperature, "mindspore")
        expected = pixels_first(golden["logits_mindspore_rule"])
        checks.append(close("logits_mindspore_rule", framework.array(other), expected))
    if "upstream" in golden:
        upstream = framework.tensor(pixels_first(golden["upstream"]))
        _, (gradient,) = framework.gradients(
            lambda features: (predictor(features, prototypes, temperature)[0] * upstream).sum(), rows
        )
        checks.append(close("grad_features", gradient, pixels_first(golden["grad_features"])))
    if golden["features"].ndim == 4:
        checks.append(whole_map(golden, framework))
    return checks


def whole_map(golden: Golden, framework: Framework) -> Check:
    """The form that evaluation uses, at the features' own size, in strips of five rows."""
    prototype_map, size = framework.module("networks.prototype_head").prototype_map, golden["features"].shape[2:]
    prototypes, temperature = framework.constant(golden["prototypes"]), golden.number("temperature")
    dense = prototype_map(framework.tensor(golden["features"]), prototypes, size, temperature, "torch", 5)
    return close("logits of the whole map", framework.array(dense), golden["logits"])


def pixels_first(maps: np.ndarray) -> np.ndarray:
    """Return ``[B*H*W,C]`` of ``[B,C,H,W]``, image by image and row by row; ``[N,C]`` stays."""
    return np.ascontiguousarray(maps.transpose(0, 2, 3, 1).reshape(-1, maps.shape[1])) if maps.ndim == 4 else maps


def patch_select(golden: Golden, framework: Framework) -> list[Check]:
    """The chosen pixels as a mask, with and without a ``keep`` mask, and what is gathered there."""
    prototypes, size = framework.module("methods.pcr.prototypes"), golden["mask"].shape
    draws = golden["row_draws"], golden["col_draws"]
    assert draws[0].shape == draws[1].shape == (golden.number("granularity"),) * 2
    chosen, kept = select_pixels(size, *draws), select_pixels(size, *draws, golden["keep"])
    labels = framework.constant(golden["label"].astype(np.uint8))
    gathered = prototypes.pixel_features(framework.tensor(golden["map"]), chosen, size)
    return [
        exact("side", size[0], golden["side"]),
        exact("mask", as_mask(chosen, size), golden["mask"]),
        exact("mask_with_keep", as_mask(kept, size), golden["mask_with_keep"]),
        close("gathered_map", framework.array(gathered), golden["gathered_map"]),
        exact("gathered_label", framework.array(prototypes.pixel_labels(labels, chosen)), golden["gathered_label"]),
        exact(
            "gathered_label_with_keep",
            framework.array(prototypes.pixel_labels(labels, kept)),
            golden["gathered_label_with_keep"],
        ),
    ]


def as_mask(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return uint8 ``[H,W]``, 1 at flat ``pixels``."""
    mask = np.zeros(size[0] * size[1], np.uint8)
    mask[pixels] = 1
    return mask.reshape(size)


def proto_loss(golden: Golden, framework: Framework) -> list[Check]:
    """Cross entropy of the prototype logits of single pixels, its gradient, and the mean over all pixels."""
    predictor, losses = framework.module("networks.prototype_head").prototype_logits, framework.module("losses")
    pcr, labels = framework.module("methods.pcr.pcr"), framework.constant(golden["label"].astype(np.uint8))
    fixed = framework.constant(golden["prototypes"]), golden.number("temperature")
    loss, (gradient,) = framework.gradients(
        lambda features: losses.cross_entropy(predictor(features, *fixed)[0], labels), golden["features"]
    )
    logits, _ = predictor(framework.tensor(golden["features"]), *fixed)
    over_all = pcr.consistency_loss(logits, labels, "all")
    return [
        close("loss", loss, golden["loss"]),
        close("grad_features", gradient, golden["grad_features"]),
        close("loss_over_all", framework.array(over_all), golden["loss_over_all"]),
    ]


def kmeans_centres(golden: Golden, framework: None) -> list[Check]:
    """k-means++ seeds of recorded draws where there are some, then Lloyd's algorithm."""
    points, checks = golden["points"].astype(np.float64), []
    if "draws" in golden:
        index = seed_centres(points, golden["draws"].astype(np.float64))
        start = points[index]
        first, _, _ = kmeans(points, start, 1)
        checks += [
            exact("seed_index", index, golden["seed_index"]),
            close("seeds", start, golden["seeds"]),
            close("centres_after_1_pass", first, golden["centres_after_1_pass"]),
        ]
    else:
        start = golden["start_centres"]
    centres, assignment, passes = kmeans(points, start, golden.number("max_iter"))
    return [
        *checks,
        close("centres", centres, golden["centres"]),
        exact("assignment", assignment, golden["assignment"]),
        exact("passes", passes, golden["passes"]),
    ]


def init_prototypes(golden: Golden, framework: None) -> list[Check]:
    """First prototypes of every class and the number of its pixels."""
    prototypes, counts = class_prototypes(
        golden["features"], golden["labels"], golden["draws"].astype(np.float64), golden.number("max_iter")
    )
    return [
        close("prototypes", prototypes, golden["prototypes"]),
        exact("class_counts", counts, golden["class_counts"]),
    ]


def update_prototypes(golden: Golden, framework: Framework) -> list[Check]:
    """Sums, counts and new prototypes, of all pixels at once and of two processes' pixels added up."""
    module, shape = framework.module("methods.pcr.prototypes"), golden["prototypes"].shape[:2]
    # A pixel that does not count is one without a label: so the method marks pseudo-labels below the threshold.
    labels = np.where(golden["cond"], golden["labels"], 255).astype(np.uint8)
    match = golden["match"].astype(np.int64)

    def sums_of(part: slice) -> tuple[np.ndarray, np.ndarray]:
        rows = framework.tensor(golden["features"][part])
        result = module.prototype_sums(rows, framework.constant(labels[part]), framework.constant(match[part]), shape)
        return tuple(framework.array(value) for value in result)

    def moved(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        arguments = (framework.constant(value) for value in (golden["prototypes"], sums, counts))
        return framework.array(module.updated_prototypes(*arguments, golden.number("momentum")))

    sums, counts = sums_of(slice(None))
    border = golden.number("first_process_pixels")
    halves = [sums_of(slice(border)), sums_of(slice(border, None))]
    together = [first + second for first, second in zip(*halves)]
    return [
        close("sums", sums, golden["sums"]),
        exact("counts", counts, golden["counts"]),
        close("new_prototypes", moved(sums, counts), golden["new_prototypes"]),
        exact("counts of two processes", together[1], golden["counts"]),
        close("new_prototypes of two processes", moved(*together), golden["new_prototypes"]),
    ]
