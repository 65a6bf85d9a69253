"""OnnxPredictor gives PyTorch's answers, on what was asked for, and refuses everything else with one line."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest

from common.errors import UserError
from common.prediction.sliding import windows

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from onnx_impl.predictor import OnnxPredictor  # noqa: E402


@pytest.fixture(scope="module")
def torch_predictor(exported):
    from torch_impl.predictor import TorchPredictor

    return TorchPredictor(exported.network)


@pytest.fixture(scope="module")
def ids_predictor(exported):
    return OnnxPredictor(exported.ids_model, threads=1)


def relative_error(logits: np.ndarray, expected: np.ndarray) -> float:
    assert logits.shape == expected.shape and logits.dtype == expected.dtype == np.float32
    return float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("batch", "height", "width", "size"), [(1, 64, 64, (64, 64)), (2, 45, 71, (90, 100)), (1, 7, 5, (3, 1))]
)
def test_logits_are_those_of_pytorch_at_any_size(predictor, torch_predictor, images, batch, height, width, size):
    pictures = images(batch, height, width)
    assert relative_error(predictor.logits(pictures, size), torch_predictor.logits(pictures, size)) < 1e-5


def test_the_comparison_of_logits_sees_another_image(predictor, torch_predictor, images):
    logits = predictor.logits(images(1, 64, 64, seed=1), (64, 64))
    assert relative_error(logits, torch_predictor.logits(images(1, 64, 64), (64, 64))) > 0.1


def same_but_for_ties(class_ids: np.ndarray, expected: np.ndarray, logits: np.ndarray) -> None:
    """Class ids ``[B,h,w]`` are the same where one class wins by more than two runtimes round differently, nearly everywhere."""
    second, first = np.sort(logits, 1)[:, -2:].swapaxes(0, 1)
    clear = first - second > 1e-4 * np.abs(logits).max()
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(class_ids[clear], expected[clear])


@pytest.mark.parametrize("size", [(64, 80), (96, 40)])
def test_class_ids_of_a_logits_graph(predictor, torch_predictor, images, size):
    pictures = images(2, 64, 80)
    class_ids = predictor.class_ids(pictures, size)
    assert class_ids.dtype == np.uint8 and len(np.unique(class_ids)) > 2
    same_but_for_ties(class_ids, torch_predictor.class_ids(pictures, size), torch_predictor.logits(pictures, size))


def test_class_ids_of_a_class_id_graph(ids_predictor, torch_predictor, images):
    pictures = images(2, 50, 81)
    class_ids = ids_predictor.class_ids(pictures, (50, 81))
    assert class_ids.dtype == np.uint8 and len(np.unique(class_ids)) > 2
    expected, logits = torch_predictor.class_ids(pictures, (50, 81)), torch_predictor.logits(pictures, (50, 81))
    same_but_for_ties(class_ids, expected, logits)
    with pytest.raises(AssertionError):
        same_but_for_ties(class_ids, expected[::-1], logits)


def test_a_class_id_graph_says_that_it_has_no_logits(ids_predictor, images):
    pictures = images(1, 32, 32)
    for ask in (
        lambda: ids_predictor.logits(pictures, (32, 32)),
        lambda: ids_predictor.class_ids(pictures, (64, 64)),
        lambda: ids_predictor.sliding_class_ids(pictures, windows(32, 32, 16, 16, "cut_off"), "mean_logits"),
    ):
        with pytest.raises(UserError, match="ids.onnx.*--output logits"):
            ask()


@pytest.mark.parametrize("accumulate", ["mean_logits", "sum_logits", "sum_softmax"])
def test_sliding_windows_are_joined_as_in_pytorch(predictor, torch_predictor, images, accumulate):
    image = images(1, 70, 90)
    layout = windows(70, 90, 48, 20, "cut_off")
    class_ids = predictor.sliding_class_ids(image, layout, accumulate)
    assert class_ids.shape == (70, 90) and class_ids.dtype == np.uint8
    whole = predictor.class_ids(image, (70, 90))[0]
    different = (class_ids != torch_predictor.sliding_class_ids(image, layout, accumulate)).sum()
    assert different * 100 <= (class_ids != whole).sum() > 0, "windows must matter for this test to mean something"


def test_the_kind_of_accumulation_matters(predictor, images):
    image = images(1, 70, 90)
    layout = [window for window in windows(70, 90, 48, 20, "cut_off") for _ in range(1 if window.left else 4)]
    kinds = [predictor.sliding_class_ids(image, layout, kind) for kind in ("mean_logits", "sum_softmax")]
    assert (kinds[0] != kinds[1]).any()


def test_runtime_and_metadata_say_what_runs(predictor, exported):
    assert (predictor.runtime.name, predictor.runtime.version) == ("onnx", onnxruntime.__version__)
    assert predictor.runtime.device == "CPUExecutionProvider"
    assert predictor.classes == 6
    assert predictor.metadata.classes == exported.experiment.dataset.classes
    assert predictor.metadata.mean == exported.experiment.augment.mean


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nothing.onnx: there is no such file"):
        OnnxPredictor(tmp_path / "nothing.onnx")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.999])
def test_a_damaged_file_is_refused(exported, tmp_path, keep):
    whole = exported.model.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(UserError, match="cut.onnx"):
        OnnxPredictor(tmp_path / "cut.onnx")


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("hello\n")
    with pytest.raises(UserError, match="text.onnx is no ONNX file"):
        OnnxPredictor(tmp_path / "text.onnx")


def changed_model(exported, path, **properties: str | None):
    """Write the exported model with other metadata; None removes an entry. Returns the model for further changes."""
    model = onnx.load(exported.model)
    kept = {entry.key: entry.value for entry in model.metadata_props} | properties
    onnx.helper.set_model_props(model, {key: value for key, value in kept.items() if value is not None})
    onnx.save(model, path)
    return model


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"format_version": None}, "not a model of this project"),
        ({"format_version": "3"}, "metadata format 3, but this program reads 1 and 2"),
        ({"precision": "int8"}, "precision int8 does not go with quantization = None"),
        ({"input": "picture"}, "a graph of pictures gives class_ids, not logits"),
        ({"size": "[64, 64]"}, "its metadata says batch None and size .64, 64. but its input is"),
        ({"precision": "fp16"}, "its metadata says fp16 but its nodes are fp32"),
        ({"mean": "[1, 2"}, "metadata is damaged"),
        ({"mean": "[1, 2]"}, "mean = "),
        ({"output": "boxes"}, "output = 'boxes' is not one of"),
        ({"std": None}, "std is missing"),
        ({"output": "class_ids"}, "not a segmentation model: it gives logits"),
        ({"classes": json.dumps(["a", "b"])}, "names 2 classes but its logits have 6"),
    ],
)
def test_wrong_metadata_is_refused(exported, tmp_path, properties, message):
    changed_model(exported, tmp_path / "other.onnx", **properties)
    with pytest.raises(UserError, match=f"other.onnx.*{message}"):
        OnnxPredictor(tmp_path / "other.onnx")


def test_unchanged_metadata_is_accepted(exported, tmp_path):
    changed_model(exported, tmp_path / "same.onnx")
    assert OnnxPredictor(tmp_path / "same.onnx").classes == 6


def test_a_graph_with_another_input_is_refused(exported, tmp_path):
    model = changed_model(exported, tmp_path / "other.onnx")
    picture = onnx.helper.make_tensor_value_info("picture", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["picture"], ["logits"])], "g", [picture], [logits])
    other = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    other.metadata_props.extend(model.metadata_props)
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(UserError, match=r"not a segmentation model: its input is picture tensor\(float\)"):
        OnnxPredictor(tmp_path / "other.onnx")


def test_images_that_do_not_fit_are_an_error_of_the_user(predictor):
    with pytest.raises(UserError, match=r"ONNX Runtime failed on images \[1, 4, 8, 8\]"):
        predictor.logits(np.zeros((1, 4, 8, 8), np.float32), (8, 8))


def test_a_missing_package_is_named(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="not installed; install the extra onnx"):
        OnnxPredictor(exported.model)


def test_a_package_emptied_by_uninstalling_its_twin_is_noticed(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(UserError, match="uninstall both, then install one"):
        OnnxPredictor(exported.model)
