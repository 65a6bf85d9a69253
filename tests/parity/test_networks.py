"""The networks of all five methods in PyTorch and MindSpore: names, outputs stage by stage, train mode, compiled graphs."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ms = pytest.importorskip("mindspore")

from mindspore import nn, ops  # noqa: E402

from common.checkpoints.dialects import torch_norms  # noqa: E402
from common.networks.dropout import draw_masks  # noqa: E402
from mindspore_impl.checkpoint import network_tensors as second_tensors  # noqa: E402
from mindspore_impl.networks.deeplab import forward  # noqa: E402
from tests.parity.pairs import (  # noqa: E402
    RELATIVE_ERROR,
    array,
    flips,
    images,
    mindspore_gradients,
    network_config,
    pair,
    relative_error,
    torch_gradients,
)
from torch_impl.checkpoint import network_tensors as first_tensors  # noqa: E402

EVERY_HEAD = {"representation": 8, "auxiliary": True, "aspp_dropout": 0.2, "head_dropout": (0.1, 0.3)}
NETWORKS = {
    "tiny": network_config("tiny", **EVERY_HEAD),
    "resnet18": network_config("resnet18_os16", auxiliary=True),
    "u2pl": network_config("u2pl", encoder="resnet50", auxiliary=True),
    "same_pool": network_config("resnet18_os16", stem="deep", stem_pool="same"),
    "cpcl": network_config("cpcl"),
    "usrn": network_config("usrn", subclasses=12),
    "uccl": network_config("uccl"),
}
DEEP = ("u2pl", "cpcl", "usrn", "uccl")
"""Networks of the depth of the papers."""

HEADS = {
    "tiny": ["representation", "aux"],
    "resnet18": ["aux"],
    "u2pl": ["representation", "aux"],
    "usrn": ["subclass_logits"],
}


@pytest.fixture(scope="module")
def tiny():
    return pair(NETWORKS["tiny"])


@pytest.fixture
def fresh(tiny):
    """Copies of the two tiny networks that a test may change."""
    return copy.deepcopy(tiny[0]), copy.deepcopy(tiny[1])


@pytest.fixture(scope="module")
def small():
    return pair(network_config("tiny", aspp_dilations=(2,), head_dropout=(0.3, 0.0)))[1]


@pytest.fixture
def network(small):
    """A copy of a MindSpore network that compiles fast."""
    return copy.deepcopy(small)


def names(first, second) -> tuple[dict, dict]:
    """Return neutral name -> shape of both networks, in order, without the counters that only PyTorch has."""
    tables = first_tensors(first), second_tensors(second)
    return tuple({n: a.shape for n, a in table.items() if not n.endswith("num_batches_tracked")} for table in tables)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in DEEP)) for n in NETWORKS])
def test_network(name):
    """Names are bijective; every output agrees; MindSpore is as close to float64 as PyTorch's float32."""
    first, second = pair(NETWORKS[name])
    expected_names, found_names = names(first, second)
    assert found_names == expected_names
    x = images(1, 65, 49)
    with torch.no_grad():
        expected, outputs = first(torch.tensor(x)), second(ms.Tensor(x))
        exact = first.double()(torch.tensor(x).double())
    assert list(outputs) == list(expected) == second.output_names
    assert list(outputs)[3:] == HEADS.get(name, [])
    for output in expected:
        assert relative_error(outputs[output], expected[output]) <= RELATIVE_ERROR, output
        own_error = relative_error(expected[output], exact[output])
        assert relative_error(outputs[output], exact[output]) <= 3 * own_error, output
    assert flips(outputs["logits"], expected["logits"]) <= RELATIVE_ERROR
    assert expected["logits"].argmax(1).unique().numel() > 1, "the values must not make one class win everywhere"


@pytest.mark.parametrize(
    "change",
    [{"stem_pool": "ceil"}, {"output_stride": 8}, {"fuse_order": "low_first"}, {"aspp_dilations": (2, 12, 18)}],
)
def test_another_network_of_the_same_names_is_noticed(change):
    first, _ = pair(NETWORKS["resnet18"])
    _, second = pair(network_config("resnet18_os16", auxiliary=True, **change))
    x = images(1, 64, 48)
    error = relative_error(second(ms.Tensor(x))["features"], first(torch.tensor(x))["features"])
    assert error > 10 * RELATIVE_ERROR


@pytest.mark.parametrize("size", [(33, 33), (64, 96), (57, 81), (40, 31)])
def test_sizes(tiny, size):
    x = images(1, *size)
    expected, outputs = tiny[0](torch.tensor(x)), tiny[1](ms.Tensor(x))
    assert max(relative_error(outputs[name], expected[name]) for name in expected) <= RELATIVE_ERROR


def first_difference(first, second, x: np.ndarray) -> str | None:
    """Return the name of the first stage at which the networks differ."""
    with torch.no_grad():
        expected, stages = first.stages(torch.tensor(x)), second.stages(ms.Tensor(x))
    assert list(expected) == list(stages)
    return next((n for n in expected if not relative_error(stages[n], expected[n]) <= RELATIVE_ERROR), None)


def test_the_first_differing_stage_is_named(fresh):
    first, second = fresh
    x = images(1, 49, 65)
    assert first_difference(first, second, x) is None
    second.encoder.layer2.bn2.moving_variance.asnumpy()[...] *= 1.1
    assert first_difference(first, second, x) == "layer2"


