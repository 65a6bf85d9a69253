"""The body of ``python -m torch_impl.eval``, ``mindspore_impl.eval`` and ``onnx_impl.eval``: one result for all."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.command_line import positive
from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import Dataset, open_dataset
from common.errors import UserError
from common.evaluation.evaluate import OnImage, evaluate
from common.evaluation.results import format_table, result
from common.files import atomic_path, write_json_atomic, write_text_atomic
from common.images.normalise import normalise
from common.models.model_folder import experiment_of, is_model_folder, model_file
from common.prediction.branch_mean import BranchMean
from common.prediction.predictor import Predictor
from common.reports.charts import line_chart
from common.reports.palettes import colours, write_label_png
from common.reports.pictures import comparison, write_png
from common.runs import snapshots
from common.runs.run_folder import RunFolder, default_run_folder
from common.runtimes import RUNTIMES, TRAINED
from common.splits.resolve import resolve

LoadPredictor = Callable[[Path, ExperimentConfig, argparse.Namespace], tuple[Predictor, str]]
"""Makes a runtime's predictor from a file; returns it and the role of the network."""

AddOptions = Callable[[argparse.ArgumentParser], None]


def run(runtime: str, arguments: list[str] | None, load_predictor: LoadPredictor, add_options: AddOptions) -> None:
    """Evaluate a checkpoint, or the snapshots of several epochs: print the table, write ``result.json`` and what is asked for.

    ``runtime`` is ``torch``, ``mindspore`` or ``onnx``; ``add_options`` adds what only that runtime knows.
    """
    options = _parser(runtime, add_options).parse_intermixed_args(arguments)
    if options.dump_logits and options.dump is None:
        raise UserError("--dump-logits needs --dump DIR to say where")
    config = experiment_of(options.experiment, options.overrides)
    out = options.out or (options.run_dir or default_run_folder(runtime, config.name)) / "eval"
    selection = str(options.checkpoint or "")
    if snapshots.is_range(selection):
        if options.dump is not None:
            raise UserError(f"--dump is for one checkpoint, not for --checkpoint {selection}; name one epoch")
        _evaluate_range(
            snapshots.select(selection, *_places(runtime, config, options)), config, options, load_predictor, out
        )
        return
    if snapshots.is_selection(selection):
        path = snapshots.select(selection, *_places(runtime, config, options))[0][1]
    else:
        packaged = Path(options.experiment) if is_model_folder(Path(options.experiment)) else None
        path = model_file(options.checkpoint or packaged or _default_checkpoint(runtime, config, options), runtime)
    content = _evaluate_file(path, config, options, load_predictor, out)
    print(format_table(content))
    print(f"written: {out / 'result.json'}")


def _evaluate_file(
    path: Path, config: ExperimentConfig, options: argparse.Namespace, load_predictor: LoadPredictor, out: Path
) -> dict[str, Any]:
    """Evaluate one checkpoint, write ``result.json`` and what else is asked for into ``out``, and return the result."""
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}; check the path")
    dataset = open_dataset(config.dataset)
    ids = _ids(dataset, options)
    predictor, role = _load(path, config, options, load_predictor)
    _make_folder(out, "--out")
    print(f"{config.name}: {path} ({role}), {len(ids)} images of the {options.list} list", file=sys.stderr, flush=True)
    watchers = [_dumper(predictor, config, options), _strips(config, options, out)]
    outcome = evaluate(predictor, dataset, ids, config, on_image=_all_of([w for w in watchers if w is not None]))
    digest = _split_digest(dataset, config)
    content = result(outcome, config, split_digest=digest, checkpoint=path, role=role)
    content |= {"list": options.list, "limit": options.limit}
    write_json_atomic(out / "result.json", content)
    return content


def _evaluate_range(
    chosen: list[tuple[int | None, Path]],
    config: ExperimentConfig,
    options: argparse.Namespace,
    load_predictor: LoadPredictor,
    out: Path,
) -> None:
    """Evaluate snapshots one after the other: a result each, then a table and a curve over their epochs."""
    results = {}
    for epoch, path in chosen:
        results[epoch] = _evaluate_file(path, config, options, load_predictor, out / f"epoch-{epoch}")
        print(f"epoch {epoch}: mIoU {results[epoch]['miou_percent']:.3f}", file=sys.stderr, flush=True)
    print(snapshots.write_summary(results, out))
    print(f"written: {out / 'epochs.json'}, {out / 'epochs.svg'}")


def _load(
    path: Path, config: ExperimentConfig, options: argparse.Namespace, load_predictor: LoadPredictor
) -> tuple[Predictor, str]:
    """Return the predictor of the network that ``--role`` names, else of the branch that the settings ask for."""

    def of(role: str | None) -> tuple[Predictor, str]:
        return load_predictor(path, config, argparse.Namespace(**{**vars(options), "role": role}))

    branch = config.evaluation.branch
    if options.role is not None or branch == 1:
        return of(options.role)
    if branch == "mean":
        return BranchMean(of("branch1")[0], of("branch2")[0]), "mean of branch1 and branch2"
    return of(f"branch{branch}")


