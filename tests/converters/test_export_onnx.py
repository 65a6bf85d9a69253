"""The export gives PyTorch's answer at every size or leaves nothing behind, and the file says what it is."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
from pathlib import Path

import numpy as np
import pytest

from common.checkpoints.checkpoint import Checkpoint, read, write
from common.checkpoints.meta import CheckpointMeta
from common.command_line import run_command
from common.config.schema import NetworkConfig
from common.config.strict import to_plain
from common.errors import CheckFailed, UserError
from common.experiment import compose
from common.files import sha256
from common.networks.initial import initial_tensors
from converters import export_onnx
from converters.export_onnx import Comparison, compare, export, load, main

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")

from onnx_impl.predictor import OnnxPredictor  # noqa: E402
from torch_impl.checkpoint import load_network, network_tensors  # noqa: E402
from torch_impl.networks import build_network  # noqa: E402
from torch_impl.predictor import TorchPredictor  # noqa: E402

pytestmark = pytest.mark.onnx

CLASSES = ("sky", "road", "tree", "car")
TINY = NetworkConfig(encoder="tiny", width=16, low_level_channels=8, aspp_dilations=(2, 4))
SUM = NetworkConfig(encoder="resnet18", stages=3, stem_pool="same", aspp="sum", width=16, low_level_channels=8)
DEEP = NetworkConfig(
    encoder="resnet18", stem="deep", stem_pool="ceil", output_stride=8, multi_grid=(1, 2), width=16,
    low_level_channels=8, aspp_pool_position="first", aspp_merge_kernel=3, fuse_order="low_first",
    representation=16, auxiliary=True,
)  # fmt: skip


def made_up(config: NetworkConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Values of a network whose BatchNorms do something."""
    network = build_network(config, len(CLASSES))
    tensors = initial_tensors(
        {name: value.shape for name, value in network_tensors(network).items()}, config, seed, "model"
    )
    rng = np.random.default_rng(seed)
    for name, value in tensors.items():
        if name.endswith("running_mean"):
            value[...] = rng.uniform(-0.2, 0.2, value.shape)
        if name.endswith("running_var"):
            value[...] = rng.uniform(0.6, 1.4, value.shape)
    return tensors


def describe(config: NetworkConfig, **changes) -> CheckpointMeta:
    described = CheckpointMeta(
        experiment="own/1/u2pl", network=to_plain(config), classes=tuple(CLASSES), mean=(100.0, 110.0, 120.0),
        std=(50.0, 60.0, 70.0), role="teacher",
    )  # fmt: skip
    return dataclasses.replace(described, **changes)


def checkpoint(path: Path, config: NetworkConfig, **changes) -> Path:
    write(path, Checkpoint(meta=describe(config, **changes), networks={"model": made_up(config)}))
    return path


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("tiny") / "best.safetensors", TINY)


@pytest.fixture(scope="module")
def traced(tiny):
    """The ONNX model of the tiny network, to be changed in tests without tracing again."""
    network, _ = load(tiny, "logits", None, None)
    return export_onnx.trace(export_onnx.export_module(network, "logits", False), export_onnx.OPSET)


class Small(torch.nn.Module):
    """A network of one convolution, which is traced in a moment."""

    classes = len(CLASSES)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(3, self.classes, 3, 4, 1)

    def forward(self, image, masks=(), pooled=False, wanted=None):
        return {"logits": self.convolution(image)}


@pytest.fixture
def small(monkeypatch) -> Small:
    """The network that exports take in place of the one in the checkpoint."""
    network = Small().eval()
    original = export_onnx.load
    monkeypatch.setattr(export_onnx, "load", lambda *arguments: (network, original(*arguments)[1]))
    return network


@pytest.fixture
def fast_trace(traced, monkeypatch):
    """Let exports of the tiny network take the model that is already traced."""
    monkeypatch.setattr(
        export_onnx, "trace", lambda module, opset: onnx.ModelProto.FromString(traced.SerializeToString())
    )


@pytest.mark.slow
@pytest.mark.parametrize("config", [SUM, DEEP], ids=["sum", "deep"])
def test_the_graph_gives_the_answers_of_pytorch(config, tmp_path):
    source = checkpoint(tmp_path / "best.safetensors", config)
    done = export(source, tmp_path / "model.onnx", stages=True)
    network = build_network(config, len(CLASSES))
    load_network(network, made_up(config), "test")
    expected, exported = TorchPredictor(network), OnnxPredictor(tmp_path / "model.onnx", threads=1)
    rng = np.random.default_rng(0)
    for batch, height, width, size in [(1, 50, 77, (50, 77)), (3, 31, 64, (97, 20)), (1, 2, 5, (2, 5))]:
        images = rng.standard_normal((batch, 3, height, width)).astype(np.float32)
        close(exported.logits(images, size), expected.logits(images, size))
    stages = expected.stages(images)
    assert list(exported.stages(images)) == list(stages)
    for name, value in exported.stages(images).items():
        close(value, stages[name])
    assert done.opset == 18 and len(done.comparisons) == 2 * len(export_onnx.VERIFIED)


