"""``python -m benchmarks.openvino FLOAT32.onnx INT8.onnx``: what OpenVINO makes of exported files on processors that its plug-in refuses.

The plug-in of ``--provider openvino`` takes Intel processors only. The package onnxruntime-openvino, another build of ONNX
Runtime that replaces it, takes others: install it in an environment of its own. Needs that, NumPy and nothing else.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from common.command_line import positive, user_path

PROVIDER = "OpenVINOExecutionProvider"


def main() -> None:
    """Measure both files on both providers in turns, print, save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.openvino")
    parser.add_argument("float32", type=user_path)
    parser.add_argument("int8", type=user_path)
    parser.add_argument("--size", type=positive, nargs=2, default=(513, 513), metavar=("H", "W"))
    parser.add_argument("--runs", type=positive, default=8, metavar="N", help="rounds that count (default: 8)")
    options = parser.parse_args()
    import onnxruntime

    from benchmarks.machine import command_of, save

    if PROVIDER not in onnxruntime.get_available_providers():
        raise SystemExit(
            f"error: ONNX Runtime {onnxruntime.__version__} has no {PROVIDER}; install onnxruntime-openvino alone"
        )
    image = np.random.default_rng(0).standard_normal((1, 3, *options.size)).astype(np.float32)
    sessions = {
        f"{name} on {provider}": _session(onnxruntime, path, provider)
        for name, path in (("float32", options.float32), ("int8", options.int8))
        for provider in ("CPUExecutionProvider", PROVIDER)
    }
    times: dict[str, list[float]] = {name: [] for name in sessions}
    logits = {}
    for turn in range(2 + options.runs):
        for name, session in sessions.items():
            started = time.process_time()
            (logits[name],) = session.run(["logits"], {"image": image})
            if turn >= 2:
                times[name].append(time.process_time() - started)
    reference = logits["float32 on CPUExecutionProvider"]
    base = float(np.median(times["float32 on CPUExecutionProvider"]))
    rows = []
    for name, seconds in times.items():
        median = float(np.median(seconds))
        error = float(np.linalg.norm(logits[name] - reference) / np.linalg.norm(reference))
        rows.append(
            {
                "form": name,
                "cpu_ms": round(1e3 * median, 1),
                "times_float32": round(base / median, 2),
                "relative_error": error,
            }
        )
        print(f"{name:40} {1e3 * median:9.1f} ms  {base / median:5.2f} x  error {error:.1e}")
    figures = {
        "onnxruntime_openvino": onnxruntime.__version__,
        "size": list(options.size),
        "runs": options.runs,
        "threads": 1,
    }
    save("openvino", command_of("openvino"), figures | {"rows": rows})


def _session(onnxruntime, path: Path, provider: str):
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    hints = {"CPU": {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}}
    chosen = [(provider, {"device_type": "CPU", "load_config": json.dumps(hints)} if provider == PROVIDER else {})]
    session = onnxruntime.InferenceSession(str(path), settings, providers=chosen)
    if session.get_providers()[0] != provider:
        raise SystemExit(f"error: {provider} did not take {path}")
    return session


if __name__ == "__main__":
    main()
