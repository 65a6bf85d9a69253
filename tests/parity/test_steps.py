"""Whole training steps: the same start, batches and draws give the same losses, gradients and state in both frameworks."""

from __future__ import annotations

import dataclasses
import os

import mindspore as ms
import numpy as np
import pytest
import torch

import mindspore_impl.methods
import mindspore_impl.session
import torch_impl.methods
import torch_impl.session
from common.checkpoints import FORMAT_VERSION, Checkpoint, read
from common.config import CriterionConfig, ExperimentConfig, OptimizerConfig
from common.experiment import compose
from common.method import Clock, NonFiniteLoss
from mindspore_impl.checkpoint import load_network, network_tensors, save_checkpoint
from mindspore_impl.optimizer import Optimizer, update_teacher
from tests.parity.pairs import relative_error

FIRST_STEP, CURVE = 1e-4, 1e-3
"""The design's gates: relative error of every loss term in the first step, and over 20 steps."""

GRADIENTS = 1e-4
"""Relative error of all gradients of the first step together; the float32 noise of this network is 100 times smaller."""

CONFIG = compose(
    "shapes/12/u2pl",
    [
        "trainer.deterministic_dropout=true", "trainer.device=cpu", "trainer.threads=1", "trainer.epochs=4",
        "network.width=16", "network.representation=16", "network.auxiliary=true", "network.head_dropout=[0.1, 0.1]",
        "network.aspp_dropout=0.1", "optimizer.lr=0.001", "optimizer.head_lr_times=5", "method.sup_only_epochs=1",
        "method.contrastive={num_queries: 16, num_negatives: 8, queue_first: 200, queue_other: 100, low_rank: 1}",
    ],
)  # fmt: skip
STEPS_PER_EPOCH, STEPS, SIZE = 5, 20, 33


def batches(count: int) -> list[dict]:
    """Return ``count`` batches of 2 labelled and 2 unlabelled noisy checkerboards of 33x33."""
    rng = np.random.default_rng(18)  # with this seed no entropy lies within rounding of a percentile, whatever the step

    def coarse(values: np.ndarray) -> np.ndarray:
        return values.repeat(7, -2).repeat(7, -1)[..., :SIZE, :SIZE]

    def images() -> np.ndarray:
        noise = 0.3 * rng.standard_normal((2, 3, SIZE, SIZE))
        return (coarse(rng.standard_normal((2, 3, 5, 5))) + noise).astype(np.float32)

    result = []
    for _ in range(count):
        labels = coarse(rng.integers(0, len(CONFIG.dataset.classes), (2, 5, 5))).astype(np.uint8)
        labels[:, :3] = 255
        labelled = {"ids": ["a", "b"], "image": images(), "label": labels}
        result.append({"labelled": labelled, "unlabelled": {"ids": ["c", "d"], "image": images()}})
    return result


def clock(iteration: int) -> Clock:
    """Return where a run of 4 epochs of 5 steps stands."""
    epoch, step = divmod(iteration, STEPS_PER_EPOCH)
    return Clock(epoch=epoch, step=step, iteration=iteration, epochs=4, iterations_per_epoch=STEPS_PER_EPOCH)


class CompiledOnce(mindspore_impl.session.Session):
    """A session that hands out the same two networks again and again, because compiling them takes seconds."""

    networks: dict = {}

    def network(self, role: str):
        """Return the network of ``role`` with its initial values."""
        if role not in self.networks:
            network = super().network(role)
            self.networks[role] = network, network_tensors(network)
        network, initial = self.networks[role]
        load_network(network, initial, role)
        return network


def in_torch(config: ExperimentConfig = CONFIG):
    """Return the method in PyTorch at its start."""
    return torch_impl.methods.METHODS[config.method.name](config, torch_impl.session.Session(config))


def in_mindspore(config: ExperimentConfig = CONFIG):
    """Return the method in MindSpore at its start; only one at a time is usable."""
    return mindspore_impl.methods.METHODS[config.method.name](config, CompiledOnce(config))