def close(computed: np.ndarray, expected: np.ndarray) -> None:
    assert computed.shape == expected.shape
    assert np.linalg.norm(computed - expected) <= 1e-5 * np.linalg.norm(expected)


def test_sizes_stay_open_and_the_file_is_alone_and_silent_about_this_machine(tiny, fast_trace, tmp_path):
    export(tiny, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    model = onnx.load(tmp_path / "model.onnx")
    shapes = {
        item.name: [axis.dim_param or axis.dim_value for axis in item.type.tensor_type.shape.dim]
        for item in (*model.graph.input, *model.graph.output)
    }
    assert shapes["image"] == ["batch", 3, "height", "width"]
    assert shapes["logits"] == ["batch", 4, "height", "width"]
    assert shapes["coarse_logits"][:2] == ["batch", 4]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    content = (tmp_path / "model.onnx").read_bytes()
    assert b"torch_impl" not in content and os.fsencode(Path(torch.__file__).parent) not in content


def test_the_file_says_what_it_is(tiny, fast_trace, tmp_path):
    metadata = export(tiny, tmp_path / "model.onnx").metadata
    assert OnnxPredictor(tmp_path / "model.onnx").metadata == metadata
    assert metadata.classes == CLASSES and metadata.output == "logits"
    assert (metadata.mean, metadata.std) == ((100.0, 110.0, 120.0), (50.0, 60.0, 70.0))
    assert (metadata.experiment, metadata.role) == ("own/1/u2pl", "teacher")
    assert metadata.checkpoint_sha256 == sha256(tiny)
    assert metadata.network == to_plain(TINY)


def test_the_command_exports_class_ids(tiny, small, tmp_path, capsys):
    assert run_command(main, [str(tiny), str(tmp_path / "ids.onnx"), "--output", "class_ids"]) == 0
    said = capsys.readouterr().out
    assert "class_ids of own/1/u2pl (teacher, 4 classes), opset 18" in said and said.count("  ok") == 7
    images = np.random.default_rng(0).standard_normal((2, 3, 45, 50)).astype(np.float32)
    class_ids = OnnxPredictor(tmp_path / "ids.onnx").class_ids(images, (45, 50))
    np.testing.assert_array_equal(class_ids, TorchPredictor(small).class_ids(images, (45, 50)))
    assert len(np.unique(class_ids)) == 4


@pytest.mark.parametrize(("opset", "code"), [(20, 0), (99, 2)])
def test_another_opset_is_made_or_refused(tiny, small, tmp_path, capsys, opset, code):
    assert run_command(main, [str(tiny), str(tmp_path / "model.onnx"), "--opset", str(opset)]) == code
    said = capsys.readouterr()
    if code == 0:
        assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == opset and f"opset {opset}" in said.out
    else:
        assert "--opset 99: this PyTorch cannot export to it" in said.err.splitlines()[-1]
        assert list(tmp_path.iterdir()) == []


def perturb(model) -> None:
    """Make the first filter of the last convolution wrong by 1 %."""
    name = next(node.input[1] for node in reversed(model.graph.node) if node.op_type == "Conv")
    tensor = next(item for item in model.graph.initializer if item.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0] *= 1.01
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))


def other_corners(model) -> None:
    """Resize without aligned corners."""
    resizes = [node for node in model.graph.node if node.op_type == "Resize"]
    for attribute in resizes[-1].attribute:
        if attribute.name == "coordinate_transformation_mode":
            attribute.s = b"half_pixel"


@pytest.mark.parametrize("damage", [perturb, other_corners])
def test_a_graph_that_differs_is_not_left_behind(tiny, traced, tmp_path, monkeypatch, capsys, damage):
    def trace(module, opset):
        model = onnx.ModelProto.FromString(traced.SerializeToString())
        damage(model)
        return model

    monkeypatch.setattr(export_onnx, "trace", trace)
    assert run_command(main, [str(tiny), str(tmp_path / "model.onnx")]) == 1
    said = capsys.readouterr()
    assert "FAILED" in said.out and "model.onnx was not written: it differs from PyTorch" in said.err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "model.onnx").write_text("the one before")
    with pytest.raises(CheckFailed):
        export(tiny, tmp_path / "model.onnx", say=lambda text: None)
    assert (tmp_path / "model.onnx").read_text() == "the one before"


def test_a_size_that_was_traced_in_is_noticed(tiny, small, tmp_path, monkeypatch):
    """A graph that is right only at the height that was traced."""
    original = export_onnx.trace

    def trace(module, opset):
        class OneHeight(torch.nn.Module):
            output_names = module.output_names

            def forward(self, image):
                logits, coarse = module(image)
                return logits * (image.shape[2] / 97), coarse

        return original(OneHeight().eval(), opset)

    monkeypatch.setattr(export_onnx, "trace", trace)
    with pytest.raises(CheckFailed) as failure:
        export(tiny, tmp_path / "model.onnx", say=lambda text: None)
    assert "1x65x65" in str(failure.value) and "2x97x129" not in str(failure.value)


