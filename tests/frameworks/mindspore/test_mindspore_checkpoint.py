"""MindSpore networks to and from neutral arrays, and .ckpt files."""

import numpy as np
import pytest

from common.checkpoints.checkpoint import Checkpoint, read
from common.checkpoints.meta import CheckpointMeta
from common.config.schema import NetworkConfig
from common.errors import UserError

mindspore = pytest.importorskip("mindspore")

from mindspore_impl.checkpoint import load_network, network_tensors, save_checkpoint  # noqa: E402
from mindspore_impl.networks import build_network  # noqa: E402

TINY = NetworkConfig(encoder="tiny", width=8, low_level_channels=4, representation=6)


def network(classes: int = 3, config: NetworkConfig = TINY):
    return build_network(config, classes)


def filled(net, seed: int) -> dict[str, np.ndarray]:
    """New float32 values for all tensors of a network."""
    rng = np.random.default_rng(seed)
    return {name: rng.random(array.shape, np.float32) for name, array in network_tensors(net).items()}


def assert_equal(tensors, wanted):
    assert set(tensors) == set(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(tensors[name], array)


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        NetworkConfig(encoder="resnet18", stem="deep", width=8, aspp="sum"),
        NetworkConfig(encoder="resnet18", width=8, subclasses=5),
        NetworkConfig(encoder="resnet50", width=8, auxiliary=True, stages=3),
    ],
)
def test_names_and_shapes_are_those_of_pytorch(config):
    torch = pytest.importorskip("torch")
    from torch_impl.networks import build_network as build_torch_network

    with torch.device("meta"):
        theirs = build_torch_network(config, 3).state_dict()
    wanted = {name: tuple(tensor.shape) for name, tensor in theirs.items() if "num_batches" not in name}
    assert {name: array.shape for name, array in network_tensors(network(3, config)).items()} == wanted


def test_a_network_takes_neutral_arrays_with_or_without_counters():
    net = network()
    wanted = filled(net, 1)
    load_network(net, wanted | {"encoder.bn1.num_batches_tracked": np.array(3)}, "file")
    assert_equal(network_tensors(net), wanted)


def test_tensors_are_copies():
    net = network()
    before = network_tensors(net)
    load_network(net, filled(net, 2), "file")
    assert not np.array_equal(before["encoder.conv1.weight"], network_tensors(net)["encoder.conv1.weight"])


class Scale(mindspore.nn.Cell):
    """One parameter that a compiled graph multiplies by."""

    def __init__(self):
        super().__init__()
        self.factor = mindspore.Parameter(mindspore.Tensor([1.0], mindspore.float32), name="factor")

    @mindspore.jit
    def construct(self, x):
        return x * self.factor


def test_compiled_graphs_see_what_is_loaded():
    cell, x = Scale(), mindspore.Tensor([2.0], mindspore.float32)
    seen = [float(cell(x).asnumpy()[0])]
    for value in (3.0, 5.0):
        load_network(cell, {"factor": np.array([value], np.float32)}, "file")
        seen.append(float(cell(x).asnumpy()[0]))
    assert seen == [2.0, 6.0, 10.0]


def test_another_class_count_loads_nothing():
    net = network()
    before = network_tensors(net)
    stranger = filled(network(classes=4), 3)
    with pytest.raises(UserError, match=r"a.ckpt does not fit .*classifier.project.bias \[4\] in the file, \[3\]"):
        load_network(net, stranger, "a.ckpt")
    assert_equal(network_tensors(net), before)


def test_files_are_read_by_mindspore(tmp_path):
    net = network()
    tensors = filled(net, 4)
    save_checkpoint(
        tmp_path / "best.ckpt", Checkpoint(meta=CheckpointMeta(role="teacher"), networks={"model": tensors})
    )
    checkpoint = read(tmp_path / "best.ckpt")
    assert checkpoint.meta == CheckpointMeta(role="teacher")
    assert_equal(checkpoint.networks["model"], tensors)
    parameters = mindspore.load_checkpoint(str(tmp_path / "best.ckpt"), crc_check=True)
    description = parameters.pop("__meta__")
    assert description.dtype == mindspore.uint8
    assert mindspore.load_param_into_net(net, parameters, strict_load=True) == ([], [])
    assert_equal(network_tensors(net), tensors)


def test_what_mindspore_saves_is_read(tmp_path):
    net = network()
    load_network(net, filled(net, 5), "file")
    mindspore.save_checkpoint(net, str(tmp_path / "a.ckpt"))
    mindspore.save_checkpoint(net, str(tmp_path / "a.safetensors"), format="safetensors")
    for name in ("a.ckpt", "a.safetensors"):
        assert_equal(read(tmp_path / name).networks["model"], network_tensors(net))