def run(method, start: int = 0, stop: int = STEPS) -> list[dict[str, float]]:
    """Return the losses of steps ``start`` to ``stop`` - 1."""
    return [method.step(batch, clock(start + i)) for i, batch in enumerate(batches(stop)[start:])]


def apart(found: list[dict[str, float]], expected: list[dict[str, float]]) -> float:
    """Return the largest relative difference of a loss term in any step."""
    assert [list(losses) for losses in found] == [list(losses) for losses in expected]
    pairs = [(a[name], b[name]) for a, b in zip(found, expected) for name in a]
    return max(abs(a - b) / max(abs(b), 1e-12) for a, b in pairs)


def changed(**method) -> ExperimentConfig:
    """Return the configuration with other settings of the method, semi-supervised from the start."""
    contrastive = dataclasses.replace(CONFIG.method.contrastive, **method.pop("contrastive", {}))
    settings = dataclasses.replace(CONFIG.method, sup_only_epochs=0, contrastive=contrastive, **method)
    return dataclasses.replace(CONFIG, method=settings)


def supervised(criterion: CriterionConfig) -> ExperimentConfig:
    """Return the configuration of the supervised baseline on the same network."""
    method = compose("shapes/12/suponly").method
    return dataclasses.replace(CONFIG, method=method, criterion=criterion)


FIRST_STEPS = {
    "authors": changed(),
    "fixed, ClassMix, averaged prototypes": changed(
        preset="fixed", mixing="classmix", mixing_probability=1.0, contrastive={"anchor_ema": True}
    ),
    "CutOut, low entropy allowed": changed(
        mixing="cutout", mixing_probability=1.0, contrastive={"negative_high_entropy": False}
    ),
    "CutMix, OHEM": dataclasses.replace(
        changed(mixing_probability=1.0), criterion=CriterionConfig(type="ohem", thresh=0.1, min_kept=700)
    ),
    "supervised": supervised(CriterionConfig()),
}


@pytest.mark.parametrize("name", FIRST_STEPS)
def test_first_step(name, monkeypatch):
    ours, theirs = in_torch(FIRST_STEPS[name]), in_mindspore(FIRST_STEPS[name])
    monkeypatch.setattr(theirs.optimizer, "step", lambda _: None)
    expected, found = run(ours, stop=1), run(theirs, stop=1)
    assert apart(found, expected) <= FIRST_STEP and all(expected[0].values())
    gradients = {n: p.grad for n, p in ours.student.named_parameters()}
    pairs = zip(theirs.optimizer.names, theirs.optimizer.gradients, strict=True)
    both = [(g.asnumpy().ravel(), gradients[n].numpy().ravel()) for n, g in pairs if gradients[n] is not None]
    assert relative_error(*(np.concatenate(arrays) for arrays in zip(*both))) <= GRADIENTS


@pytest.fixture(scope="module")
def reference():
    """Return PyTorch's method after 20 steps and its losses."""
    method = in_torch()
    return method, run(method)


def test_twenty_steps(reference):
    method, expected = reference
    theirs = in_mindspore()
    assert apart(run(theirs), expected) <= CURVE
    assert theirs.bank.counts == method.bank.counts and sum(theirs.bank.counts)
    state, expected_state = theirs.state(), method.state()
    assert set(state) == set(expected_state)
    assert max(relative_error(state[name], expected_state[name]) for name in state if state[name].size) <= 10 * CURVE
    for role, tensors in theirs.networks().items():
        expected_tensors = method.networks()[role]
        assert max(relative_error(tensors[name], expected_tensors[name]) for name in tensors) <= 10 * CURVE


def test_a_wrong_teacher_decay_leaves_the_gate(reference, monkeypatch):
    theirs = in_mindspore()
    monkeypatch.setattr(mindspore_impl.methods.u2pl, "update_teacher", lambda *_: None)
    assert apart(run(theirs), reference[1]) > CURVE


