"""float16 models: valid by the ONNX standard, half the size, float32 at both ends, gated on changed pixels."""

from __future__ import annotations

import numpy as np
import pytest

from common.command_line import run_command
from common.errors import UserError
from common.files import sha256
from tests.onnx.conftest import blocks

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, numpy_helper  # noqa: E402

from onnx_impl import graphs  # noqa: E402
from onnx_impl.halve import main  # noqa: E402
from onnx_impl.predictor import OnnxPredictor  # noqa: E402

EXPERIMENT = ["shapes/12/suponly", "dataset.images=[20, 4]", "trainer.threads=1"]
GENEROUS = ["--max-drop", "2", "--max-class-drop", "5", "--max-flips", "0.01"]


@pytest.fixture(scope="module")
def halved(exported, tmp_path_factory):
    out = tmp_path_factory.mktemp("half") / "half.onnx"
    assert run_command(main, [str(exported.model), str(out), *EXPERIMENT, *GENEROUS]) == 0
    return out


def test_the_answer_is_nearly_that_of_float32(exported, halved):
    images = blocks(2, 65, 97)
    logits, expected = (OnnxPredictor(path, threads=1).logits(images, (65, 97)) for path in (halved, exported.model))
    error = np.linalg.norm(logits - expected) / np.linalg.norm(expected)
    assert logits.dtype == np.float32 and 1e-6 < error < 5e-3


def test_it_says_what_it_is(exported, halved):
    predictor = OnnxPredictor(halved)
    metadata = predictor.metadata
    assert (metadata.precision, predictor.contents.precision) == ("fp16", "fp16")
    assert metadata.source_sha256 == sha256(exported.model) and metadata.quantization is None
    assert metadata.gates["flips"] <= metadata.gates["limits"]["flips"] == 0.01 and metadata.gates["images"] == 4
    assert halved.stat().st_size < 0.65 * exported.model.stat().st_size


def test_convolutions_are_half_and_both_ends_are_not(halved):
    model = onnx.shape_inference.infer_shapes(onnx.load(halved), strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert {kinds[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT16}
    assert {kinds[name] for name in ("image", "logits", "coarse_logits")} == {TensorProto.FLOAT}
    last = next(node for node in model.graph.node if node.output[0] == "logits")
    assert last.op_type == "Resize" and kinds[last.input[0]] == TensorProto.FLOAT


def test_a_picture_graph_normalises_in_float32(exported, tmp_path):
    metadata = OnnxPredictor(exported.ids_model).metadata
    picture = graphs.with_picture_input(onnx.load(exported.ids_model), metadata.mean, metadata.std)
    one, other = graphs.with_half_precision(picture), graphs.with_half_precision(onnx.load(exported.ids_model))
    onnx.checker.check_model(one, full_check=True)
    kinds = {
        node.name: {attribute.i for attribute in node.attribute} for node in one.graph.node if node.op_type == "Cast"
    }
    assert kinds["picture.cast"] == {TensorProto.FLOAT} and kinds["image.half.cast"] == {TensorProto.FLOAT16}
    assert len(one.graph.node) == len(other.graph.node) + 4


def test_a_weight_beyond_half_precision_is_named(exported):
    model = onnx.load(exported.model)
    tensor = next(item for item in model.graph.initializer if len(item.dims) == 4)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] = 1e5
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(UserError, match=f"weight {tensor.name} holds 1e\\+05, more than float16 can"):
        graphs.with_half_precision(model)


def test_past_a_limit_nothing_is_written(exported, halved, tmp_path, capsys):
    command = [str(exported.model), str(tmp_path / "h.onnx"), *EXPERIMENT, "--max-flips", "-1", "--limit", "1"]
    assert run_command(main, command) == 1
    assert "was not written" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert run_command(main, [str(halved), str(tmp_path / "h.onnx"), *EXPERIMENT]) == 2
    assert "is fp16 already" in capsys.readouterr().err
