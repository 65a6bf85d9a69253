"""Other forms of a graph give the same answer, say what they are, and a file whose nodes say otherwise is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.command_line import run_command
from common.errors import UserError
from common.images.normalise import planes
from common.models.exported_graph import READ, GraphMetadata, read_properties
from tests.onnx.conftest import blocks

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from onnx_impl import graphs  # noqa: E402
from onnx_impl.file_contents import read_contents  # noqa: E402
from onnx_impl.predictor import OnnxPredictor  # noqa: E402


def metadata_of(path: Path) -> GraphMetadata:
    return read_properties({entry.key: entry.value for entry in onnx.load(path).metadata_props}, path)


def picture_model(
    exported, path: Path, batch: int | None = None, size: tuple[int, int] | None = None, **changes
) -> Path:
    """Write the class id graph with pictures as its input."""
    metadata = replace(metadata_of(exported.ids_model), input="picture", batch=batch, size=size, gates=None, **changes)
    model = graphs.with_picture_input(onnx.load(exported.ids_model), metadata.mean, metadata.std)
    graphs.save(graphs.with_fixed_shape(model, batch, size), metadata, path)
    return path


def pictures(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 ``[B,H,W,3]``: every pixel another colour, so that many lie near the border of two classes."""
    return np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3), np.uint8)


@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 33, 47), (1, 5, 1)])
def test_bytes_give_exactly_what_normalised_images_give(exported, tmp_path, shape):
    inside = OnnxPredictor(picture_model(exported, tmp_path / "picture.onnx"), threads=1)
    outside = OnnxPredictor(exported.ids_model, threads=1)
    shown = pictures(*shape)
    ids = inside.picture_class_ids(shown)
    assert ids.dtype == np.uint8 and ids.shape == shape
    np.testing.assert_array_equal(ids, outside.picture_class_ids(shown))
    images = np.stack([planes(picture, inside.metadata.normalisation) for picture in shown])
    np.testing.assert_array_equal(ids, inside.class_ids(images, shape[1:]))


def test_another_normalisation_is_seen(exported, tmp_path):
    right = OnnxPredictor(picture_model(exported, tmp_path / "a.onnx"), threads=1)
    metadata = metadata_of(tmp_path / "a.onnx")
    model = graphs.with_picture_input(onnx.load(exported.ids_model), (103.53, 116.28, 123.675), metadata.std)
    graphs.save(model, metadata, tmp_path / "b.onnx")
    wrong = OnnxPredictor(tmp_path / "b.onnx", threads=1)
    shown = pictures(1, 64, 64)
    assert (right.picture_class_ids(shown) != wrong.picture_class_ids(shown)).any()


def test_a_picture_graph_refuses_what_was_resized_after_normalising(exported, tmp_path):
    predictor = OnnxPredictor(picture_model(exported, tmp_path / "picture.onnx"), threads=1)
    with pytest.raises(UserError, match="picture.onnx takes pictures as bytes.*--input image"):
        predictor.class_ids(blocks(1, 32, 32), (32, 32))
    with pytest.raises(UserError, match="sliding windows need logits"):
        predictor.sliding_class_ids(blocks(1, 32, 32), [], "mean_logits")


def test_a_fixed_shape_is_kept_and_said(exported, tmp_path):
    fixed = OnnxPredictor(picture_model(exported, tmp_path / "fixed.onnx", 2, (40, 56)), threads=1)
    free = OnnxPredictor(exported.ids_model, threads=1)
    assert fixed.session.get_inputs()[0].shape == [2, 40, 56, 3]
    assert fixed.session.get_outputs()[0].shape == [2, 40, 56]
    shown = pictures(3, 40, 56)
    np.testing.assert_array_equal(fixed.picture_class_ids(shown), free.picture_class_ids(shown))
    with pytest.raises(UserError, match="fixed.onnx takes images of exactly 40x56 pixels, not 56x40"):
        fixed.picture_class_ids(pictures(2, 56, 40))


def test_a_fixed_logits_graph_has_no_arithmetic_on_shapes_left(exported, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    metadata = replace(metadata_of(exported.model), batch=1, size=(64, 96), gates=None)
    graphs.save(graphs.with_fixed_shape(onnx.load(exported.model), 1, (64, 96)), metadata, tmp_path / "fixed.onnx")
    outputs = {item.name: item.shape for item in OnnxPredictor(tmp_path / "fixed.onnx").session.get_outputs()}
    assert outputs == {"logits": [1, 6, 64, 96], "coarse_logits": [1, 6, 16, 24]}

    def operators(path: Path) -> set[str]:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}

    assert "Shape" in operators(exported.model)
    assert not operators(tmp_path / "fixed.onnx") & {"Shape", "Squeeze", "Div", "Reshape"}


def test_the_image_mean_is_one_pooling_operator(exported):
    operators = read_contents(exported.model).operators
    assert operators["GlobalAveragePool"] == 1 and operators["ReduceMean"] == 0


