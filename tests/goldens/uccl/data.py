"""Golden kinds of UCCL around the network: ``sample_train``, ``cutmix_boxes``, ``colour_ops``, ``ignore_resize``, ``evaluate`` and more."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Iterable

import numpy as np
from PIL import Image

from common.config.schema import Normalisation, OptimizerConfig
from common.evaluation.evaluate import predict
from common.evaluation.metrics import ConfusionMatrix
from common.experiment import compose
from common.images import colour, geometry
from common.methods.interface import Clock
from common.methods.uccl import augment as weak_to_strong
from common.methods.uccl.augment import draw_area_box
from common.methods.weak_crop import WeakCrop
from common.prediction.protocols import Slide, Whole
from common.prediction.sliding import windows
from tests.goldens.frameworks import Framework
from tests.goldens.golden import Check, Golden, close, exact

COLOUR = {
    "brightness": (colour.brightness, "factors"),
    "contrast": (colour.contrast, "factors"),
    "saturation": (colour.saturation, "factors"),
    "hue": (colour.hue, "hue_factors"),
    "blur": (colour.gaussian_blur, "sigmas"),
}


class RecordedDraws:
    """Stands for a NumPy generator, gives recorded numbers in their order and counts those outside of what is asked for."""

    def __init__(self, numbers: Iterable) -> None:
        self.numbers, self.misfits = list(numbers), 0

    def random(self) -> float:
        """The next number of [0, 1)."""
        return self._next(0, 1)

    def uniform(self, low: float, high: float) -> float:
        """The next number of ``low..high``."""
        return self._next(low, high)

    def integers(self, low: int, high: int) -> int:
        """The next integer of ``low..high-1``."""
        return int(self._next(low, high - 1))

    def permutation(self, count: int) -> list[int]:
        """The next permutation."""
        order = self.numbers.pop(0)
        self.misfits += sorted(order) != list(range(count))
        return order

    def unused(self) -> int:
        """How many draws do not fit or are left."""
        return self.misfits + len(self.numbers)

    def _next(self, low: float, high: float) -> float:
        number = self.numbers.pop(0)
        self.misfits += not low <= number <= high
        return number


def sample(golden: Golden, framework: None) -> list[Check]:
    """A whole sample from its recorded draws: the 8-bit pixels are equal, the normalised ones up to rounding."""
    augment = weak_to_strong.WeakToStrong(crop=golden.number("crop_size"))
    draws = (value for _, value in json.loads(golden["draws_json"].item()))
    rng = RecordedDraws(value[0] if isinstance(value, list) and len(value) == 1 else value for value in draws)
    if "out_mask" in golden:
        result = augment(golden["image"], {"label": golden["mask"]}, rng)
        result = {"image": result["image"], "mask": result["label"]}
    else:
        result = augment.views(2, partner=False)(golden["image"], {}, rng)
    checks = [exact("draws left over or outside of their range", rng.unused(), 0)]
    for name, ours in result.items():
        theirs = golden[f"out_{name}"]
        if theirs.dtype == np.uint8:
            checks.append(exact(name, ours, theirs))
        else:
            checks += [close(name, ours, theirs), exact(f"{name}, 8-bit", *map(pixels, (ours, theirs)))]
    return checks


def pixels(planes: np.ndarray) -> np.ndarray:
    """Return the 8-bit values of a normalised image."""
    config = Normalisation()
    return np.rint(planes.transpose(1, 2, 0) * np.float64(config.std) + np.float64(config.mean)).astype(int)


def cutmix_boxes(golden: Golden, framework: None) -> list[Check]:
    """Every box of the recorded coin, area and tries."""
    size, boxes, unused, tries = golden.number("img_size"), [], 0, golden["tries_case_ratio_x_y"]
    for case, (coin, area, count) in enumerate(golden["draw_p_area_tries"]):
        numbers = [coin, *([area] if count else []), *tries[tries[:, 0] == case][:, 1:].ravel()]
        rng = RecordedDraws(numbers)
        top, left, bottom, right = draw_area_box(size, rng, golden.number("p")) or (0, 0, 0, 0)
        boxes.append([top, bottom, left, right])
        unused += rng.unused()
    return [
        exact("box_y0_y1_x0_x1", boxes, golden["box_y0_y1_x0_x1"]),
        exact("draws left over or outside of their range", unused, 0),
    ]


def colour_ops(golden: Golden, framework: None) -> list[Check]:
    """Every operation on the picture, and the resizing of picture and label."""
    image, checks = golden["image"], [exact("gray", colour.grey(golden["image"])[..., 0], gray(golden["gray"]))]
    for name, (operation, values) in COLOUR.items():
        for index, value in enumerate(golden[values].tolist()):
            checks.append(exact(f"{name}_{index}", operation(image, value), golden[f"{name}_{index}"]))
    for index in range(sum(name.startswith("resize_bilinear_") for name in golden.arrays)):
        picture, plane = golden[f"resize_bilinear_{index}"], golden[f"resize_nearest_{index}"]
        checks.append(exact(f"resize_bilinear_{index}", resize(image, picture, "BILINEAR"), picture))
        checks.append(exact(f"resize_nearest_{index}", resize(golden["image_L"], plane, "NEAREST"), plane))
    return checks


def gray(values: np.ndarray) -> np.ndarray:
    """One channel of the golden's grey picture."""
    return values[..., 0] if values.ndim == 3 else values


