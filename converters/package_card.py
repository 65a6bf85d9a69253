"""``README.md`` of a packaged model: what it is, data, split digest, protocol, scores per runtime, gates, licence notes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.config.schema import ExperimentConfig
from common.files import sha256
from common.models.exported_graph import GraphMetadata
from common.models.model_folder import CONFIG, RESULT, WEIGHTS
from common.runtimes import RUNTIMES
from common.splits.registry import identify, known_splits
from converters.model_json import CONSUMER, MODEL_JSON, graph_files
from converters.triton import TRITON
from converters.web import WEB

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