def masks_for(network, batch: int) -> list[np.ndarray]:
    return draw_masks(network.dropouts, batch, np.random.default_rng(5))


@pytest.mark.parametrize("compiled", [False, True])
def test_train_mode(fresh, compiled):
    """Outputs, gradients and running statistics of one pass with given dropout masks.

    A bias before a BatchNorm has no gradient but rounding, so gradients are judged by the norm over all parameters.
    """
    first, second = fresh
    first.train(), second.set_train()
    x, masks = images(3, 49, 65), masks_for(first, 3)
    assert len(masks) == len(second.dropouts) == 6
    first_masks, second_masks = [torch.tensor(mask) for mask in masks], [ms.Tensor(mask) for mask in masks]
    run = forward if compiled else type(second).__call__
    first_parameters = {name: p for name, p in first.named_parameters() if not name.startswith(("rep", "aux"))}
    second_parameters = torch_norms(dict(second.parameters_and_names()))
    second_parameters = [second_parameters[name] for name in first_parameters]
    cotangent = np.random.default_rng(1).standard_normal((3, 7, 13, 17)).astype(np.float32)
    expected = torch_gradients(lambda x: first(x, first_masks)["logits"], x, cotangent, first_parameters.values())
    computed = mindspore_gradients(lambda x: run(second, x, second_masks)["logits"], x, cotangent, second_parameters)
    assert relative_error(computed[0], expected[0]) <= RELATIVE_ERROR
    assert relative_error(computed[1], expected[1]) <= 1e-3
    flat = [np.concatenate([gradient.ravel() for gradient in side[2:]]) for side in (expected, computed)]
    assert relative_error(flat[1], flat[0]) <= 1e-3
    first_after, second_after = first_tensors(first), second_tensors(second)
    moved = [name for name in second_after if "running" in name]
    assert max(relative_error(second_after[name], first_after[name]) for name in moved) <= RELATIVE_ERROR


def difference(first: dict, second: dict) -> float:
    return relative_error(first["logits"], second["logits"])


@pytest.mark.slow
def test_compiled_graph_of_every_option():
    """What a compiled graph contains beyond the tiny network: deep stem, summed pyramid, subclass branch, gradients."""
    options = {"stem": "deep", "stem_pool": "ceil", "aspp": "sum", "subclasses": 5, "auxiliary": True, "width": 16}
    first, second = pair(network_config("resnet18_os16", **options))
    x, cotangent = images(2, 33, 40), np.random.default_rng(1).standard_normal((2, 5, 9, 11)).astype(np.float32)
    parameters = [second.encoder.conv1[0].weight], [first.encoder.conv1[0].weight]
    computed = mindspore_gradients(lambda x: forward(second, x)["subclass_logits"], x, cotangent, parameters[0])
    expected = torch_gradients(lambda x: first(x)["subclass_logits"], x, cotangent, parameters[1])
    assert max(relative_error(b, a) for a, b in zip(expected, computed)) <= RELATIVE_ERROR


def test_compiled_graphs_belong_to_one_network(network):
    """Student and teacher have the same class and shapes; their graphs must not be mixed up."""
    student, teacher, x = network, copy.deepcopy(network), ms.Tensor(images(2, 33, 33))
    for parameter in teacher.get_parameters():
        parameter.asnumpy()[...] *= 1.1
    for one in (student, teacher, student):
        assert difference(forward(one, x), one(x)) < 1e-6
    assert difference(forward(student, x), forward(teacher, x)) > 0.01


def test_changes_of_parameters_are_seen_by_compiled_graphs(network):
    """``set_data`` is the negative control: it is known not to reach a compiled graph."""
    x = ms.Tensor(images(2, 33, 33))
    previous = forward(network, x)
    for way, seen in (("numpy", True), ("assign", True), ("set_data", False)):
        for parameter in network.get_parameters():
            if way == "numpy":
                parameter.asnumpy()[...] *= 1.2
            elif way == "assign":
                ops.assign(parameter, parameter * 1.2)
            else:
                parameter.set_data(parameter * 1.2)
        current = forward(network, x)
        assert (difference(current, network(x)) < 1e-6) == seen, way
        assert (difference(current, previous) > 0.01) == seen, way
        previous = current


def test_compiled_graphs_follow_the_mode_even_when_an_outer_cell_sets_it(network):
    class Outer(nn.Cell):
        def __init__(self, network):
            super().__init__()
            self.network = network

    outer, x = Outer(network), ms.Tensor(images(2, 33, 33))
    statistics = network.encoder.bn1.moving_mean
    for mode in (False, True, False, True):
        outer.set_train(mode)
        before = array(statistics)
        output = forward(network, x)["logits"]
        assert (not np.array_equal(before, array(statistics))) == mode
        if not mode:
            assert relative_error(output, network(x)["logits"]) < 1e-6


def test_a_compiled_graph_takes_new_masks_and_draws_without(network):
    network.set_train()
    x, masks = ms.Tensor(images(2, 33, 33)), masks_for(network, 2)
    for factor in (1, 0, 1):
        scaled_masks = [ms.Tensor(mask * np.float32(factor)) for mask in masks]
        assert difference(forward(network, x, scaled_masks), network(x, scaled_masks)) < 1e-5
    assert difference(forward(network, x), forward(network, x)) > 0.01
