"""Golden kinds around the network: ``mix_*``, ``transform``, ``metric``, ``lr_poly``, ``sliding``."""

from __future__ import annotations

import dataclasses

import numpy as np

from common.config.schema import OptimizerConfig
from common.evaluation.evaluate import predict
from common.evaluation.metrics import ConfusionMatrix
from common.experiment import compose
from common.images.geometry import center_crop, pad_to
from common.images.mixing import box_mask, class_mask, half_area_box
from common.images.resize import resize_bilinear
from common.methods.interface import Clock
from common.methods.weak_crop import WeakCrop
from common.prediction.protocols import EvaluationProtocol, Slide, Whole
from common.prediction.sliding import windows
from tests.goldens.frameworks import Framework
from tests.goldens.golden import Check, Golden, close, exact

IGNORE = 255
PAD_LABEL = 0
"""What the authors' padding counts as."""


class RecordedNumbers:
    """Stands for a NumPy generator and gives recorded numbers in their order."""

    def __init__(self, uniform=(), integers=(), choice=()) -> None:
        self._uniform, self._integers, self._choice = iter(uniform), iter(integers), choice

    def random(self) -> float:
        """The next recorded number of [0, 1)."""
        return float(next(self._uniform))

    def integers(self, low: int, high: int) -> int:
        """The next recorded integer; IndexError outside ``low..high-1``."""
        value = int(next(self._integers))
        if not low <= value < high:
            raise IndexError(f"the recorded draw {value} lies outside {low}..{high - 1}")
        return value

    def choice(self, values: np.ndarray, size: int, replace: bool) -> np.ndarray:
        """The recorded choice; IndexError where another number of values is asked for or one is not there."""
        if replace or size != len(self._choice) or not np.isin(self._choice, values).all():
            raise IndexError(f"{size} of {values} asked for, but {self._choice} recorded")
        return self._choice


def mix_cutmix(golden: Golden, framework: Framework) -> list[Check]:
    """CutMix: boxes and masks of the recorded draws, and the mixed batch."""
    boxes, masks = recorded_boxes(golden)
    checks = [exact("box_y0x0y1x1", boxes, golden["box_y0x0y1x1"]), exact("mask", masks, golden["mask"] > 0)]
    return checks + mixed(golden, framework, masks, "partner", "partner")


def mix_cutout(golden: Golden, framework: Framework) -> list[Check]:
    """CutOut: image and confidence 0, label 255 inside the boxes."""
    boxes, masks = recorded_boxes(golden)
    checks = [exact("box_y0x0y1x1", boxes, golden["box_y0x0y1x1"]), exact("mask", masks, golden["mask"] > 0)]
    return checks + mixed(golden, framework, masks, 0.0, IGNORE)


def mix_classmix(golden: Golden, framework: Framework) -> list[Check]:
    """ClassMix: masks of the recorded classes, and the mixed batch."""
    labels = golden["target_in"].astype(np.uint8)
    chosen = [RecordedNumbers(choice=golden[f"chosen_{index}"]) for index in range(len(labels))]
    masks = np.stack([class_mask(label, rng) for label, rng in zip(labels, chosen)])
    return [exact("mask", masks, golden["mask"] > 0)] + mixed(golden, framework, masks, "partner", "partner")


def recorded_boxes(golden: Golden) -> tuple[list, np.ndarray]:
    """Return the boxes of the recorded draws and their masks bool ``[B,H,W]``."""
    size = golden["target_in"].shape[1:]
    boxes = [half_area_box(size, *draw) for draw in golden["draw_w_x_y"].tolist()]
    return boxes, np.stack([box_mask(size, box) for box in boxes])


def mixed(
    golden: Golden, framework: Framework, masks: np.ndarray, fill: float | str, label_fill: int | str
) -> list[Check]:
    """Images, confidence and labels after mixing: copies, so they must agree to the bit."""
    mix, keep = framework.module("mixing").mix, framework.constant(masks)
    labels = framework.constant(golden["target_in"].astype(np.uint8))
    return [
        exact("data_out", framework.array(mix(framework.constant(golden["data"]), keep, fill)), golden["data_out"]),
        exact("conf_out", framework.array(mix(framework.constant(golden["conf"]), keep, fill)), golden["conf_out"]),
        exact("target_out", framework.array(mix(labels, keep, label_fill)), golden["target_out"]),
    ]


def transform(golden: Golden, framework: None) -> list[Check]:
    """The weak augmentation with the recorded draws; without draws the validation's centre crop."""
    crop, image, label = golden.number("crop"), golden["image"], golden["label"]
    augment = WeakCrop(crop=crop, resize_range=tuple(golden["scale"].tolist()), pad_label=PAD_LABEL)
    if golden["draws_random"].size:
        rng = RecordedNumbers(golden["draws_random"], golden["draws_crop_h_w"])
        sample = augment(image, {"label": label}, rng)
        image_out, label_out = sample["image"], sample["label"]
    else:
        image_out, label_out = center_crop(image, label, crop, augment, PAD_LABEL)
    return [close("image_out", image_out, golden["image_out"]), exact("label_out", label_out, golden["label_out"])]


