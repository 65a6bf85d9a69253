"""Number formats and accumulation in MindSpore, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mindspore")

from common.errors import UserError  # noqa: E402
from common.experiment import compose  # noqa: E402
from common.methods.interface import Clock  # noqa: E402
from mindspore_impl.methods import method_class  # noqa: E402
from mindspore_impl.session import Session  # noqa: E402

SMALL = ("trainer.device=cpu", "network.width=16")


def made(*overrides: str):
    """A method at its start."""
    config = compose("shapes/12/suponly", [*SMALL, *overrides])
    return method_class(config.method.name)(config, Session(config))


def batch(seed: int) -> dict:
    """Noise with labels."""
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((2, 3, 33, 33)).astype(np.float32)
    return {"labelled": {"ids": ["a", "b"], "image": images, "label": rng.integers(0, 6, (2, 33, 33)).astype(np.uint8)}}


def step(method, index: int) -> dict[str, float]:
    """Make step ``index`` of a run."""
    return method.step(
        batch(index), Clock(epoch=0, step=index, iteration=index, epochs=1, iterations_per_epoch=10)
    )  # fmt: skip


def tensors(method) -> dict[str, np.ndarray]:
    """All tensors of the network and of the state."""
    return method.networks()["student"] | method.state()


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Whether both have the same tensors, bit for bit."""
    return set(first) == set(second) and all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("trainer.channels_last=true", "orders"),
        ("trainer.compile=true", "compiles"),
        ("trainer.recompute=true", "recomputation"),
        ("trainer.precision=bf16", "no convolution in bfloat16 on a CPU"),
    ],
)
def test_what_mindspore_does_not_offer_is_refused_with_the_reason(option, reason):
    with pytest.raises(UserError, match=reason):
        made(option)


@pytest.mark.slow
def test_float16_learns_what_float32_learns_in_the_first_step_and_goes_on_bit_for_bit():
    exact, whole, first = made(), made("trainer.precision=fp16"), made("trainer.precision=fp16")
    expected, losses = step(exact, 0), step(whole, 0)
    assert losses["loss"] == pytest.approx(expected["loss"], rel=1e-2) and losses != expected
    step(whole, 1)
    step(first, 0)
    second = made("trainer.precision=fp16")
    second.restore(first.networks(), first.state())
    step(second, 1)
    assert {"loss_scale", "loss_scale_steps"} <= set(whole.state())
    assert same(tensors(whole), tensors(second))


@pytest.mark.slow
def test_an_overflow_leaves_the_step_out_and_halves_the_scale():
    method = made("trainer.precision=fp16")
    method.restore(method.networks(), method.state() | {"loss_scale": np.float32([3e38])})
    before = {parameter.name: parameter.asnumpy().copy() for parameter in method.student.trainable_params()}
    step(method, 0)
    assert all(np.array_equal(before[p.name], p.asnumpy()) for p in method.student.trainable_params())
    assert method.state()["loss_scale"][0] == pytest.approx(1.5e38, rel=1e-6)


@pytest.mark.slow
def test_batches_are_accumulated_until_there_are_enough():
    method = made("trainer.accumulate=2")
    before = {parameter.name: parameter.asnumpy().copy() for parameter in method.student.trainable_params()}
    step(method, 0)
    first = [gradient.asnumpy().copy() for gradient in method.optimizer.gradients]
    assert all(np.array_equal(before[p.name], p.asnumpy()) for p in method.student.trainable_params())
    step(method, 1)
    assert any(not np.array_equal(before[p.name], p.asnumpy()) for p in method.student.trainable_params())
    alone = made()
    step(alone, 0)
    for half, gradient in zip(first, alone.optimizer.gradients):
        np.testing.assert_allclose(half, gradient.asnumpy() / 2, rtol=1e-4, atol=1e-6)
