"""int8 models: calibrated on training images only, gated on mIoU, classes and flips, named for what they are."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.command_line import run_command
from common.datasets.file_dataset import open_dataset
from common.errors import UserError
from common.experiment import compose
from common.files import sha256
from common.models.exported_graph import read_properties
from common.splits.registry import digest
from onnx_impl.calibration import CalibrationImages, calibration_ids, central
from onnx_impl.scores import Limits, Score, compare

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper  # noqa: E402

from onnx_impl import graphs, recipes  # noqa: E402
from onnx_impl.bench import open_candidate  # noqa: E402
from onnx_impl.file_contents import read_contents  # noqa: E402
from onnx_impl.predictor import OnnxPredictor  # noqa: E402
from onnx_impl.providers import ProviderOptions  # noqa: E402
from onnx_impl.quantize import Attempt, attempts, main  # noqa: E402
from onnx_impl.recipes import Recipe  # noqa: E402

EXPERIMENT = ["shapes/12/suponly", "dataset.images=[20, 4]", "trainer.threads=1"]
GENEROUS = ["--max-drop", "20", "--max-class-drop", "50", "--max-flips", "0.2"]
"""The network of these tests has random weights, whose classes lie closer together than those of a trained one."""


@pytest.fixture(scope="module")
def config():
    return compose(EXPERIMENT[0], EXPERIMENT[1:])


@pytest.fixture(scope="module")
def int8(exported, tmp_path_factory) -> Path:
    """The int8 form of the logits model, made by the command."""
    out = tmp_path_factory.mktemp("int8") / "int8.onnx"
    assert run_command(main, [str(exported.model), str(out), *EXPERIMENT, "--images", "4", *GENEROUS]) == 0
    return out


def test_the_file_says_how_it_was_made_and_what_it_lost(exported, int8, config):
    predictor = OnnxPredictor(int8, threads=1)
    metadata, ids = predictor.metadata, calibration_ids(open_dataset(config.dataset), 4, 0)
    assert metadata.precision == "int8" and metadata.source_sha256 == sha256(exported.model)
    described = metadata.quantization
    assert (described["scheme"], described["target"], described["calibration"]) == ("U8S8", "cpu", "percentile")
    assert (described["images"], described["images_sha256"]) == (4, digest(ids)) and described["kept_float"] == []
    gates = metadata.gates
    assert gates["images"] == 4 and 0 < gates["flips"] <= gates["limits"]["flips"] == 0.2
    assert gates["float32_miou"] - gates["miou"] == pytest.approx(gates["drop"], abs=2e-4)
    assert int8.stat().st_size < 0.5 * exported.model.stat().st_size
    unchanged = read_properties({e.key: e.value for e in onnx.load(exported.model).metadata_props}, exported.model)
    assert replace(metadata, precision="fp32", source_sha256=None, quantization=None, gates=None) == replace(
        unchanged, gates=None
    )


def test_convolutions_compute_in_8_bits_and_resizes_do_not(int8):
    graph = onnx.load(int8).graph
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "Conv":
            assert [makers[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2, node.name
    assert makers["logits"].op_type == "Resize", "the logits must not be rounded once they have been interpolated"
    assert {entry.domain for entry in onnx.load(int8).opset_import} == {""}


def test_it_scores_what_its_gates_say(exported, int8, config):
    dataset = open_dataset(config.dataset)
    predictors = [OnnxPredictor(path, threads=1) for path in (exported.model, int8)]
    first, score = compare(predictors, dataset, dataset.val_ids, config)
    assert (first.drop, first.class_drop, first.flips) == (0, 0, 0)
    gates = predictors[1].metadata.gates
    assert score.plain() == {key: gates[key] for key in score.plain()}


def with_scales(path: Path, factor: float, operators: set[str]) -> None:
    """Multiply the scales that nodes of these types read in an int8 file."""
    model = onnx.load(path)
    scales = {node.input[1] for node in model.graph.node if node.op_type in operators}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    onnx.save(model, path)


def test_scales_of_activations_times_sixteen_change_many_more_pixels(exported, int8, config, tmp_path):
    coarse = Path(shutil.copy(int8, tmp_path / "coarse.onnx"))
    with_scales(coarse, 16, {"QuantizeLinear"})
    dataset = open_dataset(config.dataset)
    exact = ProviderOptions(threads=1, exact_sums=True)  # the finer scales could overflow, and then be the worse ones
    predictors = [OnnxPredictor(path, exact) for path in (exported.model, int8, coarse)]
    _, right, wrong = compare(predictors, dataset, dataset.val_ids, config)
    limits = Limits(drop=100, class_drop=100, flips=1.5 * right.flips)
    assert right.beyond(limits) == [] and "change class" in wrong.beyond(limits)[0]


def test_every_scale_times_four_trips_the_gate_even_with_generous_limits(exported, tmp_path, monkeypatch, capsys):
    command = [
        str(exported.model),
        str(tmp_path / "int8.onnx"),
        *EXPERIMENT,
        "--images",
        "2",
        "--limit",
        "2",
        *GENEROUS,
    ]
    quantise = recipes.quantise

    def spoiled(source, target, *rest) -> None:
        quantise(source, target, *rest)
        with_scales(target, 4, {"QuantizeLinear", "DequantizeLinear"})

    monkeypatch.setattr(recipes, "quantise", spoiled)
    assert run_command(main, [*command, "--exact-sums"]) == 1
    assert "int8.onnx was not written" in capsys.readouterr().err and not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert run_command(main, [*command, "--exact-sums"]) == 0


def test_a_picture_model_gives_the_same_classes_as_the_image_model(exported, int8, tmp_path):
    metadata = OnnxPredictor(int8).metadata
    model = graphs.with_picture_input(onnx.load(exported.ids_model), metadata.mean, metadata.std)
    source = tmp_path / "picture.onnx"
    graphs.save(model, replace(OnnxPredictor(exported.ids_model).metadata, input="picture", gates=None), source)
    out = tmp_path / "int8.onnx"
    assert run_command(main, [str(source), str(out), *EXPERIMENT, "--images", "4", *GENEROUS]) == 0
    shown = np.random.default_rng(0).integers(0, 256, (1, 48, 80, 3), np.uint8)
    class_ids, expected = (OnnxPredictor(path, threads=1).picture_class_ids(shown) for path in (out, int8))
    np.testing.assert_array_equal(class_ids, expected)


def test_tensorrt_gets_symmetric_signed_pairs_and_float_weights(exported, tmp_path):
    out = tmp_path / "trt.onnx"
    command = [str(exported.model), str(out), *EXPERIMENT, "--images", "4", "--target", "tensorrt", *GENEROUS]
    assert run_command(main, command) == 0
    graph = onnx.load(out).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert pairs and all(
        (constants[node.input[2]] == 0).all() and constants[node.input[2]].dtype == np.int8 for node in pairs
    )
    assert any(node.input[0] in constants for node in pairs), "weights are quantised by a node"
    biases = [node.input[2] for node in graph.node if node.op_type == "Conv" and len(node.input) > 2]
    assert biases and all(constants[name].dtype == np.float32 for name in biases)
    assert open_candidate(out, "cpu", 1).precision == "int8 S8S8", "the benchmark says what it is"
    assert read_contents(out).scheme == "S8S8" and OnnxPredictor(out).metadata.quantization["scheme"] == "S8S8"


def test_signed_activations_do_not_pass_as_unsigned_ones(exported, int8, tmp_path):
    recipes.prepare(exported.model, tmp_path / "prepared.onnx")
    inputs = [np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)]
    signed = replace(OnnxPredictor(int8).metadata, gates=None)
    recipes.quantise(tmp_path / "prepared.onnx", tmp_path / "s8.onnx", "image", inputs, Recipe(target="tensorrt"), [])
    graphs.save(onnx.load(tmp_path / "s8.onnx"), signed, tmp_path / "s8.onnx")
    with pytest.raises(UserError, match="metadata says quantised U8S8 but its nodes are S8S8"):
        OnnxPredictor(tmp_path / "s8.onnx")


def test_a_failed_gate_writes_nothing_and_says_what_was_tried(exported, tmp_path, capsys):
    out = tmp_path / "out" / "int8.onnx"
    out.parent.mkdir()
    out.write_bytes(b"before")
    command = [
        str(exported.model),
        str(out),
        *EXPERIMENT,
        "--images",
        "2",
        "--limit",
        "1",
        "--max-flips",
        "0",
        "--exact-sums",
    ]
    assert run_command(main, command) == 1
    said = capsys.readouterr()
    assert out.read_bytes() == b"before" and [path.name for path in out.parent.iterdir()] == ["int8.onnx"]
    assert (
        "was not written: with 8 convolutions in float still" in said.err
        and "% of pixels change class of at most 0 %" in said.err
    )
    tried = [text for text in said.out.splitlines() if text.startswith("mIoU")]
    assert len(tried) == 5 and "every convolution with weights in 8 bits" in tried[0]
    assert "float stayed classifier.project:" in tried[1] and tried[4].count(",") > tried[3].count(",")


def test_a_processor_that_overflows_gets_7_bits_before_floats(monkeypatch):
    monkeypatch.setattr(recipes, "convolutions", lambda path: {"a": "first", "b": "middle", "c": "last"})
    monkeypatch.setattr(recipes, "noisiest", lambda *arguments: ["b", "c", "a"])
    for overflows in (True, False):
        monkeypatch.setattr(recipes, "saturates", lambda *arguments: overflows)  # noqa: B023
        tried = list(attempts(Path("p"), Path("m"), Recipe(), "image", None, False))
        floats = [Attempt(("c",), overflows), Attempt(("c", "b"), overflows)]
        assert tried == [Attempt((), False), *([Attempt((), True)] if overflows else []), *floats]
    monkeypatch.setattr(recipes, "saturates", lambda *arguments: True)
    assert not any(attempt.reduce_range for attempt in attempts(Path("p"), Path("m"), Recipe(), "image", None, True))


def test_calibration_images_are_training_images(config, tmp_path):
    dataset = open_dataset(config.dataset)
    ids = calibration_ids(dataset, 8, 0)
    assert len(ids) == 8 and set(ids) <= set(dataset.train_ids) and not set(ids) & set(dataset.val_ids)
    assert ids == calibration_ids(dataset, 8, 0) != calibration_ids(dataset, 8, 1)
    (tmp_path / "ids.txt").write_text("\n".join(dataset.train_ids[:2]))
    assert calibration_ids(dataset, 8, 0, tmp_path / "ids.txt") == tuple(sorted(dataset.train_ids[:2]))


def test_calibration_that_touches_validation_is_refused(exported, config, tmp_path, capsys):
    dataset = open_dataset(config.dataset)
    for ids, message in (
        ([dataset.train_ids[0], dataset.val_ids[1]], f"has 1 images that are validated on, e.g. {dataset.val_ids[1]}"),
        (["nowhere"], "image nowhere is not in the training list"),
    ):
        (tmp_path / "ids.txt").write_text("\n".join(ids))
        command = [
            str(exported.model),
            str(tmp_path / "o.onnx"),
            *EXPERIMENT,
            "--calibration-list",
            str(tmp_path / "ids.txt"),
        ]
        assert run_command(main, command) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1 and not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize(
    ("overrides", "changes", "shape"),
    [
        ([], {}, (1, 3, 64, 64)),
        ([], {"batch": 2}, (2, 3, 64, 64)),
        ([], {"size": (32, 48)}, (1, 3, 32, 48)),
        ([], {"input": "picture", "output": "class_ids"}, (1, 64, 64, 3)),
        (["evaluation.protocol=slide", "evaluation.size=40", "evaluation.stride=20"], {}, (1, 3, 40, 40)),
        (["evaluation.protocol=resize", "evaluation.size=80"], {}, (1, 3, 80, 80)),
    ],
)
def test_calibration_sees_what_the_protocol_shows(exported, overrides, changes, shape):
    config = compose(EXPERIMENT[0], [*EXPERIMENT[1:], *overrides])
    dataset = open_dataset(config.dataset)
    metadata = replace(OnnxPredictor(exported.model).metadata, gates=None, **changes)
    images = CalibrationImages(dataset, dataset.train_ids[:3], config, metadata)
    assert len(images) == 3 and images[1].shape == shape
    assert images[1].dtype == (np.uint8 if metadata.input == "picture" else np.float32)
    with pytest.raises(UserError, match="fewer than the graph's fixed size"):
        CalibrationImages(dataset, dataset.train_ids, config, replace(metadata, size=(65, 10)))[0]


def test_the_central_part_is_in_the_middle():
    image = np.arange(5 * 4).reshape(5, 4)
    np.testing.assert_array_equal(central(image, (3, 2)), image[1:4, 1:3])
    np.testing.assert_array_equal(central(image, (9, 9)), image)


def test_limits_hold_and_nan_does_not_pass():
    score = Score(miou=50, drop=0.3, worst_class="a", class_drop=1.0, flips=0.015, images=1, pixels=10)
    assert score.beyond(Limits()) == []
    assert len(replace(score, drop=0.31, class_drop=1.01, flips=0.016).beyond(Limits())) == 3
    assert replace(score, drop=math.nan).beyond(Limits()) == ["mIoU falls by nan points of at most 0.3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["x.txt"], "must be called .onnx"), (["x.onnx", "voc/366/suponly"], "x.onnx|holds another|names")],
)
def test_bad_use_ends_in_one_line(exported, tmp_path, capsys, arguments, message):
    command = [str(exported.model), str(tmp_path / arguments[0]), *(arguments[1:] or EXPERIMENT)]
    assert run_command(main, command) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1


def test_a_model_that_computes_nan_ends_in_one_line(exported, tmp_path, capsys):
    model = onnx.load(exported.model)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    damaged, out = tmp_path / "damaged.onnx", tmp_path / "int8.onnx"
    onnx.save(model, damaged)
    assert run_command(main, [str(damaged), str(out), *EXPERIMENT, "--images", "1", "--limit", "1"]) == 2
    error = capsys.readouterr().err
    assert f"{damaged} computes values that are not finite" in error and error.count("\n") == 1
    assert not out.exists()


def test_an_int8_model_is_not_quantised_again(int8, tmp_path, capsys):
    assert run_command(main, [str(int8), str(tmp_path / "o.onnx"), *EXPERIMENT]) == 2
    assert "is int8 already" in capsys.readouterr().err


def test_only_the_tail_behind_the_last_convolution_stays_float_by_itself():
    nodes = [
        helper.make_node(kind, ["x"], ["y"], name)
        for kind, name in (("Conv", "a"), ("Relu", "b"), ("Conv", "c"), ("Add", "d"))
    ]
    assert recipes._after_last_convolution(helper.make_graph(nodes, "g", [], [])) == ["d"]
