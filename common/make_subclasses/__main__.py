"""USRN's stage B2: cluster the features of every class and write subclass label images (the authors' ``clustering.py``).

Knows no framework and no network: it reads the files of ``FRAMEWORK_impl.features`` and the labels. All images are written
to a new folder that gets its name when it is complete.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.command_line import experiment_arguments, run_command, user_path
from common.datasets.file_dataset import Dataset, open_dataset
from common.errors import UserError
from common.experiment import compose
from common.files import atomic_folder, sha256
from common.make_subclasses.cluster import ClusterClasses, nearest_opencv, subclass_maps
from common.make_subclasses.features import Description as FeatureDescription
from common.make_subclasses.features import read_description
from common.methods.usrn.subclasses import (
    Description,
    counts_by_share,
    digest,
    file_stem,
    write_subclass_image,
)
from common.methods.usrn.usrn import SUBCLASS_LABELS, ClusteringSettings, USRNSettings
from common.splits.resolve import resolve
from common.splits.split import Split


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
    small = [nearest_opencv(label, feature.shape[1:]) for label, feature in zip(labels, features)]
    settings = config.method
    counts = settings.subclass_counts or counts_by_share(_histogram(labels, dataset), settings.subclass_share)
    rule = "table" if settings.subclass_counts else f"share {settings.subclass_share}"
    _check_points(_histogram(small, dataset), counts, dataset.classes, settings.clustering)
    print(f"{config.name}: {sum(counts)} subclasses ({' '.join(map(str, counts))}; {rule})", file=sys.stderr)
    cluster = ClusterClasses(settings.clustering, config.trainer.seed, dataset.classes)
    maps = subclass_maps(features, small, counts, settings.clustering.quantise == "int16", cluster)

    with atomic_folder(out) as part:
        files = [part / f"{file_stem(config.dataset, image_id)}.png" for image_id in ids]
        for file, subclass_map, label in zip(files, maps, labels):
            write_subclass_image(file, nearest_opencv(subclass_map, label.shape))
        Description(
            dataset=dataset.name, split=split.id, split_digest=split.digest, counts=tuple(counts), rule=rule,
            seed=config.trainer.seed, quantise=settings.clustering.quantise, sample=settings.clustering.sample,
            checkpoint_sha256=made.checkpoint_sha256, images=len(ids), digest=digest(files),
        ).write(part)  # fmt: skip
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
    features: list[np.ndarray] = []
    for stem in stems:
        try:
            feature = np.load(folder / f"{stem}.npy", mmap_mode="r")
        # A damaged header can fail in nearly every way that Python knows.
        except Exception as error:
            raise UserError(
                f"{folder / stem}.npy is damaged ({error}); remove it and run the feature command again"
            ) from None
        shape = getattr(feature, "shape", ())
        whole = getattr(feature, "dtype", None) == np.float16 and len(shape) == 3 and min(shape) > 0
        if not whole or (features and shape[0] != len(features[0])) or not np.isfinite(feature).all():
            raise UserError(
                f"{folder / stem}.npy holds no features as they were saved; remove it and run the feature command again"
            )
        features.append(feature)
    return features


def _histogram(labels: Sequence[np.ndarray], dataset: Dataset) -> list[int]:
    total = sum(np.bincount(label.ravel(), minlength=256) for label in labels)
    return total[: len(dataset.classes)].tolist()


def _check_points(
    points: Sequence[int], counts: Sequence[int], names: Sequence[str], settings: ClusteringSettings
) -> None:
    if len(counts) != len(names):
        raise UserError(f"method.subclass_counts has {len(counts)} numbers, but there are {len(names)} classes")
    for name, positions, count in zip(names, points, counts):
        if 0 < positions < count:
            raise UserError(
                f"class {name} has {positions} labelled feature positions, fewer than its {count} subclasses; lower its entry in "
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
    experiment_arguments(
        parser, "DATASET/SPLIT/usrn, e.g. camvid/1_8/usrn", "settings, e.g. method.clustering.sample=100000"
    )
    parser.add_argument(
        "--features", type=user_path, required=True, metavar="DIR", help="what FRAMEWORK_impl.features wrote"
    )
    parser.add_argument(
        "--checkpoint", type=user_path, help="the baseline the features must be of (default: as recorded)"
    )
    parser.add_argument("--out", type=user_path, metavar="DIR", help="default: subclass_labels/ beside the features")
    parser.add_argument("--overwrite", action="store_true", help="replace subclass labels that are there")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
