"""Golden kinds of USRN's data: augmentation, features, clustering, subclass labels, evaluation."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from common.config.layers import dataset_config
from common.config.schema import Normalisation
from common.evaluation.evaluate import predict
from common.evaluation.metrics import ConfusionMatrix
from common.images.geometry import reflect_pad
from common.images.normalise import planes
from common.make_subclasses.balanced_kmeans import balanced_assignment, balanced_kmeans, fill_costs
from common.make_subclasses.cluster import gather_points, nearest_opencv, quantise, subclass_maps
from common.make_subclasses.features import PAD_MULTIPLE, feature_size
from common.methods.usrn.augment import LabelledAndUnlabelledCrop, LongSideCrop, blur
from common.methods.usrn.subclasses import file_stem
from common.prediction.protocols import Whole
from tests.goldens.frameworks import Framework
from tests.goldens.golden import Check, Golden, close, exact
from tests.goldens.u2pl.data import RecordedNumbers

CITYSCAPES_CLASSES = 19


def repeats(golden: Golden, prefix: str) -> list[int]:
    """Return the numbers n for which the file has the array ``PREFIX_n``."""
    return [n for n in range(len(golden.arrays)) if f"{prefix}_{n}" in golden]


def cases(golden: Golden, prefix: str) -> list[str]:
    """Return the names that follow ``PREFIX_`` in the file's arrays."""
    return [name.removeprefix(f"{prefix}_") for name in golden.arrays if name.startswith(f"{prefix}_")]


def augment_labelled(golden: Golden, framework: None) -> list[Check]:
    """Image and both labels for the recorded draws, which our drawing asks for in the same order."""
    config, checks = augment_config(golden), []
    labels = {"label": golden["in_label"], "label_sub": golden["in_label_sub"]}
    labels = {name: label.astype(np.uint8) for name, label in labels.items()}
    for repeat in repeats(golden, "in_draws"):
        sample = crop(golden, f"in_draws_{repeat}", labels, config)
        checks.append(close(f"out_image_{repeat}", planes(sample["image"], config), golden[f"out_image_{repeat}"]))
        for name in labels:
            checks.append(exact(f"out_{name}_{repeat}", sample[name], golden[f"out_{name}_{repeat}"]))
    return checks


def augment_unlabelled(golden: Golden, framework: None) -> list[Check]:
    """The weak view, and the crop that the strong view starts from."""
    config, checks = augment_config(golden), []
    label = {"label": golden["in_label"].astype(np.uint8)}
    for repeat in repeats(golden, "in_draws"):
        sample = crop(golden, f"in_draws_{repeat}", label, config.unlabelled)
        checks += [
            close(f"out_weak_{repeat}", planes(sample["image"], config), golden[f"out_weak_{repeat}"]),
            exact(f"out_strong_input_{repeat}", sample["image"], golden[f"out_strong_input_{repeat}"]),
            exact(f"out_label_{repeat}", sample["label"], golden[f"out_label_{repeat}"]),
            exact(f"out_flip_{repeat}", sample["flip"], golden[f"out_flip_{repeat}"]),
        ]
    return checks


def augment_config(golden: Golden) -> LabelledAndUnlabelledCrop:
    """Our configuration with the file's sizes and, where it has them, its mean and deviation (in 0..1 there)."""
    colours = {name: tuple((golden[f"hp_{name}"] * 255).tolist()) for name in ("mean", "std") if f"hp_{name}" in golden}
    return LabelledAndUnlabelledCrop(crop=golden.number("hp_crop"), base_size=golden.number("hp_base_size"), **colours)


def crop(golden: Golden, draws: str, labels: dict, augment: LongSideCrop) -> dict:
    """Return our crop for recorded draws: three integers and the number that decides the flip."""
    recorded, image = golden[draws], golden["in_image"]
    rng = RecordedNumbers(uniform=recorded[3:], integers=recorded[:3])
    geometry = augment.draw(*image.shape[:2], rng)
    return augment.apply(image, labels, geometry) | {"flip": geometry.flip}


def blurred(golden: Golden, framework: None) -> list[Check]:
    """The blur of the strong view."""
    return [exact("out_image", blur(golden["in_image"], golden.number("hp_kernel")), golden["out_image"])]


def quantised(golden: Golden, framework: None) -> list[Check]:
    """Features as 16-bit integers."""
    return [exact("out_int16", quantise(golden["in_feature"]), golden["out_int16"])]


