"""What is left out, or done in another order, to make a step cheaper changes no number."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from common.experiment import compose  # noqa: E402
from common.methods.interface import Clock  # noqa: E402
from torch_impl.methods.cpcl.cps import CPS  # noqa: E402
from torch_impl.networks import build_network  # noqa: E402
from torch_impl.networks.deeplab import PredictionHead  # noqa: E402
from torch_impl.optimizer import Optimizer  # noqa: E402
from torch_impl.session import Session  # noqa: E402

SMALL = ("trainer.device=cpu", "trainer.threads=1")


@pytest.fixture
def network():
    """A tiny network with every head, drawn dropout included."""
    config = compose("shapes/12/u2pl", [*SMALL, "network.auxiliary=true"])
    torch.manual_seed(0)
    return build_network(config.network, 6)


@pytest.fixture
def subclass_network():
    """A tiny network with a subclass branch."""
    config = compose("shapes/12/usrn_baseline", SMALL)
    torch.manual_seed(0)
    return build_network(dataclasses.replace(config.network, subclasses=9), 6)


def images(rng: np.random.Generator) -> np.ndarray:
    """Noise."""
    return rng.standard_normal((2, 3, 33, 33)).astype(np.float32)


IMAGES = images(np.random.default_rng(0))


def passed(network, train: bool, wanted) -> tuple[dict, dict]:
    """Outputs of a pass of a copy of the network, and its tensors afterwards."""
    network = copy.deepcopy(network).train(train)
    torch.manual_seed(1)
    with torch.no_grad():
        outputs = network(torch.from_numpy(IMAGES), wanted=wanted)
    return outputs, network.state_dict()


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("wanted", [(), ("logits",), ("features",), ("logits", "representation"), ("decoder",)])
def test_unwanted_heads_change_neither_the_others_nor_the_statistics(network, train, wanted):
    whole, state = passed(network, train, None)
    some, state_of_some = passed(network, train, wanted)
    assert set(some) == set(wanted)
    assert all(torch.equal(some[name], whole[name]) for name in wanted)
    assert all(torch.equal(value, state_of_some[name]) for name, value in state.items())


@pytest.mark.parametrize("train", [True, False])
def test_an_unwanted_subclass_branch_sees_the_batch_in_train_mode_only(subclass_network, train):
    whole, state = passed(subclass_network, train, None)
    some, state_of_some = passed(subclass_network, train, ("logits",))
    assert torch.equal(some["logits"], whole["logits"])
    assert all(torch.equal(value, state_of_some[name]) for name, value in state.items())


def test_statistics_that_are_left_out_are_noticed(network, monkeypatch):
    _, state = passed(network, True, None)
    monkeypatch.setattr(PredictionHead, "features", lambda self, x, masks=(): x)  # what a shortcut too far would be
    monkeypatch.setattr(PredictionHead, "forward", lambda self, x, masks=(), pooled=False: (x, x))
    _, other = passed(network, True, ())
    assert any(not torch.equal(value, other[name]) for name, value in state.items())


def test_unwanted_heads_do_not_run_in_eval_mode(network, monkeypatch):
    runs = []
    for name in ("representation", "auxiliary"):
        getattr(network, name).register_forward_hook(lambda *_, name=name: runs.append(name))
    with torch.no_grad():
        network.eval()(torch.from_numpy(IMAGES), wanted=("logits",))
        assert runs == []
        network(torch.from_numpy(IMAGES))
    assert runs == ["representation", "auxiliary"]


def test_sgd_in_one_pass_over_the_values_is_sgd():
    config = compose("shapes/12/cpcl", SMALL)
    torch.manual_seed(0)
    network = build_network(config.network, 6)
    ours = Optimizer(network, config.optimizer)
    plain = {name: p.detach().clone() for name, p in network.named_parameters()}
    momenta: dict[str, torch.Tensor] = {}
    for step in range(4):
        clock = Clock(epoch=0, step=step, iteration=step, epochs=1, iterations_per_epoch=10)
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        for name, parameter in network.named_parameters():
            heads, spared = ours.group(name, parameter.dim())
            gradient = parameter.grad + (0 if spared else config.optimizer.weight_decay) * plain[name]
            momenta[name] = config.optimizer.momentum * momenta.get(name, 0) + gradient
            plain[name] -= ours.rates(clock)[heads] * momenta[name]
        ours.step(clock)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.detach(), plain[name], rtol=1e-5, atol=1e-7)


def test_both_forms_of_cps_give_the_same_numbers():
    rng = np.random.default_rng(2)
    batches = [
        {
            "labelled": {
                "ids": ["a", "b"],
                "image": images(rng),
                "label": rng.integers(0, 6, (2, 33, 33)).astype(np.uint8),
            },
            "unlabelled": {"ids": ["c", "d"], "image": images(rng)},
        }
        for _ in range(2)
    ]
    results = {}
    for memory in ("fast", "frugal"):
        config = compose("shapes/12/cps", [*SMALL, "network.head_dropout=[0.1, 0.1]", f"method.memory={memory}"])
        method = CPS(config, Session(config))
        clocks = [Clock(epoch=0, step=i, iteration=i, epochs=2, iterations_per_epoch=5) for i in range(len(batches))]
        losses = [method.step(batch, clock) for batch, clock in zip(batches, clocks)]
        results[memory] = losses, method.networks(), method.state()
    assert results["fast"][0] == results["frugal"][0]
    for fast, frugal in zip(results["fast"][1].values(), results["frugal"][1].values()):
        assert all(np.array_equal(fast[name], frugal[name]) for name in fast)
    fast, frugal = results["fast"][2], results["frugal"][2]
    assert list(fast) == list(frugal) and all(np.array_equal(fast[name], frugal[name]) for name in fast)
