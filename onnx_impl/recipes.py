"""How a float32 graph becomes an int8 one: which operators, which 8-bit types, which scales; and where it hurts.

Measured on x86: unsigned activations with signed weights per channel (U8S8) run two to four times as fast as float32,
signed activations (S8S8, the library's default) no faster at all; TensorRT takes symmetric S8S8 only. Resizes stay
float: in 8 bits they would round what they have just interpolated, the logits above all, to 256 levels.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

Target = Literal["cpu", "tensorrt"]
Calibration = Literal["percentile", "minmax", "entropy"]

OPERATORS = ("Conv", "Add", "Concat", "MaxPool", "Relu", "GlobalAveragePool")
PERCENTILE = 99.99
DEBUGGED = 2
"""Calibration images with which the noise of every convolution is measured: its intermediate results take much memory."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """``target`` is what shall run the file; ``reduce_range`` stores weights in 7 bits, for x86 CPUs without VNNI."""

    target: Target = "cpu"
    calibration: Calibration = "percentile"
    reduce_range: bool = False

    @property
    def scheme(self) -> str:
        """The 8-bit types of activations and weights."""
        return "U8S8" if self.target == "cpu" else "S8S8"


def prepare(source: Path, target: Path) -> None:
    """Write the graph of ``source`` with inferred shapes and folded operators, as quantisation wants it."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with _quiet():  # symbolic inference gives up on graphs of free size
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)


def quantise(
    source: Path, target: Path, name: str, inputs: Sequence[np.ndarray], recipe: Recipe, kept: Sequence[str]
) -> None:
    """Write the int8 form of a prepared graph; ``inputs`` go to its input ``name``, the nodes ``kept`` stay float."""
    from onnxruntime import quantization

    method = {"percentile": "Percentile", "minmax": "MinMax", "entropy": "Entropy"}[recipe.calibration]
    symmetric = recipe.target == "tensorrt"
    # TensorRT reads weights in float behind a pair of nodes, a pair for every reader, and biases in float.
    options = {"ActivationSymmetric": symmetric, "AddQDQPairToWeight": symmetric, "DedicatedQDQPair": symmetric}
    with _quiet():
        quantization.quantize_static(
            str(source),
            str(target),
            _Reader(name, inputs),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QInt8 if symmetric else quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=recipe.reduce_range,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_exclude=[*kept, *_after_last_convolution(onnx.load(source).graph)],
            calibrate_method=quantization.CalibrationMethod[method],
            extra_options=options
            | {"QuantizeBias": not symmetric, "CalibPercentile": PERCENTILE, "CalibStridedMinMax": 1},
        )


def finite(prepared: Path, name: str, inputs: Sequence[np.ndarray]) -> bool:
    """Whether every tensor of a prepared graph is finite on all ``inputs`` to its input ``name``."""
    from onnxruntime.quantization import qdq_loss_debug

    with tempfile.TemporaryDirectory() as folder, _quiet():
        augmented = Path(folder) / "augmented.onnx"
        qdq_loss_debug.modify_model_output_intermediate_tensors(str(prepared), str(augmented))
        tensors = qdq_loss_debug.collect_activations(str(augmented), _Reader(name, inputs))
    return all(np.isfinite(value).all() for values in tensors.values() for value in values)


def saturates(path: Path, name: str, inputs: Sequence[np.ndarray]) -> bool:
    """Whether this processor loses 8-bit products of the graph: it adds pairs of them in 16 bits, and they overflow.

    So does x86 before VNNI, where the exact sums of ``ProviderOptions.exact_sums`` give another answer.
    """
    from onnx_impl.providers import ProviderOptions, session_config
    from onnx_impl.session import onnxruntime

    ort, answers = onnxruntime(), []
    for exact in (False, True):
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        for key, value in session_config(ProviderOptions(exact_sums=exact)).items():
            settings.add_session_config_entry(key, value)
        session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {name: inputs[0]})[0])
    return not np.array_equal(*answers)


def convolutions(path: Path) -> dict[str, str]:
    """Return the name that a reader knows, its weight's without ``network.`` and ``.weight``, of every convolution node."""
    nodes = [node for node in onnx.load(path, load_external_data=False).graph.node if node.op_type == "Conv"]
    return {node.name: node.input[1].removeprefix("network.").removesuffix(".weight") for node in nodes}


def noisiest(prepared: Path, quantised: Path, name: str, inputs: Sequence[np.ndarray]) -> list[str]:
    """Return the convolution nodes of a graph, those first whose int8 form adds most noise to its signal.

    The noise of a tensor is its squared difference to the float graph over its square; a convolution adds that of its
    result, behind its rectifier, minus that of its input.
    """
    from onnxruntime.quantization import qdq_loss_debug

    shown = [inputs[index] for index in range(min(DEBUGGED, len(inputs)))]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        values = []
        for index, path in enumerate((prepared, quantised)):
            augmented = Path(folder) / f"{index}.onnx"
            qdq_loss_debug.modify_model_output_intermediate_tensors(str(path), str(augmented))
            values.append(qdq_loss_debug.collect_activations(str(augmented), _Reader(name, shown)))
        matches = qdq_loss_debug.create_activation_matching(values[1], values[0])
        errors = qdq_loss_debug.compute_activation_error(matches)
    noise = {tensor: 10 ** (-error["xmodel_err"] / 10) for tensor, error in errors.items() if "xmodel_err" in error}
    graph = onnx.load(prepared).graph
    rectified = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "Relu"}
    added = {}
    for node in graph.node:
        result = rectified.get(node.output[0], node.output[0])
        if node.op_type == "Conv":
            added[node.name] = noise.get(result, noise.get(node.output[0], 0.0)) - noise.get(node.input[0], 0.0)
    return sorted(added, key=added.__getitem__, reverse=True)


class _Reader:
    """Hands the calibration inputs to the library one at a time, so that no more than one's activations are kept."""

    def __init__(self, name: str, inputs: Sequence[np.ndarray]) -> None:
        self.name, self.inputs = name, inputs
        self.left = iter(range(len(inputs)))

    def __len__(self) -> int:
        return len(self.inputs)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return iter(self.get_next, None)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Start anew with the inputs ``start_index .. end_index - 1``."""
        self.left = iter(range(start_index, end_index))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next input by name, None after the last one."""
        index = next(self.left, None)
        return None if index is None else {self.name: self.inputs[index]}


def _after_last_convolution(graph: Any) -> list[str]:
    """Names of the nodes behind the last convolution: the final resize, and the cosines of a prototype head."""
    last = max(index for index, node in enumerate(graph.node) if node.op_type == "Conv")
    return [node.name for node in graph.node[last + 1 :]]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress lines and its advice to prepare the graph, which has been done, off the terminal."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