def saved_features(golden: Golden, framework: Framework) -> list[Check]:
    """Size and values of the feature files: ours, before they are rounded, round to theirs."""
    checks, resize = [], framework.module("resize").resize
    for repeat in repeats(golden, "in_feature"):
        saved = golden[f"out_saved_{repeat}"]
        size = feature_size(tuple(golden[f"in_image_size_{repeat}"].tolist()))
        checks.append(exact(f"size_{repeat}", size, saved.shape[1:]))
        ours = framework.array(resize(framework.tensor(golden[f"in_feature_{repeat}"]), saved.shape[1:]))[0]
        off = np.abs(ours - saved.astype(np.float32)) > 0.501 * np.spacing(np.abs(saved)).astype(np.float32)
        checks.append(exact(f"out_saved_{repeat}", off.sum(), 0))
    return checks


def clustered(golden: Golden, framework: None) -> list[Check]:
    """First and last assignment from the recorded centres, up to ties; sizes, centres, sum of squares and rounds."""
    checks = []
    for case in cases(golden, "in_points"):
        points, k, centers = golden[f"in_points_{case}"], golden.number(f"hp_k_{case}"), golden[f"in_centers_{case}"]
        costs = np.empty((k, len(points)))
        fill_costs(costs, points, centers)
        first, _ = balanced_assignment(costs, np.zeros(k))
        clustering = balanced_kmeans(points, k, centers=centers)
        fill_costs(costs, points, golden[f"out_centers_{case}"])
        checks += [
            partition(f"out_first_assignment_{case}", first, golden[f"out_first_assignment_{case}"], points, centers),
            partition(
                f"out_assignment_{case}", clustering.assignment, golden[f"out_assignment_{case}"], points,
                golden[f"out_centers_{case}"],
            ),
            close(f"out_centers_{case}", clustering.centers, golden[f"out_centers_{case}"]),
            close(f"out_sse_{case}", clustering.sse, golden[f"out_sse_{case}"]),
            exact(f"out_rounds_{case}", clustering.rounds, golden[f"out_rounds_{case}"]),
            exact(
                f"out_sizes_{case}",
                np.sort(np.bincount(clustering.assignment, minlength=k)),
                np.sort(golden[f"out_sizes_{case}"]),
            ),
        ]  # fmt: skip
    return checks


def partition(quantity: str, ours: np.ndarray, golden: np.ndarray, points: np.ndarray, centers: np.ndarray) -> Check:
    """Count differing entries, none if both partitions cost the same, which is a tie."""
    distances = [float(np.square(points - centers[assignment]).sum()) for assignment in (ours, golden)]
    tie = np.isclose(*distances, rtol=1e-12, atol=0)
    return exact(quantity, golden if tie else ours, golden)


def subclass_labels(golden: Golden, framework: None) -> list[Check]:
    """The whole of stage B2 with the recorded assignments."""
    counts = golden["hp_split"].tolist()
    config = dataset_config("cityscapes" if len(counts) == CITYSCAPES_CLASSES else "voc")
    numbers = repeats(golden, "in_name")
    stems = {number: file_stem(config, str(golden[f"in_name_{number}"])) for number in numbers}
    order = sorted(numbers, key=stems.get)
    features = [golden[f"in_feature_{number}"] for number in order]
    labels = [golden[f"in_label_{number}"] for number in order]
    small = [nearest_opencv(label, feature.shape[1:]) for label, feature in zip(labels, features)]
    seen = {}

    def cluster(points: np.ndarray, count: int, class_id: int) -> np.ndarray:
        seen[class_id] = points
        return golden[f"in_assignment_{class_id}"]

    maps = subclass_maps(features, small, counts, True, cluster)
    names = [[str(name).removesuffix("_leftImg8bit") for name in group] for group in
             ([stems[number] for number in order], golden["out_file_order"])]  # fmt: skip
    files = np.concatenate([np.full(label.size, index) for index, label in enumerate(small)])
    checks = [
        exact("out_file_order", names[0], names[1]),
        exact("out_low_targets", np.concatenate([label.ravel() for label in small]), golden["out_low_targets"]),
        exact("out_low_subclasses", np.concatenate([part.ravel() for part in maps]), golden["out_low_subclasses"]),
        exact("out_file_of_point", files, golden["out_file_of_point"]),
        exact("clustered classes", sorted(seen), sorted(int(c) for c in cases(golden, "in_assignment"))),
    ]
    for class_id, points in seen.items():
        checks.append(exact(f"out_points_{class_id}", points, golden[f"out_points_{class_id}"]))
        alone = gather_points(features, small, class_id, True)
        checks.append(exact(f"points of class {class_id} alone", alone, points))
    for number, subclasses, label in zip(order, maps, labels):
        checks.append(
            exact(f"out_subclass_{number}", nearest_opencv(subclasses, label.shape), golden[f"out_subclass_{number}"])
        )
    return checks