def resize(plane: np.ndarray, like: np.ndarray, resampling: str) -> np.ndarray:
    """Resize as the pipeline does."""
    return np.asarray(Image.fromarray(plane).resize(like.shape[1::-1], Image.Resampling[resampling]))


def ignore_resize(golden: Golden, framework: Framework) -> list[Check]:
    """The padding at the decoder's size, and the resize it comes from."""
    full, size = golden["ignore_full"], golden["ignore_small"].shape[1:]
    small = framework.module("resize").resize(framework.tensor(full[:, None].astype(np.float32)), size)
    ignored = framework.module("methods.uccl.ckr_sbu").ignored_at(framework.constant(full), size, "equal")
    return [
        close("ignore_small", framework.array(small)[:, 0], golden["ignore_small"]),
        exact("is_ignored", framework.array(ignored), golden["is_ignored"] > 0),
    ]


def intersection_union(golden: Golden, framework: None) -> list[Check]:
    """Integers, IoU and mIoU."""
    confusion = ConfusionMatrix(golden.number("nclass"))
    for prediction, truth in zip(golden["pred"], golden["target"]):
        confusion.update(prediction, truth)
    return [
        exact("intersection", confusion.intersection(), golden["intersection"]),
        exact("union", confusion.union(), golden["union"]),
        exact("target_area", confusion.truth(), golden["target_area"]),
        close("iou_percent", 100 * np.nan_to_num(confusion.iou()), golden["iou_percent"]),
        close("miou_percent", 100 * confusion.miou("zero"), golden["miou_percent"]),
    ]


def lr_schedule(golden: Golden, framework: Framework) -> list[Check]:
    """Both groups' rates at every step, with the lag of our settings for UCCL."""
    steps = golden.number("total_iters")
    config = OptimizerConfig(
        lr=golden.number("base_lr"),
        head_lr_times=golden.number("lr_multi"),
        poly_power=golden.number("power"),
        poly_lag=compose("voc/366/uccl").optimizer.poly_lag,
    )
    optimizer = framework.module("optimizer").Optimizer(two_convolutions(framework), config)
    clocks = [Clock(epoch=0, step=i, iteration=i, epochs=1, iterations_per_epoch=steps) for i in range(steps)]
    return [close("lr_at_step", [optimizer.rates(clock) for clock in clocks], golden["lr_at_step"])]


def two_convolutions(framework: Framework):
    """A small network with an encoder and a head."""
    shapes = {
        "encoder.conv1.weight": (2, 3, 3, 3),
        "encoder.conv2.weight": (2, 2, 3, 3),
        "decoder.pred.weight": (2, 2, 1, 1),
    }
    return framework.mini_net(shapes, lambda *_: None)


def evaluate(golden: Golden, framework: Framework) -> list[Check]:
    """Class ids, windows and scores of the three modes."""
    size, stride, classes = (golden.number(name) for name in ("crop_size", "stride", "nclass"))
    parameters = {name[6:]: golden[name] for name in golden.arrays if name.startswith("param_")}
    predictor = framework.predictor(stubs(framework).TwoConvolutions(parameters))
    slide = {"protocol": "slide", "size": size, "stride": stride, **authors_windows()}
    modes = {"original": Whole(), "sliding_window": Slide(**slide)}
    plain = WeakCrop(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    config = dataclasses.replace(compose("shapes/12/suponly"), augment=plain)
    images, masks, checks = golden["images"].transpose(0, 2, 3, 1), golden["masks"], []
    for mode, evaluation in modes.items():
        predicted = [predict(predictor, image, dataclasses.replace(config, evaluation=evaluation)) for image in images]
        checks += scores(mode, predicted, masks, golden, classes)
    crops = [geometry.center_crop(image, mask, size, plain, 255) for image, mask in zip(images, masks)]
    predicted = [predictor.class_ids(planes[None], (size, size))[0] for planes, _ in crops]
    checks += scores("center_crop", predicted, [label for _, label in crops], golden, classes)
    layout = windows(*masks.shape[1:], size, stride, authors_windows()["window_rule"])
    sizes = [(window.bottom - window.top, window.right - window.left) for window in layout]
    return [*checks, exact("window_sizes", sizes, golden["window_sizes"])]


def authors_windows() -> dict[str, str]:
    """How our settings for UCCL on Cityscapes cut and join windows."""
    evaluation = compose("cityscapes/186/uccl").evaluation
    return {"window_rule": evaluation.window_rule, "accumulate": evaluation.accumulate}


def scores(mode: str, predictions: list[np.ndarray], masks, golden: Golden, classes: int) -> list[Check]:
    """Class ids of one mode, IoU and mIoU."""
    confusion = ConfusionMatrix(classes)
    for prediction, mask in zip(predictions, masks):
        confusion.update(prediction, mask)
    return [
        exact(f"pred_{mode}", predictions, golden[f"pred_{mode}"][:, 0]),
        close(f"iou_{mode}", 100 * np.nan_to_num(confusion.iou()), golden[f"iou_{mode}"]),
        close(f"miou_{mode}", 100 * confusion.miou("zero"), golden[f"miou_{mode}"]),
    ]


def stubs(framework: Framework):
    """Return the module with the stand-in networks of ``framework``."""
    return importlib.import_module(f"tests.goldens.uccl.stubs_{framework.name}")
