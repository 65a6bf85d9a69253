"""Other forms of an exported graph with the same answer: bytes in, fixed shapes, one pooling operator; ONNX in, ONNX out.

Every function returns a new model and leaves its argument as it was. They need the package onnx, not ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from common.arrays import Size
from common.errors import UserError
from common.models.exported_graph import GraphMetadata

PICTURE, IMAGE = "picture", "image"
"""Names of the two inputs: bytes as a file or a camera gives them, and the network's normalised planes."""

FREE = ("batch", "height", "width")
"""Names of the axes of an exported graph that take any size."""


def with_global_pooling(model: Any) -> Any:
    """Return ``model`` with every mean over both image axes written as ``GlobalAveragePool``.

    The same number, but for the order of the sum: ONNX Runtime's int8 arithmetic has that operator and not the mean.
    """
    changed = _copy(model)
    constants = {tensor.name: tensor for tensor in changed.graph.initializer}
    for node in changed.graph.node:
        if _is_image_mean(node, constants):
            node.op_type = "GlobalAveragePool"
            del node.input[1:]
            del node.attribute[:]
    used = {name for node in changed.graph.node for name in node.input}
    unused = [tensor for tensor in changed.graph.initializer if tensor.name not in used]
    for tensor in unused:
        changed.graph.initializer.remove(tensor)
    return changed


def with_picture_input(model: Any, mean: Sequence[float], std: Sequence[float]) -> Any:
    """Return ``model`` with the input ``picture``, uint8 RGB ``[B,H,W,3]``, in place of ``image``.

    ``mean`` and ``std`` normalise pixels in 0..255 per channel, by the float32 operations of ``normalise`` and so to the
    same bits. They cannot be folded into the first convolution, whose zero padding comes after them.
    """
    changed = _copy(model)
    graph = changed.graph
    (image,) = graph.input
    batch, _, height, width = image.type.tensor_type.shape.dim
    picture = helper.make_tensor_value_info(PICTURE, TensorProto.UINT8, [None, None, None, 3])
    for axis, source in enumerate((batch, height, width)):
        picture.type.tensor_type.shape.dim[axis].CopyFrom(source)
    del graph.input[:]
    graph.input.append(picture)
    for name, values in (("picture.mean", mean), ("picture.std", std)):
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.float32).reshape(1, 3, 1, 1), name))
    # Transposed as bytes, a quarter of the memory traffic.
    before = [
        helper.make_node("Transpose", [PICTURE], ["picture.planes"], "picture.transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["picture.planes"], ["picture.float"], "picture.cast", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["picture.float", "picture.mean"], ["picture.centred"], "picture.sub"),
        helper.make_node("Div", ["picture.centred", "picture.std"], [IMAGE], "picture.div"),
    ]
    for node in reversed(before):
        graph.node.insert(0, node)
    return changed


def with_fixed_shape(model: Any, batch: int | None, size: Size | None) -> Any:
    """Return ``model`` for exactly ``batch`` images of ``size`` (height, width); None leaves the axis free."""
    lengths = dict(zip(FREE, (batch, *(size or (None, None)))))
    changed = _copy(model)
    for value in (*changed.graph.input, *changed.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if lengths.get(axis.dim_param) is not None:
                axis.dim_value = lengths[axis.dim_param]
            elif size is not None and axis.dim_param not in ("", *FREE):
                axis.ClearField("dim_param")  # an expression of height or width, which is inferred below
    del changed.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(changed, check_type=True, strict_mode=True, data_prop=True)


def with_half_precision(model: Any) -> Any:
    """Return ``model`` with weights and arithmetic in float16, from the normalised image up to the last convolution.

    What comes after it stays float32: the final resize, which would round the logits, and the cosines of a prototype
    head. Inputs and outputs keep their types. Raises :class:`UserError` for a weight that float16 cannot hold.
    """
    changed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graph = changed.graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    last = max(index for index, node in enumerate(graph.node) if node.op_type == "Conv")
    nodes: list[Any] = []
    halved: set[str] = set()
    for index, node in enumerate(graph.node):
        inside = index <= last and not node.name.startswith(f"{PICTURE}.")
        for at, name in enumerate(node.input):
            if inside and (name in weights or kinds.get(name) == TensorProto.FLOAT):
                if name not in halved and name not in weights:
                    nodes.append(_cast(name, f"{name}.half", TensorProto.FLOAT16))
                halved.add(name)
                node.input[at] = f"{name}.half"
        nodes.append(node)
        for at, name in enumerate(node.output):
            if inside and kinds.get(name) == TensorProto.FLOAT:
                halved.add(name)
                node.output[at] = f"{name}.half"
    outside = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    made = {name for node in nodes for name in node.output}
    for name in sorted(halved & outside - weights.keys() - made - {value.name for value in graph.input}):
        at = next(index for index, node in enumerate(nodes) if f"{name}.half" in node.output)
        nodes.insert(at + 1, _cast(f"{name}.half", name, TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    for name in sorted(halved & weights.keys()):
        graph.initializer.append(_half(weights[name]))
        if name not in outside:
            graph.initializer.remove(weights[name])
    return changed


def save(model: Any, metadata: GraphMetadata, path: Path) -> None:
    """Check ``model`` against the ONNX standard and write it as one file with nothing but its own metadata.

    Operator sets that no node uses, which other tools add, are taken out.
    """
    finished = _copy(model)
    domains = {node.domain for node in finished.graph.node}
    kept = [entry for entry in finished.opset_import if entry.domain in domains]
    del finished.opset_import[:]
    finished.opset_import.extend(kept)
    del finished.metadata_props[:]
    helper.set_model_props(finished, metadata.properties())
    onnx.checker.check_model(finished, full_check=True)
    onnx.save(finished, path)


def _is_image_mean(node: Any, constants: dict[str, Any]) -> bool:
    if node.op_type != "ReduceMean" or len(node.input) != 2 or node.input[1] not in constants:
        return False
    keeps = all(attribute.i for attribute in node.attribute if attribute.name == "keepdims")
    axes = {int(axis) % 4 for axis in numpy_helper.to_array(constants[node.input[1]])}
    return keeps and axes == {2, 3}


def _cast(source: str, target: str, kind: int) -> Any:
    return helper.make_node("Cast", [source], [target], f"{target}.cast", to=kind)


def _half(tensor: Any) -> Any:
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= np.finfo(np.float16).max:
        raise UserError(f"weight {tensor.name} holds {largest:.3g}, more than float16 can; keep this model in float32")
    return numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}.half")


def _copy(model: Any) -> Any:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied
