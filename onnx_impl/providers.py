"""What may run a graph, and the options that ONNX Runtime takes for it: plain data and functions without side effects."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from common.command_line import number, positive, user_path
from common.errors import UserError
from common.models.exported_graph import GraphMetadata

Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]
Precision = Literal["fp32", "fp16", "bf16"]

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}

HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
"""OpenVINO's names of precisions. Without one it computes in bfloat16 where the processor can, and says nothing."""

ARITHMETIC = {"cpu": ("fp32",), "cuda": ("fp32",), "tensorrt": ("fp32", "fp16"), "openvino": ("fp32", "fp16", "bf16")}
"""The precisions that a provider can compute a float32 file in."""

Shape = tuple[int, int, int]
"""Batch, height and width."""


@dataclass(frozen=True, kw_only=True)
class ProviderOptions:
    """How a graph is run. ``threads`` None leaves the number of CPU threads to ONNX Runtime.

    ``precision`` is that of arithmetic on a float32 file. ``fast`` allows TF32, 10 bits of mantissa, on NVIDIA GPUs.
    ``exact_sums`` makes CPUs without VNNI add 8-bit products without saturation, as those with it do, and slower.
    ``memory_limit`` is the most device memory in bytes; ``cuda_graph`` records the kernels of a graph of fixed shape and
    replays them. TensorRT builds engines for the shapes ``profile`` = (smallest, usual, largest), kept under ``cache``.
    """

    provider: Provider = "cpu"
    threads: int | None = None
    device_id: int = 0
    precision: Precision = "fp32"
    fast: bool = False
    exact_sums: bool = False
    memory_limit: int | None = None
    cuda_graph: bool = False
    profile: tuple[Shape, Shape, Shape] | None = None
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.provider not in PROVIDERS:
            raise UserError(f"provider {self.provider!r} is not one of {', '.join(PROVIDERS)}")
        if self.precision not in ARITHMETIC[self.provider]:
            raise UserError(
                f"--precision {self.precision} is not for --provider {self.provider}, which computes a float32 file in "
                f"{' or '.join(ARITHMETIC[self.provider])}; a file of another precision says so itself"
            )
        for name, takes in USED_BY.items():
            if getattr(self, name) not in (None, False) and self.provider not in takes:
                flag = "engine-cache" if name == "cache" else name.replace("_", "-")
                raise UserError(f"--{flag} is for --provider {' or '.join(takes)}, not {self.provider}; leave it out")

    @property
    def name(self) -> str:
        """ONNX Runtime's name of the provider."""
        return PROVIDERS[self.provider]

    @property
    def device(self) -> str:
        """The provider as results name it, with whatever makes its numbers other than those of float32."""
        notes = [self.precision] if self.precision != "fp32" else []
        notes += ["tf32"] if self.fast else []
        return f"{self.name} ({', '.join(notes)})" if notes else self.name


USED_BY = {
    "fast": ("cuda", "tensorrt"), "exact_sums": ("cpu",), "memory_limit": ("cuda", "tensorrt"),
    "cuda_graph": ("cuda", "tensorrt"), "profile": ("tensorrt",), "cache": ("tensorrt",),
}  # fmt: skip
"""The providers that read an option; elsewhere it is refused."""


def session_config(options: ProviderOptions) -> dict[str, str]:
    """Return the entries of the session's configuration."""
    entries = {"session.record_ep_graph_assignment_info": "1"}
    if options.exact_sums:
        entries["session.x64quantprecision"] = "1"
    return entries


def provider_list(
    options: ProviderOptions, metadata: GraphMetadata, cache: Path | None
) -> list[tuple[str, dict[str, str]]]:
    """Return the providers in order with their options; ``cache`` is the folder of this very model and machine.

    OpenVINO is a plug-in and registered otherwise, see :func:`openvino_options`.
    """
    if options.provider in ("cpu", "openvino"):
        return [(PROVIDERS["cpu"], {})]
    if options.provider == "cuda":
        return [(options.name, cuda_options(options, metadata))]
    # What TensorRT does not take falls to CUDA and is refused afterwards unless it is arithmetic on shapes.
    return [
        (options.name, tensorrt_options(options, metadata, cache)),
        (PROVIDERS["cuda"], cuda_options(options, metadata)),
    ]


def cuda_options(options: ProviderOptions, metadata: GraphMetadata) -> dict[str, str]:
    """Return the options of the CUDA provider.

    The exhaustive search for convolution algorithms starts anew for every image size, so it is for fixed shapes only.
    Memory grows by what is asked for, not to the next power of two, which is out of reach for large images.
    """
    fixed = is_fixed(metadata)
    if options.cuda_graph and not fixed:
        raise UserError("--cuda-graph needs a graph of fixed shape; export with --size H W --batch B")
    return {
        "device_id": str(options.device_id),
        "use_tf32": str(int(options.fast)),
        "cudnn_conv_algo_search": "EXHAUSTIVE" if fixed else "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        "arena_extend_strategy": "kSameAsRequested",
        **({"gpu_mem_limit": str(options.memory_limit)} if options.memory_limit else {}),
        **({"prefer_nhwc": "1"} if metadata.precision == "fp16" else {}),
        **({"enable_cuda_graph": "1"} if options.cuda_graph and options.provider == "cuda" else {}),
    }


