"""The body of ``python -m torch_impl.eval``, ``mindspore_impl.eval`` and ``onnx_impl.eval``: one result for all."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.arguments import positive
from common.config import ExperimentConfig
from common.data.augment import normalise
from common.data.datasets import Dataset, open_dataset
from common.errors import UserError
from common.evaluate import OnImage, evaluate
from common.files import atomic_path, write_json_atomic
from common.model_folder import experiment_of, is_model_folder, model_file
from common.palettes import colours, write_label_png
from common.predictor import Predictor
from common.results import format_table, result
from common.runs import RunFolder, default_run_folder
from common.splits import resolve

LoadPredictor = Callable[[Path, ExperimentConfig, argparse.Namespace], tuple[Predictor, str]]
"""Makes a runtime's predictor from a file; returns it and the role of the network."""

AddOptions = Callable[[argparse.ArgumentParser], None]

RUNTIMES = {"torch": "PyTorch", "mindspore": "MindSpore", "onnx": "ONNX Runtime"}


def run(runtime: str, arguments: list[str] | None, load_predictor: LoadPredictor, add_options: AddOptions) -> None:
    """Evaluate a checkpoint: print the table and write ``result.json``, and what ``--dump`` asks for.

    ``runtime`` is ``torch``, ``mindspore`` or ``onnx``; ``add_options`` adds what only that runtime knows.
    """
    options = _parser(runtime, add_options).parse_intermixed_args(arguments)
    if options.dump_logits and options.dump is None:
        raise UserError("--dump-logits needs --dump DIR to say where")
    config = experiment_of(options.experiment, options.overrides)
    packaged = Path(options.experiment) if is_model_folder(Path(options.experiment)) else None
    path = options.checkpoint or packaged or find_checkpoint(runtime, config.name)
    path = model_file(path, runtime)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}; check the path")
    dataset = open_dataset(config.dataset)
    ids = _ids(dataset, options)
    out = options.out or default_run_folder(runtime, config.name) / "eval"
    predictor, role = load_predictor(path, config, options)
    _make_folder(out, "--out")
    print(f"{config.name}: {path} ({role}), {len(ids)} images of the {options.list} list", file=sys.stderr, flush=True)
    outcome = evaluate(predictor, dataset, ids, config, on_image=_dumper(predictor, config, options))
    digest = _split_digest(dataset, config)
    content = result(outcome, config, split_digest=digest, checkpoint=path, role=role)
    content |= {"list": options.list, "limit": options.limit}
    write_json_atomic(out / "result.json", content)
    print(format_table(content))
    print(f"written: {out / 'result.json'}")


def find_checkpoint(runtime: str, experiment: str) -> Path:
    """Return the best checkpoint of the experiment's default run folders, one of ``runtime`` first."""
    suffixes = (".onnx", ".pth", ".ckpt") if runtime == "onnx" else (".pth", ".ckpt")
    folders = [RunFolder(default_run_folder(name, experiment)) for name in dict.fromkeys((runtime, *RUNTIMES))]
    for folder in folders:
        for suffix in suffixes:
            if folder.best(suffix).is_file():
                return folder.best(suffix)
    places = ", ".join(str(folder.path) for folder in folders)
    raise UserError(f"no best checkpoint of {experiment} in {places}; train it first, or name a file with --checkpoint")


def _parser(runtime: str, add_options: AddOptions) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {runtime}_impl.eval", description=f"Evaluate a checkpoint in {RUNTIMES[runtime]}."
    )
    parser.add_argument("experiment", help="DATASET/SPLIT/METHOD, e.g. camvid/1_8/u2pl, or a packaged model's folder")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings, e.g. evaluation.protocol=whole")
    kinds = ".onnx, or a checkpoint that is exported first" if runtime == "onnx" else ".pth, .ckpt or .safetensors"
    parser.add_argument(
        "--checkpoint", type=Path, help=f"{kinds}, or a packaged model's folder (default: best of the run folder)"
    )
    parser.add_argument("--role", help="which network of a file of several, e.g. teacher (default: the one to deploy)")
    parser.add_argument("--list", choices=("train", "val"), default="val", help="which images (default: val)")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N images")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where result.json goes (default: eval/ of the run folder)"
    )
    parser.add_argument(
        "--dump", type=Path, metavar="DIR", help="also write the class ids of every image to DIR/ids/ID.png"
    )
    parser.add_argument(
        "--dump-logits", type=positive, default=0, metavar="N",
        help="with --dump: logits of the first N images, each as a whole and at its own size, to DIR/logits/ID.npy",
    )  # fmt: skip
    add_options(parser)
    return parser


def _ids(dataset: Dataset, options: argparse.Namespace) -> tuple[str, ...]:
    ids = dataset.train_ids if options.list == "train" else dataset.val_ids
    return ids[: options.limit]


def _make_folder(path: Path, option: str) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{option} {path} cannot be made ({error.strerror}); choose another folder") from None


def _dumper(predictor: Predictor, config: ExperimentConfig, options: argparse.Namespace) -> OnImage | None:
    if options.dump is None:
        return None
    _make_folder(options.dump, "--dump")
    palette = colours(config.dataset.palette, len(config.dataset.classes))
    left = options.dump_logits

    def dump(image_id: str, image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> None:
        nonlocal left
        write_label_png(options.dump / "ids" / f"{image_id}.png", prediction, palette)
        if left > 0:
            left -= 1
            planes = normalise(image, config.augment).transpose(2, 0, 1)
            logits = predictor.logits(np.ascontiguousarray(planes[None]), image.shape[:2])
            with atomic_path(options.dump / "logits" / f"{image_id}.npy") as temporary:
                np.save(temporary, logits[0])

    return dump


def _split_digest(dataset: Dataset, config: ExperimentConfig) -> str | None:
    """The labelled list's digest; None where the list is not here, which evaluation does not need."""
    try:
        return resolve(dataset, config.split).digest
    except UserError as error:
        print(f"split not recorded: {error}", file=sys.stderr)
        return None
