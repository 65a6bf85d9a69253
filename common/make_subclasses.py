"""USRN's stage B2: cluster the features of every class and write subclass label images (``specs/usrn.md`` section 5.3).

Knows no framework and no network: it reads the files of ``FRAMEWORK_impl.features`` and the labels. All images are written
to a new folder that gets its name when it is complete.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from common.balanced_kmeans import assign_to, balanced_kmeans
from common.data.datasets import Dataset, open_dataset
from common.errors import UserError, run_command
from common.experiment import compose
from common.features import Description as FeatureDescription
from common.features import read_description
from common.files import sha256
from common.methods.usrn import SUBCLASS_LABELS, ClusteringSettings, USRNSettings
from common.metrics import IGNORE
from common.predictor import Size
from common.rng import generator
from common.splits import Split, resolve
from common.subclasses import Description, counts_by_share, digest, file_stem, offsets, write_subclass_image

Cluster = Callable[[np.ndarray, int, int], np.ndarray]
"""Takes points ``[n,D]``, the number of clusters and the class; returns the cluster of every point, int ``[n]``."""

LARGEST = 32767
"""Quantised features are clipped here: 32.767 and above do not fit into 16 bits (section 5.3)."""


def nearest(labels: np.ndarray, size: Size) -> np.ndarray:
    """Resize uint8 ``[H,W]`` to ``size`` by OpenCV's nearest neighbour: source index floor(i / (out / in))."""
    return cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)


def quantise(features: np.ndarray) -> np.ndarray:
    """Return int16: float16 features times 1000, towards zero, clipped."""
    scaled = features.astype(np.float32) * np.float32(1000)
    return np.clip(scaled, -LARGEST - 1, LARGEST).astype(np.int16)


def gather_points(
    features: Sequence[np.ndarray], labels: Sequence[np.ndarray], class_id: int, quantised: bool
) -> np.ndarray:
    """Return the points ``[n,D]`` of one class, image by image, row by row, as int16 or float32.

    ``features`` float16 ``[D,h,w]`` (files may be mapped into memory), ``labels`` uint8 ``[h,w]`` at that size.
    """
    counts = [int((label == class_id).sum()) for label in labels]
    points = np.empty((sum(counts), len(features[0])), np.int16 if quantised else np.float32)
    row = 0
    for feature, label, count in zip(features, labels, counts):
        if count:
            values = np.asarray(feature)[:, label == class_id].T
            points[row : row + count] = quantise(values) if quantised else values
            row += count
    return points


def subclass_maps(
    features: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    counts: Sequence[int],
    quantised: bool,
    cluster: Cluster,
) -> list[np.ndarray]:
    """Return uint8 ``[h,w]`` subclass ids of every image; a class of one subclass is not clustered, 255 stays 255."""
    maps = [np.full(label.shape, IGNORE, np.uint8) for label in labels]
    for class_id, (count, first) in enumerate(zip(counts, offsets(counts))):
        number = sum(int((label == class_id).sum()) for label in labels)
        assignment = np.zeros(number, np.int64)
        if count > 1 and number:
            assignment = cluster(gather_points(features, labels, class_id, quantised), count, class_id)
        for target, label in zip(maps, labels):
            own, assignment = np.split(assignment, [int((label == class_id).sum())])
            target[label == class_id] = first + own
    return maps