def test_other_dropout_masks_leave_the_gate(reference, monkeypatch):
    theirs = in_mindspore()
    masks = theirs.session.masks
    monkeypatch.setattr(theirs.session, "masks", lambda network, role, *rest: masks(network, f"other {role}", *rest))
    assert apart(run(theirs, stop=1), reference[1][:1]) > FIRST_STEP


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    kept, stop = 7, 10
    whole = in_mindspore()
    losses = run(whole, stop=kept)
    checkpoint = Checkpoint({"format_version": FORMAT_VERSION, "role": "teacher"}, whole.networks(), whole.state())
    save_checkpoint(tmp_path / "last.ckpt", checkpoint)
    losses += run(whole, kept, stop)
    networks, state = whole.networks(), whole.state()

    resumed = in_mindspore()
    run(resumed, stop=1)
    saved = read(tmp_path / "last.ckpt")
    resumed.restore(saved.networks, saved.state)
    assert run(resumed, kept, stop) == losses[kept:]
    for found, expected in [(resumed.state(), state), *zip(resumed.networks().values(), networks.values())]:
        assert list(found) == list(expected) and all(np.array_equal(found[n], expected[n]) for n in expected)


def test_a_loss_that_is_not_finite_stops_before_the_optimiser():
    method = in_mindspore()
    batch = batches(1)[0]
    batch["labelled"]["image"][0, 0, 0, 0] = np.nan
    before = {name: p.asnumpy().copy() for name, p in zip(method.optimizer.names, method.optimizer.parameters)}
    with pytest.raises(NonFiniteLoss, match="a, b"):
        method.step(batch, clock(0))
    assert all(np.array_equal(p.asnumpy(), before[n]) for n, p in zip(method.optimizer.names, method.optimizer.parameters))


def test_optimiser_with_weight_decay_and_teacher(monkeypatch):
    config = OptimizerConfig(lr=0.1, head_lr_times=3.0, momentum=0.8, weight_decay=0.1)
    ours, theirs = in_torch(), in_mindspore()
    pairs = [(torch_impl.optimizer, ours), (mindspore_impl.optimizer, theirs)]
    optimizers = [module.Optimizer(method.student, config) for module, method in pairs]
    rng = np.random.default_rng(1)
    for iteration in range(3):
        values = {n: rng.standard_normal(p.shape).astype(np.float32) for n, p in ours.student.named_parameters()}
        for name, parameter in ours.student.named_parameters():
            parameter.grad = torch.from_numpy(values[name])
        optimizers[1].gradients = tuple(ms.Tensor(values[name]) for name in optimizers[1].names)
        for (module, method), optimizer, decay in zip(pairs, optimizers, (0.9, 0.9)):
            optimizer.step(clock(iteration))
            module.update_teacher(method.teacher, method.student, decay * (iteration > 0))
    for role, tensors in theirs.networks().items():
        assert max(relative_error(tensors[name], ours.networks()[role][name]) for name in tensors) <= 1e-6
    state, expected = (optimizer.state() for optimizer in reversed(optimizers))
    assert set(state) == set(expected) and max(relative_error(state[n], expected[n]) for n in state) <= 1e-6


def test_a_teacher_outside_of_the_cpu_is_assigned(monkeypatch):
    method = in_mindspore()
    expected = [0.7 * t.asnumpy() + np.float32(0.3) * s.asnumpy() for t, s in zip(*map(weights, (method.teacher, method.student)))]
    device = type("Device", (), {"device_target": "Ascend"})
    monkeypatch.setattr(ms, "get_current_device", lambda: device)
    monkeypatch.setattr(ms.Parameter, "asnumpy", lambda self: ms.Tensor.asnumpy(self).copy())
    update_teacher(method.teacher, method.student, 0.7)
    monkeypatch.undo()
    assert max(relative_error(t.asnumpy(), e) for t, e in zip(weights(method.teacher), expected)) <= 1e-6


def weights(network) -> list:
    """Return what the moving average covers."""
    return network.trainable_params()


def test_threads_of_the_session_do_not_bind_the_process():
    allowed = os.sched_getaffinity(0)
    mindspore_impl.session.Session(CONFIG)
    assert os.sched_getaffinity(0) == allowed
