"""USRN's step in parts and blocks gives what its plain form gives: losses, gradients, running statistics."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from common.experiment import compose  # noqa: E402
from common.methods.interface import Clock  # noqa: E402
from common.methods.usrn.subclasses import parent_table  # noqa: E402
from tests.oracles.usrn import plain_losses  # noqa: E402
from torch_impl.methods.usrn.usrn import USRN  # noqa: E402
from torch_impl.session import Session  # noqa: E402

CONFIG = compose(
    "shapes/12/usrn",
    [
        "trainer.device=cpu", "trainer.threads=1", "network.width=16", "network.aspp_dropout=0.0",
        "network.head_dropout=[0.0, 0.0]", "method.subclass_counts=[4,2,1,1,2,1]", "network.subclasses=11",
        "method.threshold=0.25", "method.subclass_weight=0.5", "method.unsup_weight=2.0", "optimizer.lr=0.0",
    ],
)  # fmt: skip


def batch(size: int = 33) -> dict:
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((2, 3, size, size)).astype(np.float32) for _ in range(3)]
    labels = rng.integers(0, 6, (2, size, size)).astype(np.uint8)
    labels[:, :4] = 255
    labelled = {
        "ids": ["a", "b"],
        "image": images[0],
        "label": labels,
        "subclass": np.where(labels == 255, 255, labels * 2),
    }
    return {"labelled": labelled, "unlabelled": {"ids": ["c", "d"], "strong": images[1], "weak": images[2]}}


def test_same_numbers_as_the_plain_form():
    data, clock = batch(), Clock(epoch=0, step=0, iteration=0, epochs=1, iterations_per_epoch=1)
    data["labelled"]["subclass"] = data["labelled"]["subclass"].astype(np.uint8)
    ours, plain = (USRN(CONFIG, Session(CONFIG)) for _ in range(2))
    losses = ours.step(data, clock)
    tensors = {
        part: {name: torch.from_numpy(value) for name, value in values.items() if name != "ids"}
        for part, values in data.items()
    }
    parents = torch.from_numpy(parent_table(CONFIG.method.subclass_counts))
    expected = plain.optimizer.differentiate(
        lambda: plain_losses(plain.student.train(), tensors, parents, CONFIG.method)
    )
    assert 0 < losses.pop("kept") < 1
    assert losses == pytest.approx(expected, rel=1e-5) and all(expected.values())
    for name, mine, theirs in zip(ours.optimizer.names, ours.optimizer.parameters, plain.optimizer.parameters):
        scale = float(theirs.grad.abs().max())
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-4 * scale + 1e-7, msg=name)
    for mine, theirs in zip(ours.student.buffers(), plain.student.buffers()):
        torch.testing.assert_close(mine, theirs)
