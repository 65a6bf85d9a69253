"""The benchmark interleaves what it compares, counts the rounds it says it counts, and names files for what they are."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import numpy as np
import pytest

from common.command_line import run_command
from common.files import sha256
from common.reports.charts import bar_chart
from onnx_impl import bench
from onnx_impl.providers import ProviderOptions

pytest.importorskip("onnxruntime")

QUICK = ["--size", "32", "48", "--threads", "1", "--runs", "3", "--warm-up", "1"]


@pytest.mark.slow
def test_the_report_is_complete(exported, tmp_path, capsys):
    files = [str(exported.model), str(exported.ids_model)]
    drawn = bench.charts.available()
    outputs = ["--json", str(tmp_path / "bench.json"), *(["--chart", str(tmp_path / "bench.svg")] if drawn else [])]
    data = ["--data", "shapes/12/suponly", "--settings", "dataset.images=[20, 4]"]
    assert run_command(bench.main, [*files, *QUICK, "--batch", "1", "2", *data, *outputs]) == 0
    report = json.loads((tmp_path / "bench.json").read_text())
    assert (report["size"], report["batch"], report["runs"], report["threads"]) == ([32, 48], [1, 2], 3, 1)
    assert report["machine"]["cores"] >= 1 and report["machine"]["versions"]["onnxruntime"] and report["date"]
    assert report["data"] == {"experiment": "shapes/12/suponly", "limit": None}
    for row, path in zip(report["rows"], (exported.model, exported.ids_model)):
        assert (row["sha256"], row["device"], row["precision"]) == (sha256(path), "CPUExecutionProvider", "fp32")
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] and row["cpu_ms"] > 0 and row["load_s"] > 0
        assert (
            row["images_per_second"]["1"] == pytest.approx(1000 / row["p50_ms"], rel=1e-2) and row["peak_mib"] is None
        )
        assert row["score"]["flips"] == 0 and row["score"]["miou"] == report["rows"][0]["score"]["miou"]
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) == 4 and len({len(line) for line in table}) == 1 and "pixels changed %" in table[0]
    assert not drawn or ElementTree.parse(tmp_path / "bench.svg").getroot().tag.endswith("svg")


@pytest.mark.slow
def test_bytes_to_class_ids_and_memory_can_be_measured(exported, tmp_path):
    command = [str(exported.model), *QUICK, "--end-to-end", "--memory", "--json", str(tmp_path / "b.json")]
    assert run_command(bench.main, command) == 0
    report = json.loads((tmp_path / "b.json").read_text())
    assert report["end_to_end"] and report["rows"][0]["peak_mib"] > 0


def test_rounds_are_interleaved_and_warm_up_does_not_count(monkeypatch):
    calls, clock = [], iter(range(100))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(bench.time, "process_time", lambda: 7)
    times = bench.measure([lambda: calls.append("a"), lambda: calls.append("b")], warm_up=1, runs=2)
    assert calls == ["a", "b"] * 3
    assert [len(of.wall) for of in times] == [2, 2] and all(of.cpu == [0, 0] and of.wall == [1, 1] for of in times)


def test_a_file_of_signed_activations_is_named():
    rows = [
        {"name": "a", "precision": "int8 S8S8", "provider": "cpu"},
        {"name": "b", "precision": "int8 U8S8", "provider": "cpu"},
        {"name": "c", "precision": "int8 S8S8", "provider": "tensorrt"},
    ]
    (remark,) = bench.remarks(rows)
    assert remark.startswith("a is S8S8")


def candidate(**options):
    return SimpleNamespace(predictor=SimpleNamespace(options=ProviderOptions(**options)))


def test_a_busy_machine_is_named():
    waited, ran = bench.Times([0.4, 0.5, 0.6], [0.1, 0.1, 0.1]), bench.Times([0.1], [0.1])
    one = candidate(threads=1)
    assert "wall time 5.0 times" in bench.busy([ran, waited], [one, one], 9.0)
    assert bench.busy([ran], [one], 9.0) == ""
    assert bench.busy([waited], [candidate(provider="cuda")], 9.0) == "", "there the processor waits for the GPU"


def test_the_images_are_the_same_every_time():
    seen = []
    predictor = SimpleNamespace(
        metadata=SimpleNamespace(input="image", output="class_ids"),
        run=lambda images, output: seen.append((images.copy(), output)),
    )
    options = SimpleNamespace(size=(4, 5), end_to_end=False)
    for _ in range(2):
        bench.runner(SimpleNamespace(predictor=predictor), 2, options)()
    assert seen[0][0].shape == (2, 3, 4, 5) and seen[0][0].dtype == np.float32 and seen[0][1] == "class_ids"
    np.testing.assert_array_equal(seen[0][0], seen[1][0])


def test_specs_name_provider_and_arithmetic():
    assert bench.parse_spec("openvino:bf16", 2) == ProviderOptions(provider="openvino", precision="bf16", threads=2)
    assert bench.parse_spec("cpu:exact-sums", None) == ProviderOptions(exact_sums=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.onnx"], "no such file"),
        (["none.onnx", "--json", "."], "is a folder"),
        (["none.onnx", "--provider", "cpu:int4"], "'int4' is not one of fp16, bf16, tf32, exact-sums"),
        (["none.onnx", "--provider", "gpu"], "'gpu' is not one of cpu"),
    ],
)
def test_bad_use_ends_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run_command(bench.main, arguments) == 2
    assert message in capsys.readouterr().err


def test_bars_have_names_and_values():
    pytest.importorskip("matplotlib")
    texts = {
        item.text.strip()
        for item in ElementTree.fromstring(bar_chart("Times & more", {"a": 2.0, "b <": 1.5}, "ms")).iter()
        if item.text
    }
    assert {"Times & more", "a", "b <", "2", "1.5", "ms"} <= texts


def test_a_chart_without_matplotlib_is_refused_before_anything_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench.charts, "available", lambda: False)
    assert run_command(bench.main, ["none.onnx", "--chart", str(tmp_path / "c.svg")]) == 2
    assert "charts need matplotlib" in capsys.readouterr().err
