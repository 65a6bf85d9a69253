"""Golden kinds around PCR's network: CutMix, schedules, resizing, sliding window, metric."""

from __future__ import annotations

import math

import numpy as np

from common.arrays import Box
from common.errors import UserError
from common.evaluation.metrics import ConfusionMatrix
from common.images.mixing import box_mask, half_area_box
from common.images.resize import resize_bilinear
from common.methods.interface import Clock
from common.methods.pcr.pcr import PCRSettings
from common.prediction.protocols import Slide
from common.prediction.sliding import windows
from common.training.schedules import poly
from tests.goldens.frameworks import Framework
from tests.goldens.golden import Check, Golden, close, exact
from tests.goldens.u2pl.data import class_ids
from tests.oracles.distributed_epoch import distributed_epoch


def cutmix_box(golden: Golden, framework: None) -> list[Check]:
    """Boxes of recorded draws, as first and last row, first and last column."""
    draws = zip(*(golden[name].tolist() for name in ("height", "width", "box_w", "x_start", "y_start")))
    boxes = [half_area_box((height, width), box_width, left, top) for height, width, box_width, left, top in draws]
    return [exact("box", [(top, bottom, left, right) for top, left, bottom, right in boxes], golden["box"])]


def masks_of(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return masks bool ``[B,H,W]`` of boxes (first and last row, first and last column), true = keep."""
    return np.stack([box_mask(size, Box(top, left, bottom, right)) for top, bottom, left, right in boxes.tolist()])


def cutmix(golden: Golden, framework: Framework) -> list[Check]:
    """Images, labels and confidences after mixing: copies, so they must agree to the bit."""
    mix = framework.module("methods.pcr.pcr").mix
    masks = framework.constant(masks_of(golden["boxes"], golden["labels"].shape[1:]))
    return [
        exact(
            f"mixed_{name}",
            framework.array(mix(framework.constant(golden[name]), masks, "partner")),
            golden[f"mixed_{name}"],
        )
        for name in ("images", "labels", "confidences")
    ]


def schedules(golden: Golden, framework: None) -> list[Check]:
    """Decay of the teacher, learning rate, and the epoch's length with several processes."""
    settings = PCRSettings(sup_only_epochs=1)
    decays = [
        settings.teacher_decay(
            Clock(epoch=1 + step // 10, step=step % 10, iteration=10 + step, epochs=9999, iterations_per_epoch=10)
        )
        for step in golden["ema_step"].tolist()
    ]
    base, total, power = golden.number("lr_base"), golden.number("lr_total"), golden.number("lr_power")
    epochs = [
        distributed_epoch(images - n, processes, batch)
        for images, n, processes, batch in golden["loader_arguments"].tolist()
    ]
    return [
        close("ema_decay", decays, golden["ema_decay"]),
        close(
            "lr", [poly(base, iteration, total, power) for iteration in golden["lr_iteration"].tolist()], golden["lr"]
        ),
        exact("loader_result", epochs, golden["loader_result"]),
    ]


def resize_align_corners(golden: Golden, framework: Framework) -> list[Check]:
    """The frameworks' bilinear resizing and the one in NumPy."""
    resize, checks = framework.module("resize").resize, []
    for name in golden.arrays:
        if "to_" in name:
            source = golden[name.partition("_to_")[0]] if "_to_" in name else golden["input"]
            size = golden[name].shape[2:]
            checks.append(close(name, framework.array(resize(framework.tensor(source), size)), golden[name]))
            checks.append(close(f"{name} (NumPy)", resize_bilinear(source, size), golden[name]))
    return checks


def miou(golden: Golden, framework: None) -> list[Check]:
    """Pixel counts, IoU and mIoU.

    The authors count a label or prediction equal to the number of classes as the last class (quirk 9). Ours refuses it;
    together with those pixels, counted by hand as they do, the rest must give their numbers.
    """
    classes, truth, prediction = golden.number("num_classes"), golden["target"], golden["output"]
    valid = truth != golden.number("ignore")
    foreign = valid & ((prediction >= classes) | (truth >= classes))
    confusion, checks = ConfusionMatrix(classes), []
    if foreign.any():
        checks.append(exact("a foreign class is refused", refuses(confusion, prediction, truth), True))
    known = valid & ~foreign
    confusion.update(prediction[known], truth[known])
    last = np.arange(classes) == classes - 1
    shared = last * (prediction[foreign] == truth[foreign]).sum()
    predicted, labelled = (
        np.bincount(np.minimum(part[foreign], classes - 1), minlength=classes) for part in (prediction, truth)
    )
    intersection, target_area = confusion.intersection() + shared, confusion.truth() + labelled
    union = confusion.union() + predicted + labelled - shared
    iou = intersection / np.maximum(union, 1)
    checks += [
        exact("intersection", intersection, golden["intersection"]),
        exact("union", union, golden["union"]),
        exact("target_area", target_area, golden["target_area"]),
        close("iou", iou, golden["iou"]),
        close("miou", iou.mean(), golden["miou"]),
    ]
    if not foreign.any():
        checks.append(close("our iou", np.nan_to_num(confusion.iou()), golden["iou"]))
        checks.append(close("our miou", confusion.miou("zero"), golden["miou"]))
    return checks


def refuses(confusion: ConfusionMatrix, prediction: np.ndarray, truth: np.ndarray) -> bool:
    """Whether counting ends with an error and counts nothing."""
    try:
        confusion.update(prediction, truth)
    except (UserError, ValueError):
        return not confusion.matrix.any()
    return False


class ToyPredictor:
    """Logits sum_c weight[k,c] * crop[c, ::4, ::4] + bias[k] * mean(crop), with our convolution and resizing."""

    def __init__(self, golden: Golden, framework: Framework) -> None:
        weight, self.bias = golden["weight"], golden["bias"]
        kernel = np.zeros((*weight.shape, 3, 3), np.float32)
        kernel[:, :, 1, 1] = weight  # padding 1 and stride 4: the centre lies on every fourth pixel
        self.inner = framework.predictor(framework.stand_in(kernel, np.zeros_like(self.bias)))
        self.classes, self.runtime = len(self.bias), self.inner.runtime

    def logits(self, images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return ``[1,K,h,w]`` at ``size``."""
        return (
            self.inner.logits(images, size)
            + (self.bias * images.mean(dtype=np.float64)).astype(np.float32)[:, None, None]
        )

    def class_ids(self, images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return ``[1,h,w]`` at ``size``."""
        return self.logits(images, size).argmax(1).astype(np.uint8)

    def sliding_class_ids(self, image: np.ndarray, layout: list[Box], accumulate: str) -> np.ndarray:
        """Return ``[H,W]`` of averaged windows."""
        return average(self, image, layout)[0].argmax(0).astype(np.uint8)


def sliding(golden: Golden, framework: Framework) -> list[Check]:
    """Averaged logits of all windows, their number, and, for square windows, the class ids of our evaluation."""
    predictor, image, crop = ToyPredictor(golden, framework), golden["image"], golden["crop"].tolist()
    # Rounded, because the rate is stored as float32: 33 * 2/3 must not become 23.
    strides = [math.ceil(round(side * golden.number("stride_rate"), 4)) for side in crop]
    missing = [max(side - length, 0) for side, length in zip(crop, image.shape[2:])]
    margins = [(gap // 2, gap - gap // 2) for gap in missing]
    padded = np.pad(image, [(0, 0), (0, 0), *margins])
    layout = window_layout(padded.shape[2:], crop, strides)
    (top, _), (left, _) = margins
    logits = average(predictor, padded, layout)[:, :, top : top + image.shape[2], left : left + image.shape[3]]
    logits = resize_bilinear(np.ascontiguousarray(logits), tuple(golden["output_size"].tolist()))
    checks = [exact("windows", len(layout), golden["windows"]), close("prediction", logits[0], golden["prediction"])]
    if crop[0] == crop[1] and tuple(golden["output_size"]) == image.shape[2:]:
        evaluation = Slide(size=crop[0], stride=strides[0])
        checks.append(class_ids("class ids", predictor, golden, evaluation, golden["prediction"]))
    return checks


def window_layout(size: tuple[int, int], crop: list[int], strides: list[int]) -> list[Box]:
    """Return our windows; one that is not square takes its rows and columns from two square layouts."""
    rows = windows(size[0], crop[0], crop[0], strides[0], "shift_back")
    columns = windows(crop[1], size[1], crop[1], strides[1], "shift_back")
    return [column._replace(top=row.top, bottom=row.bottom) for row in rows for column in columns]


def average(predictor: ToyPredictor, image: np.ndarray, layout: list[Box]) -> np.ndarray:
    """Return ``[1,K,H,W]`` logits averaged over windows."""
    total, visits = (
        np.zeros((1, predictor.classes, *image.shape[2:]), np.float32),
        np.zeros(image.shape[2:], np.float32),
    )
    for window in layout:
        rows, columns = slice(window.top, window.bottom), slice(window.left, window.right)
        part = np.ascontiguousarray(image[:, :, rows, columns])
        total[:, :, rows, columns] += predictor.logits(part, part.shape[2:])
        visits[rows, columns] += 1
    return total / visits
