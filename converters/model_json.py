"""``model.json`` of a packaged model: what a program needs that runs it without this project, and the lines that do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.config.schema import ExperimentConfig
from common.files import sha256
from common.models.exported_graph import GraphMetadata, read_properties
from common.reports.palettes import colours

MODEL_JSON = "model.json"
FORMAT = 1
"""Version of the keys below."""

CONSUMER = """\
import json
import numpy as np
import onnxruntime
model = json.load(open("THIS_FOLDER/model.json"))
session = onnxruntime.InferenceSession("THIS_FOLDER/" + model["graphs"]["PRECISION"]["file"], providers=["CPUExecutionProvider"])
mean, std = np.float32(model["normalisation"]["mean"]), np.float32(model["normalisation"]["std"])
picture = np.load("picture.npy")  # uint8 RGB [H,W,3]
logits = session.run(["logits"], {"image": ((picture - mean) / std).transpose(2, 0, 1)[None]})[0]
class_ids = logits.argmax(1)[0].astype(np.uint8)  # [H,W], an index into model["classes"]
colours = np.uint8(model["palette"])[class_ids]  # RGB [H,W,3]
"""
"""A program that needs NumPy and ONNX Runtime and nothing else; PRECISION is one of the package's."""


def graph_files(folder: Path) -> dict[str, tuple[Path, GraphMetadata]]:
    """Return the exported graphs directly in ``folder`` by precision, float32 first."""
    from onnx_impl.file_contents import read_contents

    graphs = {}
    for path in sorted(folder.glob("*.onnx")):
        metadata = read_properties(read_contents(path).properties, path)
        graphs[metadata.precision] = (path, metadata)
    return dict(sorted(graphs.items(), key=lambda item: item[0] != "fp32"))


def describe(
    config: ExperimentConfig, result: Mapping[str, Any], licence: Mapping[str, str | None], folder: Path
) -> dict[str, Any]:
    """Return the content of ``model.json`` for the files in ``folder``; ``licence`` is what is known of the terms."""
    graphs = graph_files(folder)
    names, normalisation = config.dataset.classes, config.normalisation
    return {
        "format": FORMAT,
        "name": config.name,
        "task": "semantic segmentation",
        "network": {"family": "DeepLabv3+", "encoder": config.network.encoder, "method": config.method.name, "role": result["role"]},
        "classes": list(names),
        "palette": colours(config.dataset.palette, len(names))[: len(names)].tolist(),
        "normalisation": {"channels": "RGB", "pixels": [0, 255], "mean": list(normalisation.mean), "std": list(normalisation.std)},
        "graphs": {precision: _graph(path, metadata) for precision, (path, metadata) in graphs.items()},
        "files": {
            path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != MODEL_JSON
        },
        "score": {key: result[key] for key in ("miou_percent", "images", "protocol")},
        "licence": dict(licence),
    }  # fmt: skip


def _graph(path: Path, metadata: GraphMetadata) -> dict[str, Any]:
    """One graph: its signature, -1 for what is free, how it was quantised, what it lost and the limits it kept."""
    batch, (height, width) = metadata.batch or -1, metadata.size or (-1, -1)
    return {
        "file": path.name,
        "input": {"name": "image", "type": "float32", "shape": [batch, 3, height, width]},
        "output": {"name": "logits", "type": "float32", "shape": [batch, len(metadata.classes), height, width]},
        "head": metadata.head,
        "quantization": metadata.quantization,
        "gates": metadata.gates,
    }
