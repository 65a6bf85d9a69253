"""Opening a session on the provider that was asked for, or not at all; ONNX Runtime itself falls back in silence."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import sha256
from common.models.exported_graph import GraphMetadata
from common.rng import generator
from onnx_impl.providers import (
    PROVIDERS,
    ProviderOptions,
    engine_folder,
    is_fixed,
    openvino_options,
    provider_list,
    session_config,
)

SHAPE_OPERATORS = {
    "Shape", "Size", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Cast", "Add", "Sub", "Mul", "Div", "Mod",
    "Neg", "Max", "Min", "Equal", "Where", "Range", "Identity", "Constant", "ConstantOfShape", "Reshape", "Expand",
}  # fmt: skip
"""Arithmetic on a handful of integers, which ONNX Runtime puts on the CPU on purpose even when a GPU does the work."""

PROBE = (1, 65, 97)
"""Batch, height and width of the images with which a provider shows that it computes in float32."""

PROVEN = 1e-5
"""Largest relative error of float32 logits against the CPU provider; bfloat16 is a thousand times above."""


COLOURS = re.compile(r"\x1b\[[0-9;]*m")
PREFIXES = re.compile(r"^.*(\[ONNXRuntimeError\] : \d+ : \w+ : |\[[A-Z]:[^\]]*\] )")
"""What stands before the message in a line of ONNX Runtime's log."""


def open_session(path: Path, options: ProviderOptions, metadata: GraphMetadata) -> Any:
    """Return a session that runs on ``options.provider``; raises :class:`UserError` instead of falling back.

    ``metadata`` describes the graph, whose shape and precision decide some options.
    """
    ort = onnxruntime()
    settings = _settings(options)
    if options.provider == "openvino":
        plugin = _register_openvino()
        devices = [device for device in ort.get_ep_devices() if device.ep_name == options.name]
        if not devices:
            raise UserError(
                "OpenVINO finds no device that it supports on this machine (its CPU part is for Intel processors); use "
                "--provider cpu"
            )
        settings.add_provider_for_devices(devices[:1], openvino_options(options))
        session = _load(path, lambda: ort.InferenceSession(str(path), settings), plugin)
        check_provider(session, options, is_fixed(metadata), "")
        if options.precision == "fp32" and metadata.precision == "fp32":
            prove_float32(session, path, metadata)
        return session
    if options.name not in ort.get_available_providers():
        raise UserError(
            f"the installed ONNX Runtime {ort.__version__} has no {options.name}: uninstall onnxruntime and install "
            "onnxruntime-gpu (both together break each other)"
        )
    if options.provider == "cpu":
        return _load(path, lambda: ort.InferenceSession(str(path), settings, providers=[options.name]), "")
    if options.provider == "tensorrt" and not options.fast:
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")  # TensorRT has no option of its own for this in ONNX Runtime
    providers = provider_list(options, metadata, _cache_folder(path, options))
    with captured() as noise:
        ort.preload_dlls()
        session = _load(path, lambda: ort.InferenceSession(str(path), settings, providers=providers), "")
    check_provider(session, options, is_fixed(metadata), reason(noise))
    return session


def check_provider(session: Any, options: ProviderOptions, fixed: bool, why: str) -> None:
    """Raise :class:`UserError` unless ``session`` runs all of the network on the provider of ``options``.

    ``fixed`` graphs have no arithmetic on shapes left, so there every operator counts; ``why`` is ONNX Runtime's reason
    for a fallback, if it gave one.
    """
    ort, first = onnxruntime(), session.get_providers()[0]
    if first != options.name:
        libraries = f"CUDA {getattr(ort, 'cuda_version', '') or 13} and cuDNN 9" + (
            " and TensorRT" if options.provider == "tensorrt" else ""
        )
        raise UserError(
            f"{options.name} was asked for but ONNX Runtime {ort.__version__} fell back to {first}: it needs a GPU with its "
            f"driver and the libraries of {libraries}{f' ({why})' if why else ''}; install them or use --provider cpu"
        )
    if options.provider == "cpu":
        return
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise UserError(
            f"ONNX Runtime {ort.__version__} cannot say where each operator runs; install onnxruntime-gpu 1.24 or newer"
        )
    placed = placement(session, fixed)
    if placed.get(PROVIDERS["cpu"]) or not placed.get(options.name):
        listed = "; ".join(f"{name}: {', '.join(operators)}" for name, operators in placed.items())
        raise UserError(f"{options.name} would not run this network alone ({listed}); use --provider cpu")


