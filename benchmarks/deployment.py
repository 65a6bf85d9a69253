"""``python -m benchmarks.deployment resnet50``, ``... camvid CHECKPOINT``, ``... controls FOLDER``: what the exported forms of a network cost and lose.

``resnet50``: U2PL's DeepLabv3+ on ResNet-50, 21 classes, random weights, in PyTorch, in ONNX Runtime as float32, U8S8 and
S8S8, and in OpenVINO where its plug-in runs; all in turns in one process of one thread. ``camvid``: a checkpoint trained on CamVid, all
forms scored on all validation images by ``onnx_impl.bench``, with the picture graph, S8S8, and the int8 file with its activations'
scales times 4. ``controls``: from the files that ``camvid --keep FOLDER`` has left, int8 beside the same with coarser activations and
with every scale times 4. The processor's time counts: another program does not stretch it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.checkpoints.checkpoint import Checkpoint, write
from common.checkpoints.meta import CheckpointMeta
from common.command_line import positive, run_command, user_path
from common.errors import UserError
from common.experiment import compose
from common.networks.initial import initial_tensors
from common.rng import generator

RESNET50 = ("voc/366/u2pl", "network.encoder=resnet50", "network.backbone_weights=null")
CALIBRATION_IMAGES = 4


def main(arguments: list[str] | None = None) -> None:
    """Make the files, measure, print, save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deployment", description="Measure exported forms.")
    parser.add_argument("what", choices=("resnet50", "camvid", "controls"))
    parser.add_argument(
        "checkpoint",
        type=user_path,
        nargs="?",
        help="camvid: a network trained on CamVid; controls: a folder of its files",
    )
    parser.add_argument("--size", type=positive, nargs=2, metavar=("H", "W"), help="image (default: 513 513, 360 480)")
    parser.add_argument("--runs", type=positive, default=10, metavar="N", help="rounds that count (default: 10)")
    parser.add_argument("--limit", type=positive, metavar="N", help="camvid: only the first N validation images")
    parser.add_argument("--keep", type=user_path, metavar="DIR", help="leave the files in DIR, for benchmarks.openvino")
    options = parser.parse_args(arguments)
    if (options.what == "resnet50") == (options.checkpoint is not None):
        raise UserError("camvid takes a checkpoint, controls a folder, resnet50 none")
    from benchmarks.machine import command_of, save

    with contextlib.ExitStack() as stack:
        folder = options.keep or stack.enter_context(tempfile.TemporaryDirectory())
        Path(folder).mkdir(parents=True, exist_ok=True)
        figures = {"resnet50": resnet50, "camvid": camvid, "controls": controls}[options.what](Path(folder), options)
    save(f"deployment-{options.what}", command_of("deployment", arguments), figures)


