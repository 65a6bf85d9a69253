"""Options become exactly these dictionaries; what falls back or computes otherwise is refused."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common.errors import UserError
from common.models.exported_graph import GraphMetadata
from onnx_impl.providers import (
    ProviderOptions,
    add_provider_options,
    engine_folder,
    openvino_options,
    provider_list,
    provider_options,
    session_config,
)
from tests.onnx.conftest import blocks

onnxruntime = pytest.importorskip("onnxruntime")

from onnx_impl import session as opening  # noqa: E402
from onnx_impl.predictor import OnnxPredictor  # noqa: E402
from onnx_impl.session import captured, check_provider, placement, prove_float32, reason  # noqa: E402


def metadata(**changes) -> GraphMetadata:
    described = {
        "output": "logits", "classes": ("a", "b"), "mean": (1.0, 2.0, 3.0), "std": (4.0, 5.0, 6.0), "experiment": "",
        "role": "student", "checkpoint_sha256": "", "network": {},
    }  # fmt: skip
    return GraphMetadata(**described | changes)


FREE, FIXED = metadata(), metadata(batch=1, size=(513, 513))
HALF = metadata(precision="fp16", source_sha256="0")
INT8 = metadata(
    precision="int8", quantization={"scheme": "S8S8"}, batch=2, size=(64, 96), input="picture", output="class_ids"
)
CUDA = {
    "device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "cudnn_conv_use_max_workspace": "1",
    "arena_extend_strategy": "kSameAsRequested",
}  # fmt: skip
EXHAUSTIVE = CUDA | {"cudnn_conv_algo_search": "EXHAUSTIVE"}
TENSORRT = {"device_id": "0", "trt_fp16_enable": "0", "trt_int8_enable": "0"}
PROFILE = ((1, 64, 64), (1, 512, 512), (4, 1024, 768))
PROFILES = {
    "trt_profile_min_shapes": "image:1x3x64x64", "trt_profile_opt_shapes": "image:1x3x512x512",
    "trt_profile_max_shapes": "image:4x3x1024x768",
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "graph", "expected"),
    [
        ({}, FREE, [("CPU", {})]),
        ({"provider": "cuda"}, FREE, [("CUDA", CUDA)]),
        ({"provider": "cuda", "device_id": 3, "fast": True}, FREE, [("CUDA", CUDA | {"device_id": "3", "use_tf32": "1"})]),
        ({"provider": "cuda"}, FIXED, [("CUDA", EXHAUSTIVE)]),
        ({"provider": "cuda", "cuda_graph": True}, FIXED, [("CUDA", EXHAUSTIVE | {"enable_cuda_graph": "1"})]),
        ({"provider": "cuda", "memory_limit": 1 << 30}, HALF, [("CUDA", CUDA | {"gpu_mem_limit": "1073741824", "prefer_nhwc": "1"})]),
        ({"provider": "tensorrt"}, FIXED, [("Tensorrt", TENSORRT), ("CUDA", EXHAUSTIVE)]),
        ({"provider": "tensorrt", "precision": "fp16", "profile": PROFILE}, FREE, [("Tensorrt", TENSORRT | PROFILES | {"trt_fp16_enable": "1"}), ("CUDA", CUDA)]),
        ({"provider": "tensorrt", "memory_limit": 5, "cuda_graph": True}, INT8, [("Tensorrt", TENSORRT | {"trt_int8_enable": "1", "trt_max_workspace_size": "5", "trt_cuda_graph_enable": "1"}), ("CUDA", EXHAUSTIVE | {"gpu_mem_limit": "5"})]),
        ({"provider": "openvino"}, FREE, [("CPU", {})]),
    ],
)  # fmt: skip
def test_option_dictionaries(options, graph, expected):
    providers = provider_list(ProviderOptions(**options), graph, None)
    assert providers == [(f"{name}ExecutionProvider", values) for name, values in expected]


def test_engines_are_kept_in_a_folder_of_their_own():
    folder = engine_folder(Path("engines"), "a1" * 32, "1.31.1", "10.9.0", "NVIDIA H200, 570.12\n")
    assert folder == Path("engines/a1a1a1a1a1a1a1a1-ort1.31.1-trt10.9.0-NVIDIA-H200--570-12")
    for other in (
        ("b1" * 32, "1.31.1", "10.9.0", "x"),
        ("a1" * 32, "1.32.0", "10.9.0", "x"),
        ("a1" * 32, "1.31.1", "10.10.0", "x"),
    ):
        assert engine_folder(Path("engines"), *other) != engine_folder(
            Path("engines"), "a1" * 32, "1.31.1", "10.9.0", "x"
        )
    (_, options), _ = provider_list(ProviderOptions(provider="tensorrt"), FIXED, folder)
    assert options == TENSORRT | {
        "trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1", "trt_timing_cache_path": str(folder),
    }  # fmt: skip


def test_a_picture_graph_has_a_profile_of_pictures():
    graph = metadata(input="picture", output="class_ids")
    (_, options), _ = provider_list(ProviderOptions(provider="tensorrt", profile=PROFILE), graph, None)
    assert options["trt_profile_max_shapes"] == "picture:4x1024x768x3"


def test_openvino_is_told_the_precision():
    told = openvino_options(ProviderOptions(provider="openvino", threads=2))
    assert json.loads(told["load_config"]) == {"CPU": {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}}
    told = openvino_options(ProviderOptions(provider="openvino", precision="bf16"))
    assert json.loads(told["load_config"]) == {"CPU": {"INFERENCE_PRECISION_HINT": "bf16"}}


def test_the_session_is_told_what_the_processor_must_do():
    assert session_config(ProviderOptions()) == {"session.record_ep_graph_assignment_info": "1"}
    assert session_config(ProviderOptions(exact_sums=True))["session.x64quantprecision"] == "1"


def test_results_name_what_changes_their_numbers():
    assert ProviderOptions().device == "CPUExecutionProvider"
    assert ProviderOptions(provider="openvino", precision="bf16").device == "OpenVINOExecutionProvider (bf16)"
    assert (
        ProviderOptions(provider="tensorrt", precision="fp16", fast=True).device
        == "TensorrtExecutionProvider (fp16, tf32)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"provider": "gpu"}, "'gpu' is not one of cpu, cuda, tensorrt, openvino"),
        ({"precision": "bf16"}, "--precision bf16 is not for --provider cpu"),
        ({"provider": "cuda", "precision": "fp16"}, "a file of another precision says so itself"),
        ({"fast": True}, "--fast is for --provider cuda or tensorrt, not cpu"),
        ({"provider": "cuda", "exact_sums": True}, "--exact-sums is for --provider cpu, not cuda"),
        ({"provider": "cuda", "profile": PROFILE}, "--profile is for --provider tensorrt, not cuda"),
        ({"memory_limit": 1}, "--memory-limit is for"),
        ({"cache": Path("engines")}, "--engine-cache is for --provider tensorrt, not cpu"),
    ],
)
def test_an_option_that_nothing_reads_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        ProviderOptions(**options)


def test_what_needs_a_fixed_shape_says_so():
    with pytest.raises(UserError, match="--cuda-graph needs a graph of fixed shape"):
        provider_list(ProviderOptions(provider="cuda", cuda_graph=True), FREE, None)
    with pytest.raises(UserError, match="--profile MIN OPT MAX.*--size H W"):
        provider_list(ProviderOptions(provider="tensorrt"), FREE, None)


def test_the_command_line_gives_the_same_options():
    parser = argparse.ArgumentParser()
    add_provider_options(parser)
    parsed = parser.parse_args(
        [
            "--provider",
            "tensorrt",
            "--precision",
            "fp16",
            "--memory-limit",
            "512",
            "--profile",
            "1x64x64",
            "1x512x512",
            "4x1024x768",
            "--engine-cache",
            "e",
        ]
    )
    expected = ProviderOptions(
        provider="tensorrt", precision="fp16", memory_limit=512 << 20, profile=PROFILE, cache=Path("e"), threads=3
    )
    assert provider_options(parsed, 3) == expected
    with pytest.raises(SystemExit):
        parser.parse_args(["--profile", "64x64", "1x2x3", "1x2x3"])


def test_a_gpu_is_refused_by_the_cpu_package(exported):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    with pytest.raises(UserError, match="no CUDAExecutionProvider.*install onnxruntime-gpu"):
        OnnxPredictor(exported.model, "cuda")


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize(("provider", "name"), [("cuda", "CUDA"), ("tensorrt", "Tensorrt")])
def test_a_silent_fallback_to_the_cpu_is_an_error(exported, monkeypatch, provider, name, capfd):
    available = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    noise = "\x1b[1;31m2026-01-01 [E:onnxruntime:Default, provider.cc:1 Load] Error loading: libcudnn.so.9: cannot open\x1b[m\n"
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: os.write(2, noise.encode()))
    profile = PROFILE if provider == "tensorrt" else None
    try:
        predictor = OnnxPredictor(exported.model, ProviderOptions(provider=provider, profile=profile))
    except UserError as error:
        text = str(error)
        assert f"{name}ExecutionProvider was asked for" in text and "fell back to CPUExecutionProvider" in text
        assert "CUDA" in text and "cuDNN 9" in text and "libcudnn.so.9: cannot open" in text
        assert capfd.readouterr() == ("", "")
    else:
        assert predictor.runtime.device == f"{name}ExecutionProvider"


def test_noise_is_kept_and_its_first_error_is_the_reason(capfd):
    with captured() as lines:
        os.write(1, b"EP Error: one\n")
        os.write(2, b"note\n")
    print("afterwards")
    assert sorted(lines) == ["EP Error: one", "note"] and capfd.readouterr().out == "afterwards\n"
    assert reason(lines) == "EP Error: one" and reason(["note"]) == ""


def test_the_reason_is_the_missing_library_and_not_the_place_in_the_program():
    """The line that onnxruntime-gpu 1.31.1 writes where CUDA is not installed."""
    line = (
        "\x1b[1;31m2026-11-29 21:51:50.67 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] /src/core/session/"
        "provider_bridge_ort.cc:2043 onnxruntime::Provider& onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : "
        "Failed to load library /venv/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared object file"
    )
    assert reason([line, "\x1b[m"]) == "libcublasLt.so.13: cannot open shared object file"


def fake_session(**operators: str):
    """A session on CUDA whose operators are placed as given, e.g. ``CPU="Shape Conv"``."""
    parts = [
        SimpleNamespace(
            ep_name=f"{provider}ExecutionProvider",
            get_nodes=lambda names=names: [SimpleNamespace(op_type=name) for name in names.split()],
        )
        for provider, names in operators.items()
    ]
    return SimpleNamespace(
        get_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        get_provider_graph_assignment_info=lambda: parts,
    )


GPU = ProviderOptions(provider="cuda")


def test_arithmetic_on_shapes_may_stay_on_the_cpu_where_shapes_are_free():
    session = fake_session(CUDA="Conv Resize Shape", CPU="Shape Squeeze Concat")
    check_provider(session, GPU, False, "")
    with pytest.raises(
        UserError, match="would not run this network alone .*CPUExecutionProvider: Concat, Shape, Squeeze"
    ):
        check_provider(session, GPU, True, "")


@pytest.mark.parametrize(
    ("operators", "named"),
    [
        ({"CUDA": "Conv", "CPU": "Shape Resize ArgMax"}, "ArgMax, Resize"),
        ({"CPU": "Conv"}, "Conv"),
        ({"CUDA": "Shape"}, ""),
    ],
)
def test_operators_that_fall_to_the_cpu_are_named(operators, named):
    with pytest.raises(UserError, match=f"would not run this network alone .*{named}"):
        check_provider(fake_session(**operators), GPU, False, "")


def test_a_session_that_cannot_tell_its_placement_is_refused():
    session = fake_session(CUDA="Conv")
    del session.get_provider_graph_assignment_info
    with pytest.raises(UserError, match="1.24 or newer"):
        check_provider(session, GPU, False, "")


def test_placement_is_read_from_a_real_session(exported):
    session = OnnxPredictor(exported.model, threads=1).session
    if not hasattr(session, "get_provider_graph_assignment_info"):
        pytest.skip("this ONNX Runtime does not tell")
    placed = placement(session)
    assert list(placed) == ["CPUExecutionProvider"]
    assert any("Conv" in name for name in placed["CPUExecutionProvider"])
    assert "Resize" in placed["CPUExecutionProvider"] and "Shape" not in placed["CPUExecutionProvider"]


@pytest.mark.parametrize("kind", ["model", "ids_model"])
def test_a_provider_that_rounds_is_found_out(exported, kind):
    path = getattr(exported, kind)
    predictor = OnnxPredictor(path, threads=1)

    def answer(change):
        return SimpleNamespace(
            run=lambda names, inputs: [change(value) for value in predictor.session.run(names, inputs)],
            get_providers=lambda: ["OpenVINOExecutionProvider"],
        )

    prove_float32(answer(lambda value: value), path, predictor.metadata)

    def rounded(value: np.ndarray) -> np.ndarray:
        """As bfloat16 computes: logits lose 16 bits of mantissa, and a few classes change with them."""
        if value.dtype == np.float32:
            return (value.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        return np.where(np.arange(value.size).reshape(value.shape) % 400 == 0, value + 1, value)

    with pytest.raises(UserError, match="OpenVINOExecutionProvider does not compute in float32 .*--precision bf16"):
        prove_float32(answer(rounded), path, predictor.metadata)


def test_a_missing_plug_in_is_named(exported, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime_ep_openvino", None)
    with pytest.raises(UserError, match="install the extra openvino"):
        OnnxPredictor(exported.model, "openvino")


def test_openvino_computes_in_float32_and_in_what_it_is_asked_for(exported):
    pytest.importorskip("onnxruntime_ep_openvino")
    try:
        exact = OnnxPredictor(exported.model, "openvino", threads=1)
    except UserError as error:
        assert "--provider cpu" in str(error)
        pytest.skip(str(error))
    images = blocks(1, 65, 97)
    expected = OnnxPredictor(exported.model, threads=1).logits(images, (65, 97))
    error = np.linalg.norm(exact.logits(images, (65, 97)) - expected) / np.linalg.norm(expected)
    assert error < 1e-5 and exact.runtime.device == "OpenVINOExecutionProvider"


def test_an_engine_cache_that_cannot_be_keyed_is_refused(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider"])
    options = ProviderOptions(provider="tensorrt", profile=PROFILE, cache=tmp_path)
    monkeypatch.setattr(opening, "_tensorrt_version", lambda: "10.9")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="nvidia-smi does not tell"):
        OnnxPredictor(exported.model, options)