class ClusterClasses:
    """Balanced k-means of one class after the other, with a progress bar; implements ``Cluster``."""

    def __init__(self, settings: ClusteringSettings, seed: int, names: Sequence[str]) -> None:
        self.settings, self.seed, self.names = settings, seed, names

    def __call__(self, points: np.ndarray, count: int, class_id: int) -> np.ndarray:
        """See ``Cluster``."""
        rng, sample = generator(self.seed, "usrn clustering", class_id), self.settings.sample
        chosen = points
        if sample is not None and sample < len(points):
            chosen = points[np.sort(rng.choice(len(points), sample, replace=False))]
        title = f"{self.names[class_id]}: {len(chosen)} points, {count} subclasses"
        with tqdm(desc=title, unit="round", disable=not sys.stderr.isatty(), total=self.settings.max_rounds) as bar:

            def report(number: int, changed: int, sse: float) -> None:
                bar.update()
                bar.set_postfix(changed=changed, sse=f"{sse:.4e}")

            found = balanced_kmeans(chosen, count, rng, max_rounds=self.settings.max_rounds, report=report)
        if not sys.stderr.isatty():
            end = "" if found.converged else ", stopped by method.clustering.max_rounds"
            print(f"{title}, {found.rounds} rounds, sum of squares {found.sse:.4e}{end}", file=sys.stderr, flush=True)
        return found.assignment if chosen is points else assign_to(points, found.centers)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_intermixed_args(arguments)
    config = compose(options.experiment, options.overrides)
    if not isinstance(config.method, USRNSettings):
        raise UserError(f"{config.name}: subclasses belong to the method usrn; name DATASET/SPLIT/usrn")
    out = options.out or options.features.resolve().parent / SUBCLASS_LABELS
    if out.exists() and not options.overwrite:
        raise UserError(f"{out} exists; --overwrite replaces it, --out chooses another folder")
    dataset = open_dataset(config.dataset)
    split = resolve(dataset, config.split)
    made = read_description(options.features)
    _check_features(made, dataset, split, options)
    ids = sorted(split.labelled, key=lambda image_id: file_stem(config.dataset, image_id))
    features = _open_features(options.features, [file_stem(config.dataset, image_id) for image_id in ids])
    labels = [dataset.label(image_id) for image_id in ids]
    small = [nearest(label, feature.shape[1:]) for label, feature in zip(labels, features)]
    settings = config.method
    counts = settings.subclass_counts or counts_by_share(_histogram(labels, dataset), settings.subclass_share)
    rule = "table" if settings.subclass_counts else f"share {settings.subclass_share}"
    _check_points(_histogram(small, dataset), counts, dataset.classes, settings.clustering)
    print(f"{config.name}: {sum(counts)} subclasses ({' '.join(map(str, counts))}; {rule})", file=sys.stderr)
    cluster = ClusterClasses(settings.clustering, config.trainer.seed, dataset.classes)
    maps = subclass_maps(features, small, counts, settings.clustering.quantise == "int16", cluster)

    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    files = [part / f"{file_stem(config.dataset, image_id)}.png" for image_id in ids]
    for file, found, label in zip(files, maps, labels):
        write_subclass_image(file, nearest(found, label.shape))
    Description(
        dataset=dataset.name, split=split.id, split_digest=split.digest, counts=tuple(counts), rule=rule,
        seed=config.trainer.seed, quantise=settings.clustering.quantise, sample=settings.clustering.sample,
        checkpoint_sha256=made.checkpoint_sha256, images=len(ids), digest=digest(files),
    ).write(part)  # fmt: skip
    if out.exists():
        shutil.rmtree(out)
    part.rename(out)
    print(f"written: {len(ids)} subclass labels in {out}")


def _check_features(made: FeatureDescription, dataset: Dataset, split: Split, options: argparse.Namespace) -> None:
    folder = options.features
    if (made.dataset, made.split_digest) != (dataset.name, split.digest):
        raise UserError(
            f"the features in {folder} are of {made.dataset}/{made.split}, not of {dataset.name}/{split.id}; make features of "
            "this split"
        )
    checkpoint = options.checkpoint or Path(made.checkpoint)
    if options.checkpoint and not checkpoint.is_file():
        raise UserError(f"no checkpoint at {checkpoint}; check the path")
    if checkpoint.is_file() and sha256(checkpoint) != made.checkpoint_sha256:
        raise UserError(
            f"the features in {folder} were made from another checkpoint than {checkpoint} is now; make them again with "
            "--overwrite"
        )


def _open_features(folder: Path, stems: Sequence[str]) -> list[np.ndarray]:
    missing = [stem for stem in stems if not (folder / f"{stem}.npy").is_file()]
    if missing:
        raise UserError(
            f"{folder} lacks the features of {len(missing)} labelled images, e.g. {missing[0]}.npy; run the feature command "
            "again, it continues"
        )
    features = []
    for stem in stems:
        try:
            features.append(np.load(folder / f"{stem}.npy", mmap_mode="r"))
        except (ValueError, EOFError):
            raise UserError(f"{folder / stem}.npy is damaged; remove it and run the feature command again") from None
    return features


def _histogram(labels: Sequence[np.ndarray], dataset: Dataset) -> list[int]:
    total = sum(np.bincount(label.ravel(), minlength=256) for label in labels)
    return total[: len(dataset.classes)].tolist()


def _check_points(
    points: Sequence[int], counts: Sequence[int], names: Sequence[str], settings: ClusteringSettings
) -> None:
    if len(counts) != len(names):
        raise UserError(f"method.subclass_counts has {len(counts)} numbers, but there are {len(names)} classes")
    for name, found, count in zip(names, points, counts):
        if 0 < found < count:
            raise UserError(
                f"class {name} has {found} labelled feature positions, fewer than its {count} subclasses; lower its entry in "
                "method.subclass_counts, or raise method.subclass_share"
            )
        if settings.sample is not None and settings.sample < count:
            raise UserError(
                f"method.clustering.sample = {settings.sample} is less than the {count} subclasses of {name}; raise it"
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m common.make_subclasses", description="Cluster features into balanced subclasses of every class."
    )
    parser.add_argument("experiment", help="DATASET/SPLIT/usrn, e.g. camvid/1_8/usrn")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings, e.g. method.clustering.sample=100000")
    parser.add_argument(
        "--features", type=Path, required=True, metavar="DIR", help="what FRAMEWORK_impl.features wrote"
    )
    parser.add_argument("--checkpoint", type=Path, help="the baseline the features must be of (default: as recorded)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: subclass_labels/ beside the features")
    parser.add_argument("--overwrite", action="store_true", help="replace subclass labels that are there")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
