"""The benchmark counts the runs it says it counts and writes what is needed to judge them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from common.command_line import run_command
from common.files import sha256
from onnx_impl import bench

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("kind", ["model", "ids_model"])
def test_the_report_is_complete(exported, tmp_path, capsys, kind):
    model = getattr(exported, kind)
    arguments = [str(model), "--size", "32", "48", "--batch", "2", "--threads", "1", "--runs", "3", "--warm-up", "1"]
    assert run_command(bench.main, [*arguments, "--json", str(tmp_path / "bench.json")]) == 0
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["model"]["sha256"] == sha256(model) and report["device"] == "CPUExecutionProvider"
    assert (report["size"], report["batch"], report["runs"], report["threads"]) == ([32, 48], 2, 3, 1)
    assert 0 < report["fastest_ms"] <= report["median_ms"] <= report["slowest_ms"]
    assert report["images_per_second"] == pytest.approx(2000 / report["median_ms"], rel=1e-2)
    assert report["machine"]["cores"] >= 1 and report["versions"]["onnxruntime"] and report["date"]
    said = capsys.readouterr().out
    assert f"{report['median_ms']:.2f} ms" in said and "CPUExecutionProvider" in said


def test_warm_up_runs_do_not_count(monkeypatch):
    shapes, times = [], iter([0, 9, 9, 10, 10, 12])
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(times))
    predictor = SimpleNamespace(
        metadata=SimpleNamespace(output="logits"), logits=lambda images, size: shapes.append((images.shape, size))
    )
    assert bench.measure(predictor, (2, 8, 9), warm_up=1, runs=2) == [1, 2]
    assert shapes == [((2, 3, 8, 9), (8, 9))] * 3


@pytest.mark.parametrize(
    ("arguments", "message"), [(["none.onnx"], "no such file"), (["none.onnx", "--json", "."], "is a folder")]
)
def test_bad_use_ends_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run_command(bench.main, arguments) == 2
    assert message in capsys.readouterr().err


def test_the_images_are_the_same_every_time():
    seen = []
    predictor = SimpleNamespace(
        metadata=SimpleNamespace(output="class_ids"), class_ids=lambda images, size: seen.append(images.copy())
    )
    bench.measure(predictor, (1, 4, 4), 1, 1)
    bench.measure(predictor, (1, 4, 4), 1, 1)
    assert all(np.array_equal(images, seen[0]) for images in seen) and seen[0].dtype == np.float32