def _places(
    runtime: str, config: ExperimentConfig, options: argparse.Namespace
) -> tuple[list[RunFolder], tuple[str, ...]]:
    """Return the run folders in which checkpoints are looked for, and their suffixes."""
    names = dict.fromkeys((runtime, *RUNTIMES))
    folders = [options.run_dir] if options.run_dir else [default_run_folder(name, config.name) for name in names]
    return [RunFolder(folder) for folder in folders], tuple(s for s in RUNTIMES[runtime].reads if s in TRAINED)


def _default_checkpoint(runtime: str, config: ExperimentConfig, options: argparse.Namespace) -> Path:
    """Return the best checkpoint; where another branch than its one is asked for, the last, which has both."""
    if config.evaluation.branch == 1:
        return find_checkpoint(runtime, config.name, options.run_dir)
    return snapshots.select("last", *_places(runtime, config, options))[0][1]


def find_checkpoint(runtime: str, experiment: str, run_dir: Path | None = None) -> Path:
    """Return the best checkpoint of ``run_dir``, or of the experiment's default run folders, one of ``runtime`` first."""
    names = dict.fromkeys((runtime, *RUNTIMES))
    folders = [RunFolder(f) for f in ([run_dir] if run_dir else [default_run_folder(n, experiment) for n in names])]
    for folder in folders:
        for suffix in RUNTIMES[runtime].reads:
            if folder.best(suffix).is_file():
                return folder.best(suffix)
    places = ", ".join(str(folder.path) for folder in folders)
    raise UserError(f"no best checkpoint of {experiment} in {places}; train it first, or name a file with --checkpoint")


def _parser(runtime: str, add_options: AddOptions) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {runtime}_impl.eval", description=f"Evaluate a checkpoint in {RUNTIMES[runtime].title}."
    )
    parser.add_argument("experiment", help="DATASET/SPLIT/METHOD, e.g. camvid/1_8/u2pl, or a packaged model's folder")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings, e.g. evaluation.protocol=whole")
    kinds = ".onnx, or a checkpoint that is exported first" if runtime == "onnx" else ".pth, .ckpt or .safetensors"
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE|last|N|A-B|A-",
        help=f"{kinds}; a packaged model's folder; or of the run folder: last, or the snapshot of epoch N, of epochs A to B, of all from A on, "
        "counted from 0 (default: best of the run folder)",
    )  # fmt: skip
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="run folder (default: the experiment's)")
    parser.add_argument(
        "--save-images", action="store_true", help="write image, label, prediction and difference to images/ID.png"
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


def _strips(config: ExperimentConfig, options: argparse.Namespace, out: Path) -> OnImage | None:
    """Return what writes the pictures of ``--save-images``."""
    if not options.save_images:
        return None
    palette = colours(config.dataset.palette, len(config.dataset.classes))

    def save(image_id: str, image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> None:
        write_png(out / "images" / f"{image_id}.png", comparison(image, label, prediction, palette))

    return save


def _all_of(watchers: list[OnImage]) -> OnImage | None:
    def call(*arguments: Any) -> None:
        for watcher in watchers:
            watcher(*arguments)

    return call if watchers else None


def _split_digest(dataset: Dataset, config: ExperimentConfig) -> str | None:
    """The labelled list's digest; None where the list is not here, which evaluation does not need."""
    try:
        return resolve(dataset, config.split).digest
    except UserError as error:
        print(f"split not recorded: {error}", file=sys.stderr)
        return None


def write_summary(results: dict[int, dict[str, Any]], folder: Path) -> str:
    """Write ``epochs.json`` and the curve ``epochs.svg`` over all results by epoch, and return them as a table."""
    columns = {
        "mIoU": "miou",
        "mIoU without the first class": "miou_without_first",
        "pixel accuracy": "pixel_accuracy",
    }
    rows = {
        epoch: {name: content[key] for name, key in columns.items()} | {"checkpoint": content["checkpoint"]["path"]}
        for epoch, content in results.items()
    }
    best = max(results, key=lambda epoch: results[epoch]["miou"])
    write_json_atomic(folder / "epochs.json", {"best_epoch": best, "epochs": rows})
    series = {name: [(epoch, _percent(row[name])) for epoch, row in rows.items()] for name in columns}
    write_text_atomic(folder / "epochs.svg", line_chart("Scores of the snapshots", series, "epoch", "%"))
    lines = ["epoch  " + "  ".join(columns)]
    for epoch, row in rows.items():
        scores = "  ".join(f"{_percent(row[name]):{len(name)}.3f}" for name in columns)
        lines.append(f"{epoch:5}  {scores}{'  best' if epoch == best else ''}")
    return "\n".join(lines)


def _percent(score: float | None) -> float:
    return float("nan") if score is None else 100 * score