def placement(session: Any, fixed: bool = False) -> dict[str, list[str]]:
    """Return the types of the operators that each provider runs, sorted; of graphs of free shape without shape arithmetic."""
    ignored = set() if fixed else SHAPE_OPERATORS
    placed: dict[str, set[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        placed.setdefault(part.ep_name, set()).update(node.op_type for node in part.get_nodes())
    return {name: sorted(operators - ignored) for name, operators in placed.items() if operators - ignored}


def prove_float32(session: Any, path: Path, metadata: GraphMetadata) -> None:
    """Raise :class:`UserError` unless ``session`` gives the CPU provider's float32 answer on made-up images."""
    ort = onnxruntime()
    batch, height, width = metadata.batch or PROBE[0], *(metadata.size or PROBE[1:])
    rng = generator(0, "proof of float32")
    if metadata.input == "picture":
        images = rng.integers(0, 256, (batch, height, width, 3), np.uint8)
    else:
        images = rng.standard_normal((batch, 3, height, width), np.float32)
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    reference = ort.InferenceSession(str(path), settings, providers=[PROVIDERS["cpu"]])
    expected, computed = (item.run([metadata.output], {metadata.input: images})[0] for item in (reference, session))
    if metadata.output == "logits":
        error, limit = float(np.linalg.norm(computed - expected) / np.linalg.norm(expected)), PROVEN
    else:
        error, limit = float((computed != expected).mean()), max(2e-4, 1 / expected.size)
    if not error <= limit:
        raise UserError(
            f"{path}: {session.get_providers()[0]} does not compute in float32 (error {error:.1e} against the CPU provider, "
            f"at most {limit:.0e}); ask for what it does with --precision bf16 or fp16, or use --provider cpu"
        )


@contextlib.contextmanager
def captured() -> Iterator[list[str]]:
    """Keep what is written to the terminal, by C++ too, off it, and put its lines into the list that is yielded."""
    lines: list[str] = []
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with tempfile.TemporaryFile() as file:
        kept = [os.dup(number) for number in (1, 2)]
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            yield lines
        finally:
            for number, copy in zip((1, 2), kept):
                os.dup2(copy, number)
                os.close(copy)
            file.seek(0)
            lines += file.read().decode("utf-8", "replace").splitlines()


def reason(lines: list[str]) -> str:
    """Return the first error of ONNX Runtime's log without time, place, path and colours; empty if there is none."""
    for line in lines:
        if "error" in line.lower():
            said = " ".join(COLOURS.sub("", line).split())
            # Behind the last prefix: "[E:onnxruntime:Default, file:line function] ... [ONNXRuntimeError] : 1 : FAIL : ".
            said = PREFIXES.sub("", said)
            return said.rpartition(" with error: ")[2][:300]
    return ""


def first_line(error: Exception) -> str:
    """Return the first line of one of ONNX Runtime's exceptions, which share no base class."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def onnxruntime() -> Any:
    """Return the package; raises :class:`UserError` where it is missing or damaged."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            "ONNX Runtime is not installed; install the extra onnx (CPU) or onnx-gpu, e.g. pip install '.[onnx]'"
        ) from None
    if not hasattr(onnxruntime, "InferenceSession"):
        raise UserError(
            "ONNX Runtime is damaged, as after uninstalling one of onnxruntime and onnxruntime-gpu: "
            "uninstall both, then install one"
        )
    return onnxruntime


def _settings(options: ProviderOptions) -> Any:
    settings = onnxruntime().SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = options.threads or 0
    for key, value in session_config(options).items():
        settings.add_session_config_entry(key, value)
    return settings


def _load(path: Path, make: Any, plugin: str) -> Any:
    try:
        return make()
    except Exception as error:
        by = f" with {plugin}" if plugin else ""
        raise UserError(f"{path}: ONNX Runtime cannot load it{by}, export it again: {first_line(error)}") from None


def _register_openvino() -> str:
    """Register the plug-in once per process and return its name and version."""
    try:
        import onnxruntime_ep_openvino as plugin
    except ImportError:
        raise UserError(
            "the OpenVINO plug-in is not installed; install the extra openvino: pip install '.[onnx,openvino]'"
        ) from None
    ort, name = onnxruntime(), plugin.get_ep_name()
    with contextlib.suppress(Exception):  # a second registration is an error without a type of its own
        ort.register_execution_provider_library(name, plugin.get_library_path())
    return f"onnxruntime-ep-openvino {importlib.metadata.version('onnxruntime-ep-openvino')}"


def _cache_folder(path: Path, options: ProviderOptions) -> Path | None:
    if options.cache is None:
        return None
    folder = engine_folder(
        options.cache, sha256(path), onnxruntime().__version__, _tensorrt_version(), _gpu_name(options.device_id)
    )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _tensorrt_version() -> str:
    for package in ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    raise UserError(
        "--engine-cache needs to know the version of TensorRT, and its Python package is not installed; install it or leave "
        "the option out"
    )


def _gpu_name(device_id: int) -> str:
    command = ["nvidia-smi", f"--id={device_id}", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        said = ""
    if not said:
        raise UserError("--engine-cache needs to know the GPU, and nvidia-smi does not tell; leave the option out")
    return said
