"""What an ONNX file really holds, read from its nodes and weights whatever its metadata says; needs no package onnx."""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.checkpoints.protobuf import fields

GRAPH, PROPERTIES, NODE, INITIALIZER = 7, 14, 1, 5
"""Field numbers of ``ModelProto`` and ``GraphProto`` (onnx.proto3)."""
KEY, VALUE = 1, 2
"""Of ``StringStringEntryProto``."""
INPUT, OUTPUT, NODE_NAME, OPERATOR = 1, 2, 3, 4
"""Of ``NodeProto.input``, ``output``, ``name`` and ``op_type``."""
DATA_TYPE, NAME = 2, 8
"""Of ``TensorProto.data_type`` and ``TensorProto.name``."""

FLOAT, UINT8, INT8, INT32, HALF, BFLOAT16 = 1, 2, 3, 6, 10, 16
"""Values of ``TensorProto.DataType``."""
SIGNS = {UINT8: "U8", INT8: "S8"}

INTEGER_ARITHMETIC = {"ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}


@dataclass(frozen=True, kw_only=True)
class FileContents:
    """``operators`` counts the nodes by type; ``precision`` is fp32, fp16, bf16 or int8, ``scheme`` e.g. U8S8.

    The scheme names the 8-bit types of activations and weights (U unsigned, S signed), with ``dynamic`` for scales found
    while running and ``QOperator`` for quantised operators without the pairs around float ones; empty without 8 bit.
    ``properties`` is the metadata.
    """

    properties: dict[str, str]

    operators: Counter[str]
    precision: str
    scheme: str


def read_contents(path: Path) -> FileContents:
    """Return what the file's nodes, weights and metadata say. Raises ValueError for a file that is no ONNX model."""
    with open(path, "rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    graph, properties = None, {}
    for number, value in fields(data):
        if number == GRAPH:
            graph = value
        elif number == PROPERTIES:
            entry = dict(fields(value))
            properties[str(entry[KEY], "utf-8")] = str(entry.get(VALUE, b""), "utf-8")
    if not isinstance(graph, memoryview):
        raise ValueError("it has no graph")
    nodes, weights = [], {}
    for number, value in fields(graph):
        if number == NODE:
            nodes.append(_node(value))
        elif number == INITIALIZER:
            name, kind = _weight(value)
            weights[name] = kind
    operators = Counter(operator for operator, _ in nodes)
    scheme = _scheme(nodes, operators, weights)
    precision = _precision(scheme, set(weights.values()))
    return FileContents(properties=properties, operators=operators, precision=precision, scheme=scheme)


def _node(data: memoryview) -> tuple[str, list[str]]:
    operator, inputs = "", []
    for number, value in fields(data):
        if number == INPUT:
            inputs.append(str(value, "utf-8"))
        elif number == OPERATOR:
            operator = str(value, "utf-8")
        elif number in (OUTPUT, NODE_NAME):
            str(value, "utf-8")  # raises for what is no text: the package onnx would take it for bytes
    return operator, inputs


def _weight(data: memoryview) -> tuple[str, int]:
    name, kind = "", 0
    for number, value in fields(data):
        if number == NAME:
            name = str(value, "utf-8")
        elif number == DATA_TYPE:
            kind = value
    return name, kind


def _precision(scheme: str, types: set[int]) -> str:
    if scheme:
        return "int8"
    return "fp16" if HALF in types else "bf16" if BFLOAT16 in types else "fp32"


def _scheme(nodes: list[tuple[str, list[str]]], operators: Counter[str], weights: dict[str, int]) -> str:
    if operators.keys() & INTEGER_ARITHMETIC:
        return "dynamic"
    if any(name.startswith("QLinear") for name in operators):
        return "QOperator"
    activations, quantised = set(), set()
    for operator, inputs in nodes:
        if operator == "QuantizeLinear":
            # A weight may stay float in the file and be quantised by a node of its own, as TensorRT wants it.
            (quantised if inputs[0] in weights else activations).update(_signs(inputs[2:3], weights))
        elif operator == "DequantizeLinear":
            quantised.update(_signs(inputs[:1], weights))
    return "/".join(sorted(activations)) + "/".join(sorted(quantised))


def _signs(names: list[str], weights: dict[str, int]) -> Iterator[str]:
    for name in names:
        kind = weights.get(name, UINT8 if not name else 0)
        if kind in SIGNS:
            yield SIGNS[kind]