@pytest.mark.parametrize(
    ("axes", "keepdims", "shape", "changes"),
    [
        ([2, 3], 1, [1, 3, 1, 1], True),
        ([-1, -2], 1, [1, 3, 1, 1], True),
        ([1], 1, [1, 1, 4, 5], False),
        ([2, 3], 0, [1, 3], False),
    ],
)
def test_only_means_over_the_whole_image_are_rewritten(axes, keepdims, shape, changes):
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=keepdims)
    ends = [helper.make_tensor_value_info(*end) for end in (("x", 1, [1, 3, 4, 5]), ("y", 1, shape))]
    constants = [numpy_helper.from_array(np.array(axes, np.int64), "axes")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    changed = graphs.with_global_pooling(model)
    onnx.checker.check_model(changed, full_check=True)
    assert (changed.graph.node[0].op_type == "GlobalAveragePool") == changes
    assert model.graph.node[0].op_type == "ReduceMean"
    if changes:
        from onnx.reference import ReferenceEvaluator

        x = np.random.default_rng(0).standard_normal((1, 3, 4, 5)).astype(np.float32)
        results = [ReferenceEvaluator(item).run(None, {"x": x})[0] for item in (model, changed)]
        np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-7)


def changed_file(exported, path: Path, change) -> Path:
    """Write the logits model after ``change``, its metadata as it was: what tools do that copy metadata."""
    model = onnx.load(exported.model)
    change(model)
    onnx.save(model, path)
    return path


def halve_weights(model) -> None:
    """Store one weight as half behind a cast."""
    tensor = next(item for item in model.graph.initializer if item.data_type == TensorProto.FLOAT)
    half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{tensor.name}.half")
    model.graph.node.insert(0, helper.make_node("Cast", [half.name], [tensor.name], to=TensorProto.FLOAT))
    model.graph.initializer.remove(tensor)
    model.graph.initializer.append(half)


def quantise_weights(model) -> None:
    """Store one weight in 8 bits."""
    tensor = next(item for item in model.graph.initializer if len(item.dims) == 4)
    values = numpy_helper.to_array(tensor)
    scale = np.float32(np.abs(values).max() / 127)
    stored = {
        "w8": np.rint(values / scale).astype(np.int8), "w8.scale": scale, "w8.zero": np.int8(0),
    }  # fmt: skip
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", list(stored), [tensor.name]))
    model.graph.initializer.remove(tensor)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items())


@pytest.mark.parametrize(("change", "precision"), [(halve_weights, "fp16"), (quantise_weights, "int8 S8")])
def test_a_file_of_another_precision_does_not_pass_as_the_export(exported, tmp_path, change, precision):
    path = changed_file(exported, tmp_path / "other.onnx", change)
    with pytest.raises(UserError, match=f"other.onnx: its metadata says fp32 but its nodes are {precision};"):
        OnnxPredictor(path)


def test_an_untouched_copy_passes(exported, tmp_path):
    path = changed_file(exported, tmp_path / "same.onnx", lambda model: None)
    assert OnnxPredictor(path).contents.precision == "fp32"


def test_a_file_of_format_1_still_loads(exported, tmp_path):
    new = {"format_version", "input", "precision", "batch", "size", "source_sha256", "quantization", "gates"}

    def age(model) -> None:
        kept = {entry.key: entry.value for entry in model.metadata_props if entry.key not in new}
        helper.set_model_props(model, kept | {"format_version": "1"})

    predictor = OnnxPredictor(changed_file(exported, tmp_path / "old.onnx", age), threads=1)
    assert predictor.metadata == replace(metadata_of(exported.model), gates=None)
    np.testing.assert_array_equal(
        predictor.logits(blocks(1, 32, 32), (32, 32)),
        OnnxPredictor(exported.model, threads=1).logits(blocks(1, 32, 32), (32, 32)),
    )
    assert "1" in READ


def test_a_halved_file_of_format_1_is_refused(exported, tmp_path):
    def age(model) -> None:
        helper.set_model_props(model, {e.key: e.value for e in model.metadata_props} | {"format_version": "1"})
        halve_weights(model)

    with pytest.raises(UserError, match="its metadata says fp32 but its nodes are fp16"):
        OnnxPredictor(changed_file(exported, tmp_path / "old.onnx", age))


def test_the_file_says_what_was_measured(exported):
    gates = metadata_of(exported.model).gates
    assert 0 < gates["relative_error"] <= gates["limits"]["relative_error"]
    assert 0 <= gates["flips"] <= gates["limits"]["flips"]


def test_a_picture_graph_is_exported_and_evaluated(exported, tmp_path, capsys):
    import json

    import onnx_impl.eval
    from converters.export_onnx import main

    model = tmp_path / "picture.onnx"
    assert run_command(main, [str(exported.checkpoint), str(model), "--input", "picture", "--size", "64", "64"]) == 0
    assert "picture to class_ids" in capsys.readouterr().out
    metadata = metadata_of(model)
    assert (metadata.input, metadata.output, metadata.size, metadata.batch) == ("picture", "class_ids", (64, 64), None)
    matrices = []
    for name in (model, exported.model):
        out = tmp_path / name.stem
        command = [
            "shapes/12/suponly",
            "trainer.threads=1",
            "--checkpoint",
            str(name),
            "--out",
            str(out),
            "--limit",
            "4",
        ]
        assert run_command(onnx_impl.eval.main, command) == 0
        matrices.append(json.loads((out / "result.json").read_text())["confusion_matrix"])
    assert matrices[0] == matrices[1]


def test_pictures_give_nothing_but_class_ids(exported, tmp_path, capsys):
    from converters.export_onnx import main

    command = [str(exported.checkpoint), str(tmp_path / "m.onnx"), "--input", "picture", "--output", "logits"]
    assert run_command(main, command) == 2
    assert "use --input picture with --output class_ids" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