def metric(golden: Golden, framework: None) -> list[Check]:
    """Pixel counts image by image, IoU of every class and mIoU of all images."""
    total, checks, index = ConfusionMatrix(golden.number("num_classes")), [], 0
    while f"pred_{index}" in golden:
        single = ConfusionMatrix(total.classes)
        single.update(golden[f"pred_{index}"].astype(np.uint8), golden[f"gt_{index}"].astype(np.uint8))
        total.merge(single)
        for name, counts in (
            ("intersection", single.intersection()),
            ("union", single.union()),
            ("target", single.truth()),
        ):
            checks.append(exact(f"{name}_{index}", counts, golden[f"{name}_{index}"]))
        index += 1
    return [
        *checks,
        close("iou_class", np.nan_to_num(total.iou()), golden["iou_class"]),
        close("miou", total.miou("zero"), golden["miou"]),
    ]


def lr_poly(golden: Golden, framework: Framework) -> list[Check]:
    """Both groups' rates at every step; ours after a resume are those of a run that never stopped."""
    epochs, per_epoch = golden.number("epochs"), golden.number("iterations_per_epoch")
    config = OptimizerConfig(
        lr=golden.number("base_lr"), head_lr_times=golden.number("head_times"), poly_power=golden.number("power")
    )
    shapes = {
        "encoder.conv1.weight": (2, 3, 3, 3), "encoder.conv2.weight": (2, 2, 3, 3),
        "decoder.pred.weight": (2, 2, 1, 1), "decoder.rep.weight": (2, 2, 1, 1),
    }  # fmt: skip
    optimizer = framework.module("optimizer").Optimizer(framework.mini_net(shapes, lambda *_: None), config)
    rates = []
    for iteration in range(golden.number("start_epoch") * per_epoch, epochs * per_epoch):
        epoch, step = divmod(iteration, per_epoch)
        clock = Clock(epoch=epoch, step=step, iteration=iteration, epochs=epochs, iterations_per_epoch=per_epoch)
        rates.append(optimizer.rates(clock))
    return [close("lr_backbone_head", rates, golden["lr_backbone_head"])]


def sliding(golden: Golden, framework: Framework) -> list[Check]:
    """Averaged logits of all windows, logits of the whole image, and the class ids that the evaluation makes of them.

    ``out_size`` differs from the image's size where the image had been rescaled: the logits are then resized once more.
    """
    predictor = framework.predictor(framework.stand_in(golden["standin_weight"], golden["standin_bias"]))
    image, size, out_size = golden["image"], golden.number("crop"), tuple(golden["out_size"].tolist())
    whole = predictor.logits(image, image.shape[2:])
    average = window_average(predictor, image, size, golden.number("stride"))
    checks = [
        close("logits", resize_bilinear(average, out_size)[0], golden["logits"]),
        close("logits_whole", resize_bilinear(whole, out_size)[0], golden["logits_whole"]),
    ]
    if out_size == image.shape[2:]:
        evaluation = Slide(size=size, stride=golden.number("stride"))
        checks.append(class_ids("class ids, slide", predictor, golden, evaluation, golden["logits"]))
        checks.append(class_ids("class ids, whole", predictor, golden, Whole(), golden["logits_whole"]))
    return checks


def window_average(predictor, image: np.ndarray, size: int, stride: int) -> np.ndarray:
    """Return ``[1,K,H,W]`` logits averaged over windows; the predictor itself only gives the class ids of that."""
    height, width = image.shape[2:]
    padded = pad_to(image[0].transpose(1, 2, 0), size, 0.0).transpose(2, 0, 1)[None]
    total = np.zeros((1, predictor.classes, *padded.shape[2:]), np.float32)
    visits = np.zeros(padded.shape[2:], np.float32)
    for window in windows(*padded.shape[2:], size, stride, "shift_back"):
        rows, columns = slice(window.top, window.bottom), slice(window.left, window.right)
        total[:, :, rows, columns] += predictor.logits(padded[:, :, rows, columns], (size, size))
        visits[rows, columns] += 1
    top, left = ((after - before) // 2 for after, before in zip(padded.shape[2:], (height, width)))
    return (total / visits)[:, :, top : top + height, left : left + width]


def class_ids(quantity: str, predictor, golden: Golden, evaluation: EvaluationProtocol, logits: np.ndarray) -> Check:
    """Count pixels whose class differs although the golden's two best logits are further apart than the gate."""
    augment = WeakCrop(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    config = dataclasses.replace(compose("shapes/12/u2pl"), evaluation=evaluation, augment=augment)
    prediction = predict(predictor, golden["image"][0].transpose(1, 2, 0), config)
    second, best = np.sort(logits, axis=0)[-2:]
    decided = best - second > 1e-5 * np.abs(logits).max()
    return exact(quantity, prediction[decided], logits.argmax(0)[decided])
