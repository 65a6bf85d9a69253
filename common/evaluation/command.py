"""The body of ``python -m torch_impl.eval``, ``mindspore_impl.eval`` and ``onnx_impl.eval``: one result for all."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.command_line import EXPERIMENT, experiment_arguments, positive, user_path
from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import Dataset, open_dataset
from common.errors import UserError
from common.evaluation.evaluate import OnImage, evaluate
from common.evaluation.results import format_table, result
from common.files import write_array_atomic, write_json_atomic, write_text_atomic
from common.images.normalise import planes
from common.models.model_folder import experiment_of, is_model_folder, model_file
from common.paths import at_home
from common.prediction.branch_mean import BranchMean
from common.prediction.predictor import Predictor
from common.reports import charts
from common.reports.palettes import colours, write_label_png
from common.reports.pictures import comparison, write_png
from common.runs import snapshots
from common.runs.run_folder import RunFolder, default_run_folder
from common.runtimes import RUNTIMES, TRAINED
from common.splits.resolve import resolve

LoadPredictor = Callable[[Path, ExperimentConfig, str | None, argparse.Namespace], tuple[Predictor, str]]
"""Makes a runtime's predictor of the network of a role (None: the one to deploy) from a file, with the runtime's own options;
returns it and the role."""

AddOptions = Callable[[argparse.ArgumentParser], None]

MEAN = "mean"
"""The role that stands for the mean of both branches' soft maxima."""

OF_BOTH = (MEAN, "branch2")
"""Roles that a run's best checkpoint, of one network, does not have."""


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """What one evaluation command asks for: of which network, on which images, and what is written where.

    ``role`` None: the network to deploy. ``predictor_of`` makes the runtime's predictor of a file's network of a role.
    """

    runtime: str
    config: ExperimentConfig
    predictor_of: Callable[[Path, str | None], tuple[Predictor, str]]
    role: str | None
    list: Literal["train", "val"]
    limit: int | None
    run_dir: Path | None
    out: Path
    dump: Path | None
    dump_logits: int
    save_images: bool

    def ids(self, dataset: Dataset) -> tuple[str, ...]:
        """The images to judge."""
        return (dataset.train_ids if self.list == "train" else dataset.val_ids)[: self.limit]

    def select(self, selection: str) -> list[tuple[int | None, Path]]:
        """Return epoch and file of what ``--checkpoint`` selects from the run folder: ``last`` or snapshots."""
        folders = run_folders(self.runtime, self.config.name, self.run_dir)
        return snapshots.select(selection, folders, [s for s in RUNTIMES[self.runtime].reads if s in TRAINED])

    def default_checkpoint(self) -> Path:
        """Return the best checkpoint, or the last one, which has all networks, where the best lacks the role."""
        if self.role in OF_BOTH:
            return self.select("last")[0][1]
        return find_checkpoint(self.runtime, self.config.name, self.run_dir)

    def load(self, path: Path) -> tuple[Predictor, str]:
        """Return the predictor of the file's network of the role, and which network that is."""
        if self.role == MEAN:
            first, second = (self.predictor_of(path, role)[0] for role in ("branch1", "branch2"))
            return BranchMean(first, second), "mean of branch1 and branch2"
        return self.predictor_of(path, self.role)


def run(runtime: str, arguments: list[str] | None, load_predictor: LoadPredictor, add_options: AddOptions) -> None:
    """Evaluate a checkpoint, or the snapshots of several epochs: print the table, write ``result.json`` and what is asked for.

    ``runtime`` is ``torch``, ``mindspore`` or ``onnx``; ``add_options`` adds what only that runtime knows.
    """
    options = _parser(runtime, add_options).parse_intermixed_args(arguments)
    if options.dump_logits and options.dump is None:
        raise UserError("--dump-logits needs --dump DIR to say where")
    request = _request(runtime, options, load_predictor)
    selection = str(options.checkpoint or "")
    if snapshots.is_range(selection):
        if request.dump is not None:
            raise UserError(f"--dump is for one checkpoint, not for --checkpoint {selection}; name one epoch")
        _evaluate_range(request, request.select(selection))
        return
    if snapshots.is_selection(selection):
        path = request.select(selection)[0][1]
    else:
        folder = at_home(options.experiment)
        packaged = folder if is_model_folder(folder) else None
        path = model_file(options.checkpoint or packaged or request.default_checkpoint(), runtime)
    content = _evaluate_file(request, path, request.out)
    print(format_table(content))
    print(f"written: {request.out / 'result.json'}")


def _request(runtime: str, options: argparse.Namespace, load_predictor: LoadPredictor) -> EvalRequest:
    config = experiment_of(options.experiment, options.overrides)
    return EvalRequest(
        runtime=runtime,
        config=config,
        predictor_of=lambda path, role: load_predictor(path, config, role, options),
        role=options.role or role_of_branch(config.evaluation.branch),
        list=options.list,
        limit=options.limit,
        run_dir=options.run_dir,
        out=options.out or (options.run_dir or default_run_folder(runtime, config.name)) / "eval",
        dump=options.dump,
        dump_logits=options.dump_logits,
        save_images=options.save_images,
    )


def role_of_branch(branch: Literal[1, 2, "mean"]) -> str | None:
    """Return the role that the setting ``branch`` (``evaluation.branch``) is a short form of; 1 leaves the choice to the file."""
    return {1: None, 2: "branch2", "mean": MEAN}[branch]


