"""CPCL's fast forms against their plain transcription, and what a step keeps in memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from common.experiment import compose  # noqa: E402
from common.methods.cpcl.collaborative import StepDraws  # noqa: E402
from common.methods.groups import PerGroup  # noqa: E402
from common.methods.interface import Clock  # noqa: E402
from tests.oracles.collaborative import plain_prediction, plain_step, plain_targets  # noqa: E402
from torch_impl.methods.cpcl.collaborative import ROWS, Prediction, mixed_prediction, targets  # noqa: E402
from torch_impl.methods.cpcl.cpcl import CPCL  # noqa: E402
from torch_impl.methods.cpcl.cps import CPS  # noqa: E402
from torch_impl.session import Session  # noqa: E402

CLOCK = Clock(epoch=0, step=3, iteration=3, epochs=1, iterations_per_epoch=10)
CONFIG = compose("shapes/12/cpcl", ["trainer.device=cpu", "network.head_dropout=[0.1, 0.1]", "method.unsup_weight=2"])


def logits(*shape: int) -> torch.Tensor:
    return 3 * torch.randn(shape)


def test_predictions_and_targets_are_the_plain_ones():
    torch.manual_seed(0)
    height, masks = 2 * ROWS + 5, torch.rand(3, 2 * ROWS + 5, 24) > 0.5
    pairs = [(logits(3, 7, height, 24), logits(3, 7, height, 24)) for _ in range(2)]
    pairs[1] = tuple(a + b for a, b in zip(pairs[0], pairs[1]))  # so that the branches often agree
    ours = [mixed_prediction(*pair, masks, (height, 24)) for pair in pairs]
    plain = [plain_prediction(*pair, masks) for pair in pairs]
    for prediction, (label, confidence) in zip(ours, plain):
        assert torch.equal(prediction.label.long(), label)
        torch.testing.assert_close(prediction.confidence, confidence, rtol=1e-6, atol=1e-7)
    combined = targets(*ours, 7)
    intersection, _, union, weight = plain_targets(*zip(*plain), 7)
    assert torch.equal(combined.intersection.long(), intersection) and torch.equal(combined.union.long(), union)
    torch.testing.assert_close(combined.union_weight, weight, rtol=1e-6, atol=1e-7)
    shares = [(intersection == 255).float().mean(), (union == plain[0][0])[intersection == 255].float().mean()]
    assert all(0.1 < share < 0.9 for share in shares)


def test_the_mean_of_row_maxima_of_2022_is_one_number():
    masks = torch.zeros(2, 6, 5, dtype=torch.bool)
    kept = logits(2, 3, 6, 5)
    prediction = mixed_prediction(kept, logits(2, 3, 6, 5), masks, (6, 5), "legacy_2022")
    torch.testing.assert_close(prediction.confidence, kept.softmax(3).max().view(1, 1, 1))
    assert isinstance(prediction, Prediction) and torch.equal(prediction.label.long(), kept.argmax(1))


def made_up_batch() -> dict:
    rng = np.random.default_rng(0)
    images = {
        name: rng.standard_normal((2, 3, 33, 33)).astype(np.float32)
        for name in ("labelled", "unlabelled", "unlabelled_other")
    }
    batch = {name: {"image": image, "ids": ["a", "b"]} for name, image in images.items()}
    batch["labelled"]["label"] = rng.integers(0, 6, (2, 33, 33)).astype(np.uint8)
    return batch


def test_a_step_with_one_loss_at_a_time_is_the_plain_step():
    ours, plain = (CPCL(CONFIG, Session(CONFIG)) for _ in range(2))
    batch, seed = made_up_batch(), CONFIG.trainer.seed
    losses = ours.losses(batch, CLOCK, PerGroup([StepDraws(seed, CLOCK)]))
    expected = plain_step(plain, batch, CLOCK, StepDraws(seed, CLOCK))
    assert {name: losses[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    for role in ours.roles:
        for mine, theirs in zip(ours.nets[role].parameters(), plain.nets[role].parameters()):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)
        for mine, theirs in zip(ours.nets[role].buffers(), plain.nets[role].buffers()):
            assert torch.equal(mine, theirs)  # four passes in the same order: the running statistics agree to the bit


class Kept:
    """Bytes that autograd keeps for the backward pass: those alive now, and the most there ever were."""

    def __init__(self) -> None:
        self.alive = self.most = 0

    def pack(self, tensor: torch.Tensor):
        return Held(self, tensor)

    def unpack(self, held) -> torch.Tensor:
        return held.tensor


class Held:
    """One tensor that autograd keeps."""

    def __init__(self, kept: Kept, tensor: torch.Tensor) -> None:
        self.kept, self.tensor = kept, tensor
        self.bytes = tensor.numel() * tensor.element_size()
        kept.alive += self.bytes
        kept.most = max(kept.most, kept.alive)

    def __del__(self) -> None:
        self.kept.alive -= self.bytes


def most_kept(step) -> int:
    """Return the most bytes that autograd keeps during ``step``."""
    kept = Kept()
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
        step()
    return kept.most


def test_a_step_keeps_little_more_than_one_pass_in_memory():
    batch, draws = made_up_batch(), StepDraws(0, CLOCK)
    method = CPCL(CONFIG, Session(CONFIG))
    plain = most_kept(lambda: plain_step(method, batch, CLOCK, draws))
    assert most_kept(lambda: method.losses(batch, CLOCK, PerGroup([draws]))) <= 0.3 * plain
    for cutmix, memory, share in ((True, "fast", 0.3), (False, "frugal", 0.3), (False, "fast", 0.55)):
        settings = dataclasses.replace(compose("shapes/12/cps").method, cutmix=cutmix, memory=memory)
        config = dataclasses.replace(CONFIG, method=settings)
        cps = CPS(config, Session(config))
        assert most_kept(lambda: cps.losses(batch, CLOCK, PerGroup([draws]))) <= share * plain  # noqa: B023
