"""``package --triton``: a model repository for Triton's ONNX Runtime backend, one folder per precision.

Its picture graph takes bytes and gives bytes, so no code runs beside the model: ``tritonserver --model-repository OUT/triton``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from common.files import write_text_atomic
from common.models.exported_graph import GraphMetadata

TRITON = "triton"
"""The folder's name in a packaged model."""

BATCH = 8
"""Most pictures of one size that Triton may join to a batch, where sizes are fixed."""


def write_triton(folder: Path, name: str, sources: Sequence[Path]) -> list[str]:
    """Write the repository ``folder`` for the exported graphs ``sources``; return the names of its models.

    A model is called ``NAME``, reduced ones ``NAME_int8`` and so on, in letters that may stand in an address.
    """
    from onnx_impl.picture_graph import write_picture_graph

    plain, names = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "model", []
    for source in sources:
        scratch = folder / "model.onnx"
        metadata = write_picture_graph(source, scratch)
        names.append(plain if metadata.precision == "fp32" else f"{plain}_{metadata.precision}")
        target = folder / names[-1] / "1" / "model.onnx"
        target.parent.mkdir(parents=True)
        scratch.rename(target)
        write_text_atomic(folder / names[-1] / "config.pbtxt", config(names[-1], metadata))
    return names


def config(name: str, metadata: GraphMetadata) -> str:
    """Return the text of ``config.pbtxt``.

    Triton joins requests of one shape only, so it batches where height and width are fixed and the batch is free; its shapes
    are then those of one picture. Otherwise a request brings its own batch.
    """
    batched = metadata.size is not None and metadata.batch is None
    axes = [] if batched else [metadata.batch or -1]
    axes += metadata.size or (-1, -1)
    lines = [
        f'name: "{name}"',
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {BATCH if batched else 0}",
        f'input [ {{ name: "picture" data_type: TYPE_UINT8 dims: {[*axes, 3]} }} ]',
        f'output [ {{ name: "class_ids" data_type: TYPE_UINT8 dims: {axes} }} ]',
    ]
    return "\n".join([*lines, *(["dynamic_batching { }"] if batched else []), ""])