def resnet50(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the times of one network in every form, as ratios to PyTorch's and to float32's."""
    import torch

    from onnx_impl.bench import measure
    from onnx_impl.predictor import OnnxPredictor
    from onnx_impl.providers import ProviderOptions
    from torch_impl.segmenter import open_segmenter

    torch.set_num_threads(1)
    size = tuple(options.size or (513, 513))
    checkpoint = folder / "model.safetensors"
    write_random(checkpoint, *RESNET50)
    files = _exported(
        checkpoint,
        folder,
        [generator(0, "calibration", i).standard_normal((1, 3, *size), np.float32) for i in range(CALIBRATION_IMAGES)],
    )
    image = generator(0, "benchmark").standard_normal((1, 3, *size), np.float32)
    network = open_segmenter(checkpoint, "cpu").predictor
    runners: dict[str, Callable[[], Any]] = {"PyTorch eager, float32": functools.partial(network.logits, image, size)}
    for name, path in files.items():
        runners[f"ONNX Runtime, {name}"] = functools.partial(OnnxPredictor(path, threads=1).logits, image, size)
    for name, precision in (("float32", "fp32"), ("int8 U8S8", "fp32"), ("float32", "bf16")):
        provider = ProviderOptions(provider="openvino", threads=1, precision=precision)
        try:
            predictor = OnnxPredictor(files[name], provider)
        except UserError as error:
            print(f"left out: OpenVINO, {name}: {error}", file=sys.stderr)
            continue
        runners[f"OpenVINO, {name} ({precision})"] = functools.partial(predictor.logits, image, size)
    times = dict(zip(runners, measure(list(runners.values()), 2, options.runs)))
    cpu = {name: float(np.median(of.cpu)) for name, of in times.items()}
    torch_ms, float32 = cpu["PyTorch eager, float32"], cpu["ONNX Runtime, float32"]
    rows = [
        {
            "form": name, "cpu_ms": round(1e3 * seconds, 1),
            "cpu_ms_quartiles": [round(1e3 * float(np.percentile(times[name].cpu, share)), 1) for share in (25, 75)],
            "times_pytorch": round(torch_ms / seconds, 2), "times_float32": round(float32 / seconds, 2),
        }
        for name, seconds in cpu.items()
    ]  # fmt: skip
    for row in rows:
        print(
            f"{row['form']:32} {row['cpu_ms']:9.1f} ms  {row['times_pytorch']:5.2f} x PyTorch  {row['times_float32']:5.2f} x float32"
        )
    sizes = {name: round(path.stat().st_size / 1e6, 1) for name, path in files.items()}
    return {
        "size": list(size),
        "runs": options.runs,
        "threads": 1,
        "instructions": instructions(),
        "rows": rows,
        "mb": sizes,
    }


def camvid(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the report of ``onnx_impl.bench`` for every form of a checkpoint, with mIoU and changed pixels."""
    from converters.export_onnx import export
    from onnx_impl import halve, quantize
    from onnx_impl.predictor import OnnxPredictor

    files = {
        name: folder / f"{name}.onnx" for name in ("float32", "picture", "int8", "fp16", "S8S8", "int8_scales_times_4")
    }
    export(options.checkpoint, files["float32"])
    export(options.checkpoint, files["picture"], "class_ids", input="picture")
    experiment = OnnxPredictor(files["float32"], threads=1).metadata.experiment
    quantize.main([str(files["float32"]), str(files["int8"]), experiment, "trainer.threads=1"])
    halve.main([str(files["float32"]), str(files["fp16"]), experiment, "trainer.threads=1"])
    loose = ["--max-drop", "100", "--max-class-drop", "100", "--max-flips", "1", "--limit", "1"]
    quantize.main(
        [str(files["float32"]), str(files["S8S8"]), experiment, "trainer.threads=1", "--target", "tensorrt", *loose]
    )
    coarser(files["int8"], files["int8_scales_times_4"], {"QuantizeLinear"})
    content = _scored(folder, list(files.values()), experiment, options)
    gates = OnnxPredictor(files["int8"], threads=1).metadata.gates
    return content | {"gates_of_int8": gates, "scales_times_4_beyond": content["beyond"]["int8_scales_times_4"]}


def controls(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the report for the int8 file and two of its kind that are worse on purpose."""
    from onnx_impl.predictor import OnnxPredictor

    source = options.checkpoint
    activations, every = folder / "int8_activation_scales_times_4.onnx", folder / "int8_every_scale_times_4.onnx"
    coarser(source / "int8.onnx", activations, {"QuantizeLinear"})
    coarser(source / "int8.onnx", every, {"QuantizeLinear", "DequantizeLinear"})
    experiment = OnnxPredictor(source / "float32.onnx", threads=1).metadata.experiment
    return _scored(folder, [source / "float32.onnx", source / "int8.onnx", activations, every], experiment, options)


def coarser(source: Path, target: Path, operators: set[str]) -> None:
    """Write an int8 file with the scales that nodes of these types read times 4."""
    import onnx
    from onnx import numpy_helper

    from onnx_impl import graphs
    from onnx_impl.predictor import OnnxPredictor

    model = onnx.load(source)
    scales = {node.input[1] for node in model.graph.node if node.op_type in operators}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(4), tensor.name))
    graphs.save(model, dataclasses.replace(OnnxPredictor(source, threads=1).metadata, gates=None), target)


def _scored(folder: Path, files: list[Path], experiment: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the report of ``onnx_impl.bench`` on files, with what each exceeds of the default limits."""
    from onnx_impl import bench

    report = folder / "bench.json"
    limit = ["--limit", str(options.limit)] if options.limit else []
    bench.main([
        *map(str, files), "--size", *map(str, options.size or (360, 480)), "--threads", "1", "--runs", str(options.runs),
        "--memory", "--data", experiment, *limit, "--json", str(report),
    ])  # fmt: skip
    content = json.loads(report.read_text(encoding="utf-8"))
    beyond = {}
    for row in content["rows"]:
        del row["path"]
        beyond[row["name"]] = _beyond_default_limits(row["score"])
        print(f"{row['name']:32} {'; '.join(beyond[row['name']]) or 'within the default limits'}")
    return content | {"beyond": beyond, "instructions": instructions()}


def _beyond_default_limits(score: dict[str, Any]) -> list[str]:
    from onnx_impl.scores import Limits, Score

    return Score(**score, pixels=0).beyond(Limits())


def instructions() -> list[str]:
    """Return which of the processor's extensions for 8-bit and bfloat16 sums there are."""
    information = Path("/proc/cpuinfo")
    known = set(information.read_text(encoding="utf-8", errors="replace").split()) if information.exists() else set()
    return sorted(known & {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "avx512_bf16"})


def write_random(path: Path, experiment: str, *settings: str) -> None:
    """Write a checkpoint of an experiment's network with its initial values."""
    from torch_impl.checkpoint import network_tensors
    from torch_impl.networks import build_network

    config = compose(experiment, settings)
    network = build_network(config.network, len(config.dataset.classes))
    shapes = {name: tensor.shape for name, tensor in network_tensors(network).items()}
    values = initial_tensors(shapes, config.network, 0, "student")
    write(path, Checkpoint(meta=CheckpointMeta.from_experiment(config, role="student"), networks={"model": values}))


def _exported(checkpoint: Path, folder: Path, inputs: list[np.ndarray]) -> dict[str, Path]:
    """Return float32 and int8 files of a checkpoint, calibrated on ``inputs``."""
    import onnx

    from converters.export_onnx import export
    from onnx_impl import graphs
    from onnx_impl.predictor import OnnxPredictor
    from onnx_impl.recipes import Recipe, prepare, quantise

    files = {"float32": folder / "float32.onnx"}
    export(checkpoint, files["float32"])
    metadata = OnnxPredictor(files["float32"], threads=1).metadata
    prepare(files["float32"], folder / "prepared.onnx")
    for target in ("cpu", "tensorrt"):
        recipe = Recipe(target=target, calibration="minmax")
        path = folder / f"{recipe.scheme}.onnx"
        quantise(folder / "prepared.onnx", path, "image", inputs, recipe, [])
        described = {
            "scheme": recipe.scheme,
            "target": target,
            "calibration": recipe.calibration,
            "images": len(inputs),
        }
        graphs.save(
            onnx.load(path), dataclasses.replace(metadata, precision="int8", quantization=described, gates=None), path
        )
        files[f"int8 {recipe.scheme}"] = path
    return files


if __name__ == "__main__":
    raise SystemExit(run_command(main))