def tensorrt_options(options: ProviderOptions, metadata: GraphMetadata, cache: Path | None) -> dict[str, str]:
    """Return the options of the TensorRT provider.

    Raises :class:`UserError` for a graph of free shape without a profile: its engine would be built again, which takes
    minutes, for every image whose size leaves the range seen so far.
    """
    if not is_fixed(metadata) and options.profile is None:
        raise UserError(
            "TensorRT builds its engine anew for every new image size; give --profile MIN OPT MAX, e.g. 1x64x64 1x512x512 "
            "4x1024x1024, or export with --size H W --batch B"
        )
    profile = {}
    if options.profile is not None:
        names = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")
        profile = {name: _profile(metadata.input, shape) for name, shape in zip(names, options.profile)}
    kept = {}
    if cache is not None:
        kept = {
            "trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": "1", "trt_timing_cache_path": str(cache),
        }  # fmt: skip
    return {
        "device_id": str(options.device_id),
        "trt_fp16_enable": str(int(options.precision == "fp16" or metadata.precision == "fp16")),
        "trt_int8_enable": str(int(metadata.precision == "int8")),
        **({"trt_max_workspace_size": str(options.memory_limit)} if options.memory_limit else {}),
        **({"trt_cuda_graph_enable": "1"} if options.cuda_graph else {}),
        **profile,
        **kept,
    }


def openvino_options(options: ProviderOptions) -> dict[str, str]:
    """Return the options of the OpenVINO plug-in, whose own ``precision`` is not obeyed on CPUs; ``load_config`` is."""
    cpu: dict[str, Any] = {"INFERENCE_PRECISION_HINT": HINTS[options.precision]}
    if options.threads:
        cpu["INFERENCE_NUM_THREADS"] = options.threads
    return {"load_config": json.dumps({"CPU": cpu})}


def engine_folder(root: Path, model_sha256: str, onnxruntime: str, tensorrt: str, gpu: str) -> Path:
    """Return the folder for engines of one model, pair of versions and GPU.

    ONNX Runtime loads a cached engine whatever it was made from: an engine of another model would answer for this one.
    """
    readable = "".join(character if character.isalnum() else "-" for character in gpu).strip("-")
    return root / f"{model_sha256[:16]}-ort{onnxruntime}-trt{tensorrt}-{readable}"


def is_fixed(metadata: GraphMetadata) -> bool:
    """Whether the graph takes images of one shape only."""
    return metadata.batch is not None and metadata.size is not None


def add_provider_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of :class:`ProviderOptions` but the number of threads to a command."""
    group = parser.add_argument_group("what runs the network")
    group.add_argument("--provider", choices=get_args(Provider), default="cpu", help="what must run it (default: cpu)")
    group.add_argument(
        "--precision", choices=get_args(Precision), default="fp32",
        help="arithmetic on a float32 file: fp16 in TensorRT, fp16 or bf16 in OpenVINO (default: fp32)",
    )  # fmt: skip
    group.add_argument("--exact-sums", action="store_true", help="int8 on CPUs without VNNI: no saturation, slower")
    group.add_argument("--fast", action="store_true", help="CUDA, TensorRT: allow TF32, which changes pixels")
    group.add_argument("--device-id", type=number(0, kind=int), default=0, metavar="N", help="which GPU (default: 0)")
    group.add_argument("--memory-limit", type=mebibytes, metavar="MIB", help="most GPU memory to use")
    group.add_argument("--cuda-graph", action="store_true", help="replay recorded kernels; for graphs of fixed shape")
    group.add_argument(
        "--profile",
        type=shape,
        nargs=3,
        metavar=("MIN", "OPT", "MAX"),
        help="TensorRT: image shapes BxHxW to build for",
    )
    group.add_argument("--engine-cache", type=user_path, metavar="DIR", help="TensorRT: keep engines below DIR")


def provider_options(parsed: argparse.Namespace, threads: int | None) -> ProviderOptions:
    """Return the options that :func:`add_provider_options` has read."""
    return ProviderOptions(
        provider=parsed.provider, threads=threads, device_id=parsed.device_id, precision=parsed.precision, fast=parsed.fast,
        exact_sums=parsed.exact_sums, memory_limit=parsed.memory_limit, cuda_graph=parsed.cuda_graph,
        profile=tuple(parsed.profile) if parsed.profile else None, cache=parsed.engine_cache,
    )  # fmt: skip


def shape(text: str) -> Shape:
    """Return batch, height and width of ``BxHxW``; for ``type=`` of argparse."""
    numbers = tuple(positive(part) for part in text.lower().split("x"))
    if len(numbers) != 3:
        raise argparse.ArgumentTypeError(f"{text} is not BxHxW, e.g. 1x512x512")
    return numbers


def mebibytes(text: str) -> int:
    """Return a number of MiB as bytes; for ``type=`` of argparse."""
    return positive(text) << 20


def _profile(name: str, shape: Shape) -> str:
    batch, height, width = shape
    axes = (batch, height, width, 3) if name == "picture" else (batch, 3, height, width)
    return f"{name}:{'x'.join(map(str, axes))}"
