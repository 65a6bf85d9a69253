"""From any exported graph to the one that browsers and servers run: bytes of a picture in, bytes of class ids out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from common.errors import CheckFailed
from common.files import atomic_path
from common.models.exported_graph import GraphMetadata
from common.rng import generator
from onnx_impl import graphs
from onnx_impl.predictor import OnnxPredictor

SHAPES = ((1, 65, 97), (2, 33, 47), (1, 1, 1))
"""Batch, height and width of the pictures with which both graphs are compared, where the shape is free."""


def write_picture_graph(source: Path, target: Path) -> GraphMetadata:
    """Write the picture graph of ``source`` to ``target`` and return what it says of itself.

    Whatever the precision of ``source``, its arithmetic is kept. Raises :class:`CheckFailed` when a class id differs.
    """
    reference = OnnxPredictor(source, threads=1)
    metadata, model = reference.metadata, onnx.load(source)
    if metadata.output == "logits":
        model = with_class_ids(model)
    if metadata.input == "image":
        model = graphs.with_picture_input(model, metadata.mean, metadata.std)
    metadata = dataclasses.replace(metadata, input="picture", output="class_ids")
    with atomic_path(target) as temporary:
        graphs.save(model, metadata, temporary)
        made = OnnxPredictor(temporary, threads=1)
        for shape in SHAPES:
            batch, size = metadata.batch or shape[0], metadata.size or shape[1:]
            pictures = generator(0, "picture graph", *shape).integers(0, 256, (batch, *size, 3), np.uint8)
            differ = int((made.picture_class_ids(pictures) != reference.picture_class_ids(pictures)).sum())
            if differ:
                raise CheckFailed(f"{target} was not written: {differ} of {batch * size[0] * size[1]} class ids differ")
    return metadata


def with_class_ids(model: Any) -> Any:
    """Return ``model`` with the one output ``class_ids``, uint8 ``[B,H,W]``, in place of logits; of equal ones the first wins."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    logits = next(output for output in graph.output if output.name == "logits")
    ids = helper.make_tensor_value_info("class_ids", TensorProto.UINT8, [None, None, None])
    for axis, source in enumerate((0, 2, 3)):
        ids.type.tensor_type.shape.dim[axis].CopyFrom(logits.type.tensor_type.shape.dim[source])
    graph.node.append(
        helper.make_node("ArgMax", ["logits"], ["class_ids.whole"], "class_ids.argmax", axis=1, keepdims=0)
    )
    graph.node.append(
        helper.make_node("Cast", ["class_ids.whole"], ["class_ids"], "class_ids.cast", to=TensorProto.UINT8)
    )
    del graph.output[:]
    graph.output.append(ids)
    return changed
