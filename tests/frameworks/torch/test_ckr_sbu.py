"""UCCL's losses: the closed form is the plain one, looks at no value on the host, and stays 0 where there is nothing."""

from __future__ import annotations

import pytest
import torch

from benchmarks.ckr_sbu import make_cases, saved_bytes
from torch_impl.losses import cross_entropy, ohem_labels
from torch_impl.methods.uccl.ckr_sbu import (
    class_knowledge,
    cosine,
    ignored_at,
    position_weights,
    semantic_update,
)
from torch_impl.pseudo_labels import certain_loss, certain_share, certainty


def relative(computed: torch.Tensor, expected: torch.Tensor) -> float:
    return ((computed - expected).norm() / expected.norm()).item()


def test_closed_form_is_the_plain_form_and_keeps_less():
    fast, plain, inputs = make_cases(2, 5, 16, 9)
    losses, gradients = [], []
    for loss in (fast, plain):
        for value in inputs:
            value.grad = None
        losses.append(loss())
        losses[-1].backward()
        gradients.append([value.grad for value in inputs])
    assert relative(losses[0], losses[1]) <= 1e-6
    assert max(relative(*pair) for pair in zip(*gradients)) <= 1e-5
    assert saved_bytes(fast) <= 0.75 * saved_bytes(plain)


def test_nothing_depends_on_a_value_on_the_host():
    """Tensors of the meta device have no values: any look at one raises."""

    def meta(*shape, dtype=torch.float32):
        return torch.empty(shape, device="meta", dtype=dtype)

    feature, logits = meta(2, 8, 9, 9).requires_grad_(), meta(2, 5, 9, 9).requires_grad_()
    ignored = ignored_at(meta(2, 33, 33, dtype=torch.uint8), (9, 9), "equal")
    similarity = cosine(meta(2, 8, 9, 9), feature, 1)
    loss = semantic_update(similarity, logits.detach(), logits, ignored, 0.95)
    loss = loss + semantic_update(similarity, logits.detach(), logits, ignored, 0.95, "uncertain")
    for mode in ("rows", "exclude"):
        loss = loss + class_knowledge(meta(2, 8, 9, 9), feature, logits, ignored, mode)
    confidence, label = certainty(logits)
    ignore = meta(2, 9, 9, dtype=torch.uint8)
    loss = loss + certain_loss(logits, label, confidence, ignore, 0.95) + certain_share(confidence, ignore, 0.95)
    loss = loss + cross_entropy(logits, ohem_labels(logits, ignore, 0.7, 20))
    loss.backward()
    assert feature.grad.shape == feature.shape and logits.grad.shape == logits.shape


@pytest.mark.parametrize("mode", ["rows", "exclude"])
@pytest.mark.parametrize("support", ["all", "uncertain"])
def test_everything_ignored_gives_finite_losses_and_gradients(mode, support):
    torch.manual_seed(0)
    feature, weak = torch.randn(2, 4, 5, 5, requires_grad=True), torch.randn(2, 3, 5, 5, requires_grad=True)
    strong, ignored = torch.randn(2, 3, 5, 5, requires_grad=True), torch.ones(2, 5, 5, dtype=torch.bool)
    knowledge = class_knowledge(torch.randn(2, 4, 5, 5), feature, weak, ignored, mode)
    update = semantic_update(cosine(torch.randn(2, 4, 5, 5), feature, 1), weak.detach(), strong, ignored, 1.0, support)
    (knowledge + update).backward()
    assert update == 0 and (mode == "rows" or knowledge == 0)
    assert all(value.grad.isfinite().all() for value in (feature, weak, strong)) and not strong.grad.any()
    assert mode == "rows" or not feature.grad.any()


def test_weights_of_the_clean_support_run_over_uncertain_pixels_only():
    torch.manual_seed(1)
    weak, strong, similarity = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3), torch.rand(1, 3, 3)
    ignored, (confidence, label) = torch.zeros(1, 3, 3, dtype=torch.bool), certainty(weak)
    threshold = float(confidence.flatten().sort().values[5])
    losses, terms = torch.nn.functional.cross_entropy(strong, label.long(), reduction="none"), []
    for index in range(2):
        chosen = (label == index) & (confidence <= threshold)
        if chosen.any():
            terms.append((torch.softmax(-similarity[chosen], 0) * losses[chosen]).sum())
    loss = semantic_update(similarity, weak, strong, ignored, threshold, "uncertain")
    assert loss == pytest.approx(float(torch.stack(terms).mean()), rel=1e-6)


def test_position_weights_add_up_to_one_where_a_class_is_present():
    torch.manual_seed(2)
    ignored = torch.zeros(2, 4, 4, dtype=torch.bool)
    ignored[0, :2] = True
    weights, counts = position_weights(torch.randn(2, 5, 4, 4) * 100, ignored)
    torch.testing.assert_close(weights.sum(2), (counts > 0).float())
    assert counts.sum(1).tolist() == [8, 16]
