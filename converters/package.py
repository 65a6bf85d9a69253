"""``python -m converters.package RUN OUT``: a trained network as one folder that can be evaluated, deployed and passed on.

OUT gets ``model.safetensors`` (PyTorch, MindSpore), ``model.onnx`` (ONNX Runtime, verified) and what ``--precision`` adds to it,
``config.yaml``, ``result.json``, ``model.json`` for programs without this project, and ``README.md``: what it is, data, split
digest, protocol, scores per runtime, gates of every precision, licence notes.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.checkpoints.checkpoint import read
from common.command_line import positive, run_command, user_path
from common.config.schema import ExperimentConfig
from common.errors import CheckFailed, UserError
from common.evaluation.results import read_result
from common.experiment import load
from common.files import atomic_folder, read_json, sha256, write_json_atomic, write_text_atomic
from common.models.exported_graph import GraphMetadata
from common.models.model_folder import CARD, CONFIG, GRAPH, RESULT, WEIGHTS
from common.runs.run_folder import RunFolder
from common.runtimes import RUNTIMES, TRAINED
from common.splits.registry import identify, known_splits
from converters.convert import save
from converters.model_json import CONSUMER, MODEL_JSON, describe, graph_files
from converters.triton import TRITON, write_triton
from converters.web import NPM, WEB, write_web

TERMS = {
    "voc": "Pascal VOC 2012 images come from Flickr and are for research under the VOC terms; SBD's masks are research data "
    "without a clear licence.",
    "voc_mini": "Pascal VOC 2012 images come from Flickr and are for research under the VOC terms.",
    "cityscapes": "Cityscapes is for non-commercial use under its own licence; it must not be passed on.",
    "camvid": "CamVid in SegNet's form is under CC BY-NC 4.0 as far as known: research, not commercial use.",
    "shapes": "The training images were drawn by code; there are no terms.",
}
"""What is known of the terms of a data set, which also concern what was trained on it."""
UNKNOWN_TERMS = "The terms of this data set are not known here; whoever passes the model on must know them."
PROGRAM_TERMS = "The program that made this is under Apache-2.0; that says nothing of the weights."
BACKBONE_TERMS = "The encoder started from weights trained on ImageNet, which is for non-commercial research."


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


def licence(config: ExperimentConfig) -> dict[str, str | None]:
    """Return what is known of the terms of program, data and backbone; nobody has stated those of the weights."""
    return {
        "program": "Apache-2.0",
        "weights": None,
        "data": TERMS.get(config.dataset.name, UNKNOWN_TERMS),
        "backbone": BACKBONE_TERMS if config.network.backbone_weights else None,
    }


def card(config: ExperimentConfig, result: Mapping[str, Any], scores: Mapping[str, Any], folder: Path) -> str:
    """Return the text of ``README.md``; ``scores`` are those of ``parity.json`` by runtime, ``folder`` holds the files."""
    dataset, network, protocol = config.dataset, config.network, result["protocol"]
    graphs, terms = graph_files(folder), licence(config)
    lines = [
        f"# {config.name}",
        "",
        f"A semantic segmentation network: DeepLabv3+ on {network.encoder}, {len(dataset.classes)} classes, trained by the "
        f"method `{config.method.name}` ({result['role'] or 'the'} network).",
        "",
        "| file | for | SHA-256 |",
        "| --- | --- | --- |",
        f"| `{WEIGHTS}` | PyTorch, MindSpore | `{sha256(folder / WEIGHTS)}` |",
        *_graph_lines(graphs),
        f"| `{CONFIG}` | every setting of the training | |",
        f"| `{RESULT}` | the evaluation of the run | |",
        f"| `{MODEL_JSON}` | programs without this project: signature, classes, colours, normalisation, digests, gates | |",
        "",
        "```",
        "python -m torch_impl.eval    THIS_FOLDER                      # mindspore_impl and onnx_impl alike",
        "python -m onnx_impl.predict  THIS_FOLDER IMAGES --out DIR",
        "python -m onnx_impl.serve    THIS_FOLDER                      # http://127.0.0.1:8000/",
        *(
            ["python -m http.server --directory THIS_FOLDER/web     # the page in the browser"]
            * (folder / WEB).is_dir()
        ),
        *(["tritonserver --model-repository THIS_FOLDER/triton"] * (folder / TRITON).is_dir()),
        "```",
        "",
        "With NumPy and ONNX Runtime alone:",
        "",
        "```python",
        *CONSUMER.replace("PRECISION", "int8" if "int8" in graphs else "fp32").splitlines(),
        "```",
        "",
        *_gate_lines(graphs),
        "## Data",
        "",
        f"- data set: {dataset.name}; classes: {', '.join(dataset.classes)}",
        *_split_lines(config, result),
        f"- input: RGB, minus {list(config.normalisation.mean)}, divided by {list(config.normalisation.std)} (pixels in 0..255)",
        "",
        "## Scores",
        "",
        f"Protocol: {', '.join(f'{key} {value}' for key, value in protocol.items() if value is not None)}; "
        f"{result['images']} images of the validation list.",
        "",
        *_score_lines(result, scores),
        "",
        "## Licence",
        "",
        f"- Data: {terms['data']}",
        *([f"- {terms['backbone']}"] if terms["backbone"] else []),
        f"- {PROGRAM_TERMS}",
        "",
    ]
    return "\n".join(lines)


def _graph_lines(graphs: Mapping[str, tuple[Path, GraphMetadata]]) -> list[str]:
    lines = []
    for precision, (path, _) in graphs.items():
        how = "verified against PyTorch when it was made" if precision == "fp32" else f"{precision}, see Precisions"
        lines.append(f"| `{path.name}` | ONNX Runtime; {how} | `{sha256(path)}` |")
    return lines


def _gate_lines(graphs: Mapping[str, tuple[Path, GraphMetadata]]) -> list[str]:
    """What the reduced precisions lost against float32, on what, and how they were made."""
    rows = []
    for precision, (path, metadata) in graphs.items():
        if precision != "fp32":
            gates, made = metadata.gates, metadata.quantization
            how = (
                f"{made['scheme']}, {made['calibration']} on {made['images']} training images"
                if made
                else "rounded weights"
            )
            if made and made["kept_float"]:
                how += f"; float stayed {', '.join(made['kept_float'])}"
            limits = gates["limits"]
            rows.append(
                f"| {precision} | {path.stat().st_size / 1e6:.1f} | {gates['float32_miou']:.3f} -> {gates['miou']:.3f} | "
                f"{gates['worst_class']} {-gates['class_drop']:+.2f} | {100 * gates['flips']:.3f} | {gates['images']} | "
                f"{limits['drop']:g} / {limits['class_drop']:g} / {100 * limits['flips']:g} | {how} |"
            )
    if not rows:
        return []
    head = "| precision | MB | mIoU % | worst class, points | pixels changed % | images | limits of the three | made |"
    return ["## Precisions", "", head, f"| {' | '.join(['---'] * 8)} |", *rows, ""]


def _split_lines(config: ExperimentConfig, result: Mapping[str, Any]) -> list[str]:
    split = result["split"]
    known = known_splits(config.dataset.name).get(config.split.id)
    lines = [
        f"- labelled images: split `{split['dataset']}/{split['id']}`, SHA-256 of the sorted ids `{split['digest']}`"
    ]
    if known:
        registered = f"registered, {known.labelled.count} images"
        right = split["digest"] in (None, known.labelled.digest)
        other = identify(split["digest"]) if not right else None
        lines[0] += f" ({registered})" if right else f" (NOT the registered list: {other or 'another one'})"
        lines.append(f"- origin of the list: {known.origin}")
    return lines


def _score_lines(result: Mapping[str, Any], scores: Mapping[str, Any]) -> list[str]:
    runtime = result["runtime"]
    rows = [
        (runtime["name"], runtime["version"], runtime["device"], result["images"], result["miou_percent"], "the run")
    ]
    for name, score in scores.items():
        rows.append((name, score["version"], score["device"], score["images"], score["miou_percent"], "parity"))
    lines = ["| runtime | version | device | images | mIoU % | from |", "| --- | --- | --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    missing = [name for name in RUNTIMES if name not in scores and name != runtime["name"]]
    if missing:
        lines += ["", f"Not evaluated in {', '.join(missing)}; `python -m converters.parity` does."]
    return lines + ["", f"IoU % by class: {', '.join(_classes(result))}."]


def _classes(result: Mapping[str, Any]) -> list[str]:
    return [f"{name} {'-' if value is None else f'{100 * value:.1f}'}" for name, value in result["iou"].items()]


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