def metrics(golden: Golden, framework: None) -> list[Check]:
    """Counts of every batch, and IoU, mIoU and accuracy of all."""
    total, checks = ConfusionMatrix(golden.number("hp_classes"), golden.number("hp_ignore")), []
    for repeat in repeats(golden, "in_logits"):
        single = ConfusionMatrix(total.classes, total.ignore_index)
        single.update(
            golden[f"in_logits_{repeat}"].argmax(1).astype(np.uint8), golden[f"in_target_{repeat}"].astype(np.uint8)
        )
        total.merge(single)
        checks += [
            exact(f"out_correct_{repeat}", single.intersection().sum(), golden[f"out_correct_{repeat}"]),
            exact(f"out_labelled_{repeat}", single.truth().sum(), golden[f"out_labelled_{repeat}"]),
            exact(f"out_inter_{repeat}", single.intersection(), golden[f"out_inter_{repeat}"]),
            exact(f"out_union_{repeat}", single.union(), golden[f"out_union_{repeat}"]),
        ]
    return [
        *checks,
        close("out_iou", np.nan_to_num(total.iou()), golden["out_iou"]),
        close("out_miou", total.miou("zero"), golden["out_miou"]),
        close("out_acc", total.pixel_accuracy(), golden["out_acc"]),
    ]


class PooledPredictor:
    """The file's stand-in network: means of 8x8 fields, a 1x1 convolution, a framework's resize."""

    def __init__(self, weight: np.ndarray, framework: Framework) -> None:
        self.weight, self.framework, self.seen = weight, framework, []

    def logits(self, images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return logits at ``size``; the images are noted."""
        self.seen.append(images)
        batch, channels, height, width = images.shape
        fields = images.reshape(batch, channels, height // 8, 8, width // 8, 8).mean((3, 5))
        scores = np.einsum("kc,bchw->bkhw", self.weight, fields).astype(np.float32)
        return self.framework.array(self.framework.module("resize").resize(self.framework.tensor(scores), size))

    def class_ids(self, images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return class ids at ``size``."""
        return self.logits(images, size).argmax(1).astype(np.uint8)


def validation(golden: Golden, framework: Framework) -> list[Check]:
    """What the network is given, class ids, counts, mIoU and the mean loss of whole images with padding."""
    predictor = PooledPredictor(golden["in_weight"], framework)
    config = SimpleNamespace(
        normalisation=Normalisation(mean=(0, 0, 0), std=(1, 1, 1)), evaluation=Whole(pad_multiple=PAD_MULTIPLE)
    )
    total, checks, losses = ConfusionMatrix(golden.number("hp_classes"), golden.number("hp_ignore")), [], []
    for repeat in repeats(golden, "in_image"):
        image, target = golden[f"in_image_{repeat}"], golden[f"in_target_{repeat}"].astype(np.uint8)
        class_ids = predict(predictor, image[0].transpose(1, 2, 0), config)
        total.update(class_ids, target[0])
        padded = reflect_pad(image, PAD_MULTIPLE)
        scores = predictor.logits(padded, padded.shape[2:])[:, :, : image.shape[2], : image.shape[3]]
        loss = framework.module("losses").cross_entropy(framework.tensor(scores), framework.constant(target))
        losses.append(float(framework.array(loss)))
        checks += [
            exact(f"out_padded_{repeat}", predictor.seen[0], golden[f"out_padded_{repeat}"]),
            exact(f"out_pred_{repeat}", class_ids, golden[f"out_pred_{repeat}"]),
        ]
        predictor.seen.clear()
    return [
        *checks,
        exact("out_inter", total.intersection(), golden["out_inter"]),
        exact("out_union", total.union(), golden["out_union"]),
        close("out_miou", total.miou("zero"), golden["out_miou"]),
        exact("out_miou_rounded_percent", round(100 * total.miou("zero"), 2), golden["out_miou_rounded_percent"]),
        close("out_loss", np.mean(losses), golden["out_loss"]),
    ]