def _evaluate_file(request: EvalRequest, path: Path, out: Path) -> dict[str, Any]:
    """Evaluate one checkpoint, write ``result.json`` and what else is asked for into ``out``, and return the result."""
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}; check the path")
    config, dataset = request.config, open_dataset(request.config.dataset)
    ids = request.ids(dataset)
    _try_folder(out, "--out")
    predictor, role = request.load(path)
    _make_folder(out, "--out")
    print(f"{config.name}: {path} ({role}), {len(ids)} images of the {request.list} list", file=sys.stderr, flush=True)
    watchers = [watcher for watcher in (_dumper(request, predictor), _strips(request, out)) if watcher is not None]
    outcome = evaluate(predictor, dataset, ids, config, on_image=_all_of(watchers))
    digest = _split_digest(dataset, config)
    content = result(outcome, config, split_digest=digest, checkpoint=path, role=role)
    content |= {"list": request.list, "limit": request.limit}
    write_json_atomic(out / "result.json", content)
    return content


def _evaluate_range(request: EvalRequest, chosen: list[tuple[int | None, Path]]) -> None:
    """Evaluate snapshots one after the other: a result each, then a table, and a curve where charts can be drawn."""
    results = {}
    for epoch, path in chosen:
        results[epoch] = _evaluate_file(request, path, request.out / f"epoch-{epoch}")
        print(f"epoch {epoch}: mIoU {results[epoch]['miou_percent']:.3f}", file=sys.stderr, flush=True)
    print(write_summary(results, request.out))
    chart = request.out / "epochs.svg" if charts.available() else charts.MISSING
    print(f"written: {request.out / 'epochs.json'}, {chart}")


def run_folders(runtime: str, experiment: str, run_dir: Path | None = None) -> list[RunFolder]:
    """Return ``run_dir``, or the experiment's default run folders, that of ``runtime`` first."""
    names = dict.fromkeys((runtime, *RUNTIMES))
    return [RunFolder(f) for f in ([run_dir] if run_dir else [default_run_folder(name, experiment) for name in names])]


def find_checkpoint(runtime: str, experiment: str, run_dir: Path | None = None) -> Path:
    """Return the best checkpoint of :func:`run_folders`."""
    folders = run_folders(runtime, experiment, run_dir)
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
    experiment_arguments(
        parser, f"{EXPERIMENT}, or a packaged model's folder", "settings, e.g. evaluation.protocol=whole"
    )
    kinds = ".onnx, or a checkpoint that is exported first" if runtime == "onnx" else ".pth, .ckpt or .safetensors"
    parser.add_argument(
        "--checkpoint", type=user_path, metavar="FILE|last|N|A-B|A-",
        help=f"{kinds}; a packaged model's folder; or of the run folder: last, or the snapshot of epoch N, of epochs A to B, "
        "of all from A on, counted from 0 (default: best of the run folder)",
    )  # fmt: skip
    parser.add_argument("--run-dir", type=user_path, metavar="DIR", help="run folder (default: the experiment's)")
    parser.add_argument(
        "--save-images", action="store_true", help="write image, label, prediction and difference to images/ID.png"
    )
    parser.add_argument(
        "--role",
        help="which network of a file of several, e.g. teacher, or the mean of both branches (default: the one to deploy)",
    )
    parser.add_argument("--list", choices=("train", "val"), default="val", help="which images (default: val)")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N images")
    parser.add_argument(
        "--out", type=user_path, metavar="DIR", help="where result.json goes (default: eval/ of the run folder)"
    )
    parser.add_argument(
        "--dump", type=user_path, metavar="DIR", help="also write the class ids of every image to DIR/ids/ID.png"
    )
    parser.add_argument(
        "--dump-logits", type=positive, default=0, metavar="N",
        help="with --dump: logits of the first N images, each as a whole and at its own size, to DIR/logits/ID.npy",
    )  # fmt: skip
    add_options(parser)
    return parser


def _make_folder(path: Path, option: str) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{option} {path} cannot be made ({error.strerror}); choose another folder") from None


def _try_folder(path: Path, option: str) -> None:
    """Make a folder and take it back: what cannot be made is said before the network is loaded, which may leave nothing behind."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    _make_folder(path, option)
    for folder in new:
        folder.rmdir()


def _dumper(request: EvalRequest, predictor: Predictor) -> OnImage | None:
    """Return what writes the class ids and logits of ``--dump``."""
    if request.dump is None:
        return None
    _make_folder(request.dump, "--dump")
    config, left = request.config, request.dump_logits
    palette = colours(config.dataset.palette, len(config.dataset.classes))

    def dump(image_id: str, image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> None:
        nonlocal left
        write_label_png(request.dump / "ids" / f"{image_id}.png", prediction, palette)
        if left > 0:
            left -= 1
            logits = predictor.logits(planes(image, config.normalisation)[None], image.shape[:2])
            write_array_atomic(request.dump / "logits" / f"{image_id}.npy", logits[0])

    return dump


def _strips(request: EvalRequest, out: Path) -> OnImage | None:
    """Return what writes the pictures of ``--save-images``."""
    if not request.save_images:
        return None
    palette = colours(request.config.dataset.palette, len(request.config.dataset.classes))

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
    """Write ``epochs.json`` and, where charts can be drawn, the curve ``epochs.svg``; return all results as a table."""
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
    if charts.available():
        write_text_atomic(folder / "epochs.svg", charts.line_chart("Scores of the snapshots", series, "epoch", "%"))
    lines = ["epoch  " + "  ".join(columns)]
    for epoch, row in rows.items():
        scores = "  ".join(f"{_percent(row[name]):{len(name)}.3f}" for name in columns)
        lines.append(f"{epoch:5}  {scores}{'  best' if epoch == best else ''}")
    return "\n".join(lines)


def _percent(score: float | None) -> float:
    return float("nan") if score is None else 100 * score
