"""The cheap contrastive loss against its plain transcription, and the switches that the paper's description turns."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from common.methods.interface import Clock  # noqa: E402
from common.methods.u2pl.u2pl import ContrastiveSettings, StepDraws, U2PLSettings  # noqa: E402
from tests.oracles.contrastive import plain_contrastive_loss  # noqa: E402
from torch_impl.methods.u2pl.contrastive import anchor_term, contrastive_loss, label_maps  # noqa: E402
from torch_impl.methods.u2pl.memory_bank import MemoryBank  # noqa: E402

CLOCK = Clock(epoch=1, step=0, iteration=1, epochs=2, iterations_per_epoch=1)
SMALL = ContrastiveSettings(
    label_encoding="onehot", class_pairing="position", negatives="code", anchor_entropy="lowest", positive="all_low",
    low_rank=1, high_rank=4, anchor_threshold=0.15, num_queries=16, num_negatives=5, queue_first=40, queue_other=25,
)  # fmt: skip


def make_inputs(seed: int, classes: int = 6, absent: int | None = None):
    rng = torch.Generator().manual_seed(seed)
    rep = torch.randn(4, 12, 9, 10, generator=rng)
    teacher = torch.randn(4, 12, 9, 10, generator=rng)
    probabilities = (2 * torch.randn(4, classes, 9, 10, generator=rng)).softmax(1)
    labels = torch.randint(0, classes, (4, 9, 10), generator=rng).to(torch.uint8)
    labels[torch.rand(4, 9, 10, generator=rng) < 0.1] = 255
    if absent is not None:
        labels[labels == absent] = 255
    masks = [torch.rand(4, 9, 10, generator=rng) < 0.6 for _ in range(2)]
    return rep, teacher, probabilities, labels, *masks


def run(settings: ContrastiveSettings, inputs, encoding: str = "onehot", rows: int = 30):
    rep, teacher, probabilities, labels, low, high = inputs
    rep = rep.clone().requires_grad_()
    classes = probabilities.shape[1]
    u2pl = U2PLSettings(contrastive=settings)
    bank = MemoryBank(u2pl.queue_sizes(classes), rep.shape[1])
    start = torch.randn(classes, rows, rep.shape[1], generator=torch.Generator().manual_seed(9))
    for index in range(classes):
        bank.append(index, start[index])
    maps = torch.cat([label_maps(part, classes, encoding) for part in (labels[:2], labels[2:])])
    result = contrastive_loss(
        rep, teacher, probabilities, maps, low, high, 2, bank, settings, StepDraws(u2pl, 3, CLOCK)
    )
    result.loss.backward()
    return result, rep.grad, bank, maps, start, u2pl


@pytest.mark.parametrize("absent", [None, 2, 5])
@pytest.mark.parametrize("encoding", ["onehot", "union_first"])
def test_equals_plain_transcription(absent, encoding):
    inputs = make_inputs(1, absent=absent)
    result, gradient, bank, maps, start, u2pl = run(SMALL, inputs, encoding)
    rep, teacher, probabilities, _, low, high = inputs
    rep = rep.clone().requires_grad_()
    sizes = u2pl.queue_sizes(6)
    queues = [rows[-size:] for rows, size in zip(start, sizes)]
    plain = plain_contrastive_loss(
        rep, teacher, probabilities, maps, low, high, 2, queues, sizes, SMALL, StepDraws(u2pl, 3, CLOCK)
    )
    plain.backward()
    assert result.loss.item() == pytest.approx(plain.item(), rel=1e-5)
    assert (gradient - rep.grad).abs().max() <= 1e-5 * rep.grad.abs().max()
    for index, queue in enumerate(queues):
        np.testing.assert_array_equal(bank.queue(index), queue.numpy())


def test_plain_comparison_can_fail():
    inputs = make_inputs(1)
    result = run(SMALL, inputs)[0]
    other = run(dataclasses.replace(SMALL, temperature=0.4), inputs)[0]
    assert result.loss.item() != pytest.approx(other.loss.item(), rel=1e-3)


def test_anchor_gradient_is_the_gradient_of_the_loss():
    rng = torch.Generator().manual_seed(2)
    anchors = torch.randn(5, 7, generator=rng, dtype=torch.float64, requires_grad=True)
    positives, negatives = torch.randn(5, 7, generator=rng).double(), torch.randn(15, 7, generator=rng).double()
    term, gradient = anchor_term(anchors.detach(), positives, negatives, 0.5)
    others = torch.cat([positives.unsqueeze(1), negatives.view(5, 3, 7)], 1)
    similarity = torch.nn.functional.cosine_similarity(anchors.unsqueeze(1), others, dim=2)
    loss = torch.nn.functional.cross_entropy(similarity / 0.5, torch.zeros(5, dtype=torch.long))
    loss.backward()
    assert term == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(gradient, anchors.grad, rtol=1e-10, atol=1e-12)


def test_pairings_agree_when_every_lower_class_is_present():
    inputs = make_inputs(4)
    by_position = run(SMALL, inputs)[0].loss.item()
    by_class = run(dataclasses.replace(SMALL, class_pairing="class"), inputs)[0].loss.item()
    assert by_position == by_class
    inputs = make_inputs(4, absent=1)
    assert (
        run(SMALL, inputs)[0].loss.item()
        != run(dataclasses.replace(SMALL, class_pairing="class"), inputs)[0].loss.item()
    )


def test_encodings_agree_for_one_image():
    labels = make_inputs(5)[3][:1]
    assert torch.equal(label_maps(labels, 6, "union_first"), label_maps(labels, 6, "onehot"))
    two = make_inputs(5)[3][:2]
    assert not torch.equal(label_maps(two, 6, "union_first"), label_maps(two, 6, "onehot"))


def test_paper_negatives_pixel_by_pixel():
    inputs = make_inputs(6)
    settings = dataclasses.replace(SMALL, negatives="paper", low_rank=2, high_rank=5)
    result = run(settings, inputs)[0]
    _, _, probabilities, labels, _, high = inputs
    expected = [0] * 6
    for b in range(4):
        for y in range(9):
            for x in range(10):
                for k in range(6):
                    p = probabilities[b, :, y, x]
                    rank = int((p > p[k]).sum())
                    label = int(labels[b, y, x])
                    if not high[b, y, x] or p[k] >= settings.negative_threshold:
                        continue
                    if b < 2:
                        expected[k] += label not in (255, k) and rank < 2
                    else:
                        expected[k] += 2 <= rank < 5
    assert result.new_keys == expected


def test_positive_of_anchors_ignores_unsure_pixels():
    inputs = make_inputs(7)
    all_low = run(SMALL, inputs)[0]
    anchors = run(dataclasses.replace(SMALL, positive="anchors"), inputs)[0]
    members = inputs[3] == 3
    sure = members & inputs[4] & (inputs[2][:, 3] > SMALL.anchor_threshold)
    torch.testing.assert_close(
        anchors.class_means[3], inputs[1].permute(0, 2, 3, 1)[sure].mean(0), rtol=1e-5, atol=1e-6
    )
    assert not torch.allclose(all_low.class_means[3], anchors.class_means[3])


def test_one_class_gives_zero_but_fills_the_bank():
    rep, teacher, probabilities, labels, low, high = make_inputs(8)
    labels = torch.where(labels == 255, labels, torch.full_like(labels, 2))
    result, gradient, bank, *_ = run(SMALL, (rep, teacher, probabilities, labels, low, high), rows=1)
    assert result.loss.item() == 0 and not gradient.any() and result.new_keys[2] > 0
    assert bank.counts[2] == min(1 + result.new_keys[2], SMALL.queue_other)


def test_bank_keeps_the_newest_rows_in_order():
    bank = MemoryBank([4], 1)
    for rows in ([0, 1, 2], [3, 4], [], [5, 6, 7, 8, 9, 10]):
        bank.append(0, torch.tensor(rows, dtype=torch.float32).view(-1, 1))
    np.testing.assert_array_equal(bank.queue(0)[:, 0], [7, 8, 9, 10])
    other = MemoryBank([4], 1)
    other.restore(bank.state())
    np.testing.assert_array_equal(other.queue(0), bank.queue(0))
