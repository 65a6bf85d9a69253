"""``python -m converters.package RUN OUT``: a trained network as one folder that can be evaluated, deployed and passed on.

OUT gets ``model.safetensors`` (PyTorch, MindSpore), ``model.onnx`` (ONNX Runtime, verified) and what ``--precision`` adds to it,
``config.yaml``, ``result.json``, ``model.json`` for programs without this project, and ``README.md``: what it is, data, split
digest, protocol, scores per runtime, gates of every precision, licence notes.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.checkpoints.checkpoint import read
from common.command_line import positive, run_command, user_path
from common.errors import CheckFailed, UserError
from common.evaluation.results import read_result
from common.experiment import load
from common.files import atomic_folder, read_json, write_json_atomic, write_text_atomic
from common.models.model_folder import CARD, CONFIG, GRAPH, RESULT, WEIGHTS
from common.runs.run_folder import RunFolder
from common.runtimes import TRAINED
from converters.convert import save
from converters.model_json import MODEL_JSON, describe
from converters.package_card import card, licence
from converters.triton import TRITON, write_triton
from converters.web import NPM, WEB, write_web


def package(
    run: Path, out: Path, overwrite: bool = False, parity: Path | None = None, evaluate: bool = False,
    limit: int | None = None, precisions: Sequence[str] = (), web: Path | None = None, triton: bool = False,
) -> Path:  # fmt: skip
    """Write the folder ``out`` from the run folder ``run``, whole or not at all, and return it.

    ``parity`` is a ``parity.json`` with the scores of all runtimes (default: that of ``run``, if there is one); with
    ``evaluate`` it is made first, on ``limit`` images (None: all). ``precisions``, int8 or fp16, are added if they keep
    the limits of their commands on the validation images, the first ``limit`` again. ``web``, the npm package onnxruntime-web,
    adds a page for the browser, ``triton`` a model repository. Raises :class:`UserError` when the run has no finished
    checkpoint or ``out`` is in use, :class:`CheckFailed` when the runtimes do not agree or a precision loses too much.
    """
    from converters.export_onnx import export
    from converters.parity import run_parity

    folder = RunFolder(run)
    checkpoint = next((path for s in TRAINED if (path := folder.best(s)).is_file()), None)
    if checkpoint is None or not folder.config.is_file():
        raise UserError(
            f"{run} is no run folder with a best checkpoint and {CONFIG}; train first, or name the run's folder"
        )
    if out.exists() and not (overwrite and (out / CARD).is_file()) and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; choose another folder, or --overwrite one that was packaged before")
    config, result = load(folder.config), read_result(folder.result)
    parity = parity or run / "parity" / "parity.json"
    if evaluate:
        outcome = run_parity(str(run), [], checkpoint, parity.parent, limit)
        if outcome["failures"]:
            raise CheckFailed(f"{out} was not made: {'; '.join(outcome['failures'])} (details: {parity})")
    scores = _scores(parity) if parity.is_file() else {}
    with atomic_folder(out) as scratch:
        save(scratch / WEIGHTS, read(checkpoint).only())
        export(scratch / WEIGHTS, scratch / GRAPH, head=config.evaluation.head)
        shutil.copyfile(folder.config, scratch / CONFIG)
        shutil.copyfile(folder.result, scratch / RESULT)
        for precision in precisions:
            add_precision(scratch, precision, limit)
        graphs = sorted(scratch.glob("*.onnx"))
        if web is not None:
            write_web(scratch / WEB, out.name, config.dataset.palette, graphs, web)
        if triton:
            write_triton(scratch / TRITON, out.name, graphs)
        write_text_atomic(scratch / CARD, card(config, result, scores, scratch))
        write_json_atomic(scratch / MODEL_JSON, describe(config, result, licence(config), scratch))
    return out


def _scores(parity: Path) -> dict[str, dict[str, Any]]:
    """The scores of all runtimes from a ``parity.json``."""
    try:
        scores = read_json(parity)["scores"]
        if all(key in score for score in scores.values() for key in ("version", "device", "images", "miou_percent")):
            return scores
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(
        f"{parity} is no parity.json with the scores of all runtimes; make it with python -m converters.parity"
    )


def add_precision(folder: Path, precision: str, limit: int | None) -> None:
    """Write ``model_PRECISION.onnx`` beside the float32 model in a packaged model's ``folder``, within the default limits."""
    from onnx_impl import halve, quantize

    command = {"int8": quantize, "fp16": halve}[precision]
    target = folder / f"{Path(GRAPH).stem}_{precision}.onnx"
    judged = ["--limit", str(limit)] if limit else []
    command.main([str(folder / GRAPH), str(target), str(folder), *judged])


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m converters.package",
        description="Put a trained network with all that describes it into one folder.",
    )
    parser.add_argument("run", type=user_path, metavar="RUN", help="the run's folder, e.g. runs/torch/camvid_1_8_u2pl")
    parser.add_argument("out", type=user_path, metavar="OUT", help="the folder to make")
    parser.add_argument("--parity", type=user_path, metavar="FILE", help="parity.json with the scores of all runtimes")
    parser.add_argument("--evaluate", action="store_true", help="first score the network in all three runtimes")
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="with --evaluate and --precision: only the first N images"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that was packaged before")
    parser.add_argument(
        "--precision", nargs="+", choices=("int8", "fp16"), default=[],
        help="add these beside float32, each if it keeps its limits",
    )  # fmt: skip
    parser.add_argument(
        "--web", type=user_path, metavar="FILE", help=f"add a page for the browser; FILE is what `{NPM}` downloads"
    )
    parser.add_argument("--triton", action="store_true", help="add a model repository for the Triton server")
    options = parser.parse_args(arguments)
    if options.parity and not options.parity.is_file():
        raise UserError(f"no parity.json at {options.parity}; make it with python -m converters.parity")
    if options.web and not options.web.exists():
        raise UserError(f"there is no {options.web}; get it with {NPM}")
    if options.parity and options.evaluate:
        raise UserError("--evaluate makes the parity.json that --parity names; leave one out")
    made = package(
        options.run, options.out, options.overwrite, options.parity, evaluate=options.evaluate, limit=options.limit,
        precisions=dict.fromkeys(options.precision), web=options.web, triton=options.triton,
    )  # fmt: skip
    print(f"{made}: {', '.join(sorted(path.name for path in made.iterdir()))}")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
