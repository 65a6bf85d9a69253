"""Buffers serve one shape and one thread; the caller's arrays stay the caller's."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from common.errors import UserError
from tests.onnx.conftest import blocks

onnxruntime = pytest.importorskip("onnxruntime")

from onnx_impl.binding import KEPT_SHAPES, Buffers  # noqa: E402
from onnx_impl.predictor import OnnxPredictor  # noqa: E402


class Recorder:
    """Stands for ``onnxruntime`` and one of its sessions: counts what is made and notes every run."""

    def __init__(self, shape: list) -> None:
        self.made: list[tuple] = []
        self.runs: list[tuple] = []
        self.shape = shape
        self.OrtValue = SimpleNamespace(
            ortvalue_from_numpy=lambda array, *device: self._value("input", array.shape, device),
            ortvalue_from_shape_and_type=lambda shape, kind, *device: self._value("output", tuple(shape), device),
        )

    def RunOptions(self):
        entries = {}
        return SimpleNamespace(entries=entries, add_run_config_entry=entries.__setitem__)

    def get_outputs(self):
        return [SimpleNamespace(name="logits", shape=self.shape, type="tensor(float)")]

    def io_binding(self):
        bound = []
        return SimpleNamespace(
            bound=bound,
            bind_ortvalue_input=lambda name, value: bound.append((name, value.number)),
            bind_output=lambda name, *device: bound.append((name, device)),
            bind_ortvalue_output=lambda name, value: bound.append((name, value.number)),
            copy_outputs_to_cpu=lambda: ["result"],
        )

    def run_with_iobinding(self, binding, options):
        self.runs.append((tuple(binding.bound), options and options.entries["gpu_graph_id"]))

    def _value(self, kind: str, shape: tuple, device: tuple):
        number = len(self.made)
        self.made.append((kind, shape, device))
        return SimpleNamespace(number=number, update_inplace=lambda array: self.runs.append(("update", number)))


def images_of(height: int) -> np.ndarray:
    return np.zeros((1, 3, height, 8), np.float32)


def test_buffers_on_a_gpu_are_made_once_per_shape():
    fake = Recorder(["batch", 6, "height", "width"])
    buffers = Buffers(fake, fake, "cuda", 2)
    assert buffers.run("image", images_of(8), "logits") == "result"
    buffers.run("image", images_of(8), "logits")
    assert fake.made == [("input", (1, 3, 8, 8), ("cuda", 2))]
    bound = (("image", 0), ("logits", ("cuda", 2)))
    assert fake.runs == [(bound, None), ("update", 0), (bound, None)]
    for height in range(9, 9 + KEPT_SHAPES):
        buffers.run("image", images_of(height), "logits")
    buffers.run("image", images_of(8), "logits")
    assert len(fake.made) == KEPT_SHAPES + 2, "the buffers of the oldest shape have gone and are made again"


def test_recorded_kernels_keep_their_buffers_and_an_id_per_shape():
    fake = Recorder([1, 6, 8, 8])
    buffers = Buffers(fake, fake, "cuda", 0, graphs=True)
    heights = [*range(8, 10 + KEPT_SHAPES), 8]
    for height in heights:
        buffers.run("image", images_of(height), "logits")
    ids = [number for _, number in (run for run in fake.runs if run[0] != "update")]
    assert ids == [str(1 + index) for index in range(len(heights) - 1)] + ["1"]
    assert ("output", (1, 6, 8, 8), ("cuda", 0)) in fake.made
    assert [run for run in fake.runs if run[0] == "update"] == [("update", 0)]


def test_the_same_lines_run_on_the_cpu(exported):
    predictor = OnnxPredictor(exported.model, threads=1)
    first, second = blocks(1, 40, 40), blocks(1, 40, 40, seed=1)
    answers = [predictor.run(images, "logits") for images in (first, second, first)]
    assert (answers[0] != answers[1]).any()
    np.testing.assert_array_equal(answers[0], answers[2])
    before = first.copy()
    predictor.run(second, "logits")
    np.testing.assert_array_equal(first, before, err_msg="the caller's array belongs to the caller")


def test_threads_do_not_share_buffers(exported):
    predictor = OnnxPredictor(exported.model, threads=1)
    inputs = [blocks(1, 33, 41, seed=seed) for seed in range(4)]
    expected = [predictor.run(images, "logits") for images in inputs]
    wrong = []

    def work(index: int) -> None:
        for _ in range(10):
            if not np.array_equal(predictor.run(inputs[index], "logits"), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_running_out_of_memory_names_the_way_out(exported, monkeypatch):
    predictor = OnnxPredictor(exported.model, threads=1)

    def fail(*arguments):
        raise RuntimeError("CUDA failure 2: out of memory\nmore")

    monkeypatch.setattr(predictor._buffers, "run", fail)
    with pytest.raises(UserError, match="CUDA failure 2: out of memory;.*--window"):
        predictor.run(blocks(1, 8, 8), "logits")
