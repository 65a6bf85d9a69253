"""USRN's stage B1: features of the labelled images, one file each (the authors' ``main.py --save_feature``).

The body of ``python -m torch_impl.features`` and ``mindspore_impl.features``. Each labelled image goes once, whole and without
augmentation, through the network of a checkpoint, which is not touched; ``features.json`` says which checkpoint it was.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from common.arrays import Size
from common.command_line import experiment_arguments, track, user_path
from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import Dataset, open_dataset
from common.errors import UserError
from common.evaluation.command import AddOptions, LoadPredictor, find_checkpoint
from common.experiment import compose
from common.files import read_json, sha256, write_array_atomic, write_json_atomic
from common.images.geometry import reflect_pad
from common.images.normalise import planes
from common.methods.usrn.subclasses import file_stem
from common.runs.run_folder import default_run_folder
from common.splits.resolve import resolve
from common.splits.split import Split

DESCRIPTION = "features.json"
FOLDER = "features"
PAD_MULTIPLE = 8
"""Images are padded to multiples of 8, and features are saved at an eighth of that size."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What ``features.json`` says of the feature files beside it."""

    dataset: str
    split: str
    split_digest: str
    checkpoint: str
    checkpoint_sha256: str
    images: int


def feature_size(size: Size) -> Size:
    """Return height and width of an image's saved features."""
    return tuple(-(-side // PAD_MULTIPLE) for side in size)


def run(runtime: str, arguments: list[str] | None, load_predictor: LoadPredictor, add_options: AddOptions) -> None:
    """Run the whole command; files that are there from the same checkpoint are kept, so that it can be continued."""
    options = _parser(runtime, add_options).parse_intermixed_args(arguments)
    config = compose(options.experiment, options.overrides)
    path = options.checkpoint or find_checkpoint(runtime, config.name)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}; train the baseline first, or correct the path")
    dataset = open_dataset(config.dataset)
    split = resolve(dataset, config.split)
    out = options.out or default_run_folder(runtime, config.name) / FOLDER
    description = Description(
        dataset=dataset.name, split=split.id, split_digest=split.digest, checkpoint=str(path.resolve()),
        checkpoint_sha256=sha256(path), images=len(split.labelled),
    )  # fmt: skip
    _check_folder(out, description, options.overwrite)
    predictor, role = load_predictor(path, config, options.role, options)
    print(f"{config.name}: features of {path} ({role}), {len(split.labelled)} labelled images", file=sys.stderr)
    if options.overwrite:
        shutil.rmtree(out, ignore_errors=True)
    if not (out / DESCRIPTION).is_file():
        write_json_atomic(out / DESCRIPTION, asdict(description))
    save_features(predictor.decoder_features, dataset, split, config, out)
    print(f"written: {len(split.labelled)} feature files in {out}")


def save_features(
    features: Callable[[np.ndarray, Size], np.ndarray],
    dataset: Dataset,
    split: Split,
    config: ExperimentConfig,
    out: Path,
) -> None:
    """Write float16 ``[D,H/8,W/8]`` of every labelled image; ``features`` is that of a predictor."""
    for image_id in track(split.labelled, "features"):
        file = out / f"{file_stem(config.dataset, image_id)}.npy"
        if file.is_file():
            continue
        image = dataset.image(image_id)
        padded = reflect_pad(planes(image, config.normalisation)[None], PAD_MULTIPLE)
        feature_map = features(np.ascontiguousarray(padded), feature_size(image.shape[:2]))[0]
        write_array_atomic(file, feature_map.astype(np.float16))


def read_description(folder: Path) -> Description:
    """Return what lies in ``folder``; raises :class:`UserError` where there are no features."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(f"no features in {folder} ({DESCRIPTION} is missing); make them: python -m torch_impl.features")
    try:
        content = read_json(path)
        return Description(**{field.name: content[field.name] for field in fields(Description)})
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged; make the features again with --overwrite") from None


def _check_folder(out: Path, wanted: Description, overwrite: bool) -> None:
    if overwrite or not out.exists():
        return
    if not (out / DESCRIPTION).is_file():
        if any(out.iterdir()):
            raise UserError(f"{out} holds other files than features; choose another --out")
        return
    made = read_description(out)
    if (made.checkpoint_sha256, made.split_digest) != (wanted.checkpoint_sha256, wanted.split_digest):
        raise UserError(
            f"{out} holds features of another checkpoint or split ({made.checkpoint}, {made.dataset}/{made.split}), not "
            f"of {wanted.checkpoint}; --overwrite replaces them, --out chooses another folder"
        )


def _parser(runtime: str, add_options: AddOptions) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {runtime}_impl.features",
        description="Save the features of the labelled images for clustering.",
    )
    experiment_arguments(
        parser, "DATASET/SPLIT/usrn_baseline, e.g. camvid/1_8/usrn_baseline", "settings, as in training"
    )
    parser.add_argument("--checkpoint", type=user_path, help="default: the best of the experiment's run folder")
    parser.add_argument("--role", help="which network of a file of several (default: the one to deploy)")
    parser.add_argument("--out", type=user_path, metavar="DIR", help="default: features/ of the run folder")
    parser.add_argument("--overwrite", action="store_true", help="replace features of another checkpoint")
    add_options(parser)
    return parser