@pytest.mark.parametrize(
    ("relative", "flips", "pixels", "passed"),
    [
        (1e-4, 1e-4, 10_000, True), (3e-4, 0.0, 10_000, False), (1e-4, 3e-4, 10_000, False),
        (math.nan, 0.0, 100, False),
        (None, 0.0, 100, True), (None, 0.01, 100, True), (None, 0.02, 100, False),
    ],
)  # fmt: skip
def test_gates(relative, flips, pixels, passed):
    comparison = Comparison(
        output="logits", shape=(1, 1, 1), pixels=pixels, relative=relative, largest=0.0, flips=flips
    )
    assert comparison.passed is passed


def test_differences_are_measured(tiny):
    expected = np.zeros((1, 2, 2, 2), np.float32)
    expected[:, 0] = 3
    changed = expected.copy()
    changed[0, 1, 0, 0] = 4
    comparison = compare("logits", (1, 2, 2), expected, changed)
    assert (comparison.relative, comparison.largest, comparison.flips) == (4 / 6, 4.0, 0.25)
    assert math.isnan(compare("logits", (1, 2, 2), expected * np.nan, changed).relative)
    assert compare("class_ids", (1, 2, 2), expected[:, 0] > 0, changed[:, 0] > 4).flips == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.pth", "model.onnx"], "none.pth"),
        (["model.onnx", "model.onnx"], "no checkpoint at model.onnx"),
        (["best.pth", "model.pb"], "must be called .onnx"),
        (["best.pth", "model.onnx", "--experiment", "shapes/12/u2p"], "did you mean"),
    ],
)
def test_bad_use_ends_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run_command(main, arguments) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_exported_model_is_no_checkpoint(tmp_path, capsys):
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["image"], ["out"])], "graph", [image], [out])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "old.onnx")
    assert run_command(main, [str(tmp_path / "old.onnx"), str(tmp_path / "new.onnx")]) == 2
    assert "is an exported model" in capsys.readouterr().err and not (tmp_path / "new.onnx").exists()


def test_one_network_of_several_is_chosen_by_role(tmp_path):
    networks = {"student": made_up(TINY, 1), "teacher": made_up(TINY, 2)}
    write(tmp_path / "last.ckpt", Checkpoint(meta=describe(TINY), networks=networks))
    for role, wanted in ((None, "teacher"), ("student", "student")):
        network, metadata = load(tmp_path / "last.ckpt", "logits", role, None)
        assert metadata.role == wanted
        np.testing.assert_array_equal(
            network_tensors(network)["encoder.conv1.weight"], networks[wanted]["encoder.conv1.weight"]
        )
    with pytest.raises(UserError, match="no network of the role 'branch1'"):
        load(tmp_path / "last.ckpt", "logits", "branch1", None)


def test_a_file_of_another_program_needs_its_experiment(tmp_path):
    experiment = compose("shapes/12/suponly")
    network = build_network(experiment.network, len(experiment.dataset.classes))
    write(
        tmp_path / "foreign.safetensors",
        Checkpoint(meta=CheckpointMeta(), networks={"model": network_tensors(network)}),
    )
    with pytest.raises(UserError, match="does not say which network"):
        load(tmp_path / "foreign.safetensors", "logits", None, None)
    _, metadata = load(tmp_path / "foreign.safetensors", "logits", None, experiment)
    assert metadata.classes == experiment.dataset.classes and metadata.mean == experiment.augment.mean
    assert metadata.experiment == "shapes/12/suponly"


def test_normalisation_comes_from_the_file_or_its_experiment(tmp_path):
    source = checkpoint(tmp_path / "a.safetensors", TINY, mean=None, std=None, experiment="shapes/12/suponly")
    assert load(source, "logits", None, None)[1].mean == compose("shapes/12/suponly").augment.mean
    source = checkpoint(tmp_path / "b.safetensors", TINY, mean=None, std=None, experiment=None)
    with pytest.raises(UserError, match="does not say how its images are normalised"):
        load(source, "logits", None, None)


def test_weights_that_do_not_fit_are_listed(tiny, tmp_path):
    stored = read(tiny)
    del stored.networks["model"]["classifier.project.bias"]
    write(tmp_path / "a.safetensors", stored)
    with pytest.raises(UserError, match="classifier.project.bias"):
        load(tmp_path / "a.safetensors", "logits", None, None)


def test_missing_packages_are_named(tiny, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(UserError, match=r"exporting needs onnxscript, not installed here; .*\[torch,onnx\]"):
        export(tiny, tmp_path / "model.onnx")


def test_a_fixed_shape_is_verified_as_it_is():
    assert export_onnx.verified_shapes(None, None) == export_onnx.VERIFIED
    assert export_onnx.verified_shapes(None, (64, 48)) == ((1, 64, 48), (2, 64, 48), (3, 64, 48))
    assert export_onnx.verified_shapes(4, (64, 48)) == ((4, 64, 48),)
