"""``python -m benchmarks.serve``: what a request costs over the network alone, at 480 x 360, float32 and int8, in one run.

The CamVid network with the values that training starts from, once in this process and once behind ``onnx_impl.serve`` on
this machine, one thread each, in turns: bytes of the picture in and class ids out by KServe's binary extension, and a JPEG in
and a PNG out by ``/segment``. Wall times of a busy machine scatter; the processor's time, of client and server together, does not.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import save
from common.checkpoints.checkpoint import Checkpoint, write
from common.checkpoints.meta import CheckpointMeta
from common.command_line import positive, run_command
from common.experiment import compose
from common.paths import PROJECT
from common.rng import generator

HEIGHT, WIDTH = 360, 480
EXPERIMENT = "camvid/1_8/suponly"
WARM_UP = 3


def main(arguments: list[str] | None = None) -> None:
    """Make the models, measure, print, save."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve", description="Measure what the server adds to the network's time."
    )
    parser.add_argument("--rounds", type=positive, default=60, help="requests of every kind (default: 60)")
    options = parser.parse_args(arguments)
    figures: dict[str, Any] = {"height": HEIGHT, "width": WIDTH, "rounds": options.rounds, "threads": 1}
    with tempfile.TemporaryDirectory() as folder:
        for precision, path in models(Path(folder)).items():
            figures[precision] = measure(path, options.rounds)
            for name, row in figures[precision].items():
                print(f"{precision:5} {name:16} {row}")
    save("serve", f"python -m benchmarks.serve --rounds {options.rounds}", figures)


def models(folder: Path) -> dict[str, Path]:
    """Return the logits graph in float32 and the int8 graph made from it, as picture graphs."""
    import onnx

    from converters.export_onnx import export
    from onnx_impl import graphs, recipes
    from onnx_impl.picture_graph import write_picture_graph
    from torch_impl.checkpoint import network_tensors
    from torch_impl.networks import build_network

    config = compose(EXPERIMENT, ["network.backbone_weights=null"])
    network = build_network(config.network, len(config.dataset.classes))
    meta = CheckpointMeta.from_experiment(config, role="student")
    write(folder / "a.safetensors", Checkpoint(meta=meta, networks={"model": network_tensors(network)}))
    exported = export(folder / "a.safetensors", folder / "logits.onnx", say=lambda _: None)
    recipes.prepare(exported.path, folder / "prepared.onnx")
    images = [generator(0, "benchmark", at).standard_normal((1, 3, HEIGHT, WIDTH), np.float32) for at in range(2)]
    recipe = recipes.Recipe(calibration="minmax")
    recipes.quantise(folder / "prepared.onnx", folder / "raw.onnx", "image", images, recipe, [])
    metadata = dataclasses.replace(exported.metadata, precision="int8", quantization={"scheme": recipe.scheme})
    graphs.save(onnx.load(folder / "raw.onnx"), metadata, folder / "logits_int8.onnx")
    made = {"fp32": folder / "fp32.onnx", "int8": folder / "int8.onnx"}
    write_picture_graph(exported.path, made["fp32"])
    write_picture_graph(folder / "logits_int8.onnx", made["int8"])
    return made


def measure(path: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Return milliseconds of the network alone and of the two kinds of request, and what the requests add in per cent."""
    from onnx_impl.predictor import OnnxPredictor

    predictor = OnnxPredictor(path, threads=1)
    coarse = generator(0, "benchmark").integers(0, 256, (HEIGHT // 24, WIDTH // 24, 3), np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    jpeg = io.BytesIO()
    Image.fromarray(picture).save(jpeg, "JPEG", quality=92)
    head, body = question(picture[None])
    expected = predictor.picture_class_ids(picture[None])
    with served(path) as (process, port):
        connection = http.client.HTTPConnection("127.0.0.1", port)

        def ask(address: str, content: bytes, headers: dict[str, str]) -> bytes:
            connection.request("POST", address, content, headers)
            answer = connection.getresponse()
            read = answer.read()
            assert answer.status == 200, read
            return read

        ways = {
            "alone": lambda: predictor.picture_class_ids(picture[None]),
            "kserve binary": lambda: ask("/v2/models/bench/infer", body, head),
            "jpeg to png": lambda: ask("/segment", jpeg.getvalue(), {}),
        }
        assert ways["kserve binary"]().endswith(expected.tobytes())
        times = turns(ways, rounds, process.pid)
    alone = times["alone"]
    return {name: row(measured, alone) for name, measured in times.items()}


def question(pictures: np.ndarray) -> tuple[dict[str, str], bytes]:
    """Return headers and body of a request with bytes both ways."""
    tensor = {"name": "picture", "datatype": "UINT8", "shape": list(pictures.shape)}
    tensor["parameters"] = {"binary_data_size": pictures.size}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return {"inference-header-content-length": str(len(text))}, text + pictures.tobytes()


@contextlib.contextmanager
def served(path: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    """Yield the server's process and port."""
    command = [sys.executable, "-m", "onnx_impl.serve", str(path), "--name", "bench", "--port", "0", "--threads", "1"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield process, int(process.stdout.readline().split("http://127.0.0.1:")[1].split("/")[0])
    finally:
        process.terminate()
        process.communicate()


def turns(ways: dict[str, Callable[[], Any]], rounds: int, server: int) -> dict[str, list[tuple[float, float]]]:
    """Return seconds on the clock and of the processor for every way and round, all ways once in each."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(WARM_UP + rounds):
        for name, run in ways.items():
            cpu, wall = time.process_time() + spent(server), time.perf_counter()
            run()
            wall, cpu = time.perf_counter() - wall, time.process_time() + spent(server) - cpu
            if turn >= WARM_UP:
                times[name].append((wall, cpu))
    return times


def spent(process: int) -> float:
    """Seconds that all threads of a process have had on a processor."""
    tasks = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def row(times: list[tuple[float, float]], alone: list[tuple[float, float]]) -> dict[str, float]:
    """Return medians and quartiles in milliseconds, and what comes to those of ``alone`` in per cent."""
    (wall, cpu), (wall_alone, cpu_alone) = (np.array(item).T * 1000 for item in (times, alone))
    low, high = np.percentile(wall, (25, 75))
    return {
        "wall_ms": round(float(np.median(wall)), 2),
        "wall_ms_quartiles": [round(float(low), 2), round(float(high), 2)],
        "cpu_ms": round(float(np.median(cpu)), 2),
        "wall_added_percent": round(100 * float(np.median(wall) / np.median(wall_alone) - 1), 1),
        "cpu_added_percent": round(100 * float(np.median(cpu) / np.median(cpu_alone) - 1), 1),
    }


if __name__ == "__main__":
    raise SystemExit(run_command(main))
