"""Golden kinds around CPCL's networks: augmentation, CutMix masks, metric, schedule, sampling, sliding window."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from common.config.schema import OptimizerConfig
from common.evaluation.evaluate import predict
from common.evaluation.metrics import ConfusionMatrix
from common.experiment import compose
from common.loading.sampling import repeated_files
from common.methods.cpcl.augment import CropDraws, FlipScaleCrop
from common.methods.cpcl.collaborative import area_sides, placed_boxes, toggled_mask
from common.methods.interface import Clock
from common.prediction.protocols import Slide
from tests.goldens.cpcl.settings import numbered
from tests.goldens.frameworks import Framework
from tests.goldens.golden import Check, Golden, close, exact


def augment(golden: Golden, framework: None) -> list[Check]:
    """The recorded decisions applied to image and label."""
    top, left = golden["crop_pos"].tolist()
    draws = CropDraws(flip=bool(golden["flip"]), scale=golden.number("scale"), top=top, left=left)
    labels, size = {"label": golden["label"]}, tuple(golden["crop_size"].tolist())
    sample = FlipScaleCrop().apply(golden["image_rgb"], labels, draws, size)
    return [
        close("out_image", sample["image"], golden["out_image"]),
        exact("out_label", sample["label"], golden["out_label"]),
    ]


def cutmix(golden: Golden, framework: None) -> list[Check]:
    """Masks of the recorded draws."""
    size, invert = tuple(golden["shape"].tolist()), bool(golden["invert"])
    sides, places = recorded_sides(golden)
    boxes = placed_boxes(size, sides, places) if golden["within_bounds"] else boxes_anywhere(size, sides, places)
    masks = [toggled_mask(size, mask_boxes, invert) for mask_boxes in boxes]
    return [exact("masks", np.stack(masks)[:, None], golden["masks"] > 0)]


def recorded_sides(golden: Golden) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes' sides as shares of the image ``[n,boxes,2]`` and their places.

    We draw boxes by area with any aspect only. In the generator's other modes both sides of a square are one array, which
    it shrinks twice.
    """
    draws = [golden[f"draw_{index}"] for index in range(3) if f"draw_{index}" in golden]
    share = np.sqrt(1 / golden.number("n_boxes"))
    if not golden["random_aspect_ratio"]:
        side = np.sqrt(draws[0]) if golden["prop_by_area"] else draws[0]
        return np.stack([side, side], -1) * share * share, draws[1]
    sides = area_sides(draws[0], draws[1]) if golden["prop_by_area"] else draws[:2]
    return np.stack(list(sides), -1) * share, draws[2]


def boxes_anywhere(size: tuple[int, int], sides: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return boxes whose centres may lie anywhere, a mode that we do not have: one that begins outside vanishes."""
    shape = np.array(size)
    extent, centre = np.round(sides * shape), np.round(shape * places)
    return np.concatenate([centre - extent * 0.5, centre + extent * 0.5], -1).astype(np.int64)


def metric(golden: Golden, framework: None) -> list[Check]:
    """Counts, IoU of every class and the mean over the classes that occur."""
    counts = ConfusionMatrix(golden.number("num_classes"))
    counts.update(golden["pred"].astype(np.uint8), golden["gt"].astype(np.uint8))
    absent = np.isnan(golden["iou"])
    return [
        exact("hist", counts.matrix, golden["hist"]),
        exact("labeled", counts.truth().sum(), golden["labeled"]),
        exact("correct", counts.intersection().sum(), golden["correct"]),
        exact("absent classes", np.isnan(counts.iou()), absent),
        close("iou", counts.iou()[~absent], golden["iou"][~absent]),
        close("miou", counts.miou("skip"), golden["miou"]),
        close("miou_no_background", counts.miou("skip", first=1), golden["miou_no_background"]),
        close("pixel_accuracy", counts.pixel_accuracy(), golden["pixel_accuracy"]),
    ]


def lr_schedule(golden: Golden, framework: Framework) -> list[Check]:
    """The rate of selected iterations, the same for encoder and heads."""
    checks = []
    shapes = {
        "encoder.conv1.weight": (2, 3, 3, 3), "encoder.conv2.weight": (2, 2, 3, 3),
        "decoder.pred.weight": (2, 2, 1, 1), "decoder.rep.weight": (2, 2, 1, 1),
    }  # fmt: skip
    for index, case in enumerate(golden.document):
        config = OptimizerConfig(
            lr=case["base_lr"], head_lr_times=1, poly_power=case["power"], warmup=case["warmup"], decay_on="kernels"
        )
        optimizer = framework.module("optimizer").Optimizer(framework.mini_net(shapes, lambda *_: None), config)
        total = case["total_iterations"]
        rates = [
            optimizer.rates(Clock(epoch=0, step=i, iteration=i, epochs=1, iterations_per_epoch=total))
            for i in case["iteration"]
        ]
        checks.append(close(f"lr of case {index}", rates, np.array(case["lr"])[:, None].repeat(2, 1)))
    return checks


def repeat_files(golden: Golden, framework: None) -> list[Check]:
    """Which file stands at each place of an epoch's list."""
    return [
        exact(f"case {index}", repeated_files(case["files"], case["length"], case["permutation"] or []), case["result"])
        for index, case in enumerate(golden.document)
    ]


def slide(golden: Golden, framework: Framework) -> list[Check]:
    """Summed logits of all windows, scales and mirror images, and the class ids that the evaluation makes of them."""
    predictor = framework.predictor(framework.stand_in(golden["conv_weight"], golden["conv_bias"], 1))
    size = golden.number("crop_size")
    evaluation = Slide(
        size=size, stride=math.ceil(size * golden.number("stride_rate")), accumulate="sum_logits",
        scales=tuple(golden["scales"].tolist()), flip=bool(golden["flip"]), larger_pad="black",
    )  # fmt: skip
    config = dataclasses.replace(numbered(compose("shapes/12/cpcl"), predictor.classes), evaluation=evaluation)
    image, expected = golden["image_rgb"], golden["score_sum"]
    second, best = np.sort(expected, axis=2)[..., -2:].transpose(2, 0, 1)
    decided = best - second > 1e-5 * np.abs(expected).max()
    total = evaluation.summed_logits(predictor, image, config.normalisation)
    return [
        close("score_sum", total.transpose(1, 2, 0), expected),
        exact("pred", predict(predictor, image, config)[decided], golden["pred"][decided]),
    ]
