"""Losses, selections, memory bank and contrastive term: MindSpore gives PyTorch's values and gradients on random inputs."""

from __future__ import annotations

import dataclasses

import mindspore as ms
import numpy as np
import pytest
import torch

import mindspore_impl.losses
import mindspore_impl.methods.u2pl.contrastive
import mindspore_impl.methods.u2pl.memory_bank
import mindspore_impl.methods.u2pl.teacher_and_bank
import mindspore_impl.mixing
import mindspore_impl.pseudo_labels
import mindspore_impl.resize
import torch_impl.losses
import torch_impl.methods.u2pl.contrastive
import torch_impl.methods.u2pl.memory_bank
import torch_impl.methods.u2pl.teacher_and_bank
import torch_impl.mixing
import torch_impl.pseudo_labels
import torch_impl.resize
from common.config.schema import CriterionConfig
from common.methods.interface import Clock
from common.methods.u2pl.u2pl import CONTRASTIVE_PRESETS, ContrastiveSettings, StepDraws, U2PLSettings
from mindspore_impl.device import start

GATE = 1e-5
"""Largest difference over the largest entry: the design's gate for losses and their gradients."""

CLASSES, SIZE = 5, (9, 11)
LOSSES = (torch_impl.losses, mindspore_impl.losses)
PSEUDO_LABELS = (torch_impl.pseudo_labels, mindspore_impl.pseudo_labels)
MIXING = (torch_impl.mixing, mindspore_impl.mixing)
RESIZE = (torch_impl.resize, mindspore_impl.resize)
U2PL = (torch_impl.methods.u2pl.teacher_and_bank, mindspore_impl.methods.u2pl.teacher_and_bank)
CONTRASTIVE = (torch_impl.methods.u2pl.contrastive, mindspore_impl.methods.u2pl.contrastive)


@pytest.fixture(scope="module", autouse=True)
def device():
    """Select MindSpore's device once."""
    start("cpu")


def difference(value, reference) -> float:
    """Return the largest difference over the largest entry of ``reference``; 0 where both are 0 everywhere."""
    value, reference = (np.asarray(x, np.float64) for x in (value, reference))
    assert value.shape == reference.shape and np.isfinite(value).all() and np.isfinite(reference).all()
    apart = np.abs(value - reference).max(initial=0)
    return float(apart / np.abs(reference).max()) if apart else 0.0


def array(value):
    """Return tensors of either framework as arrays, everything else as it is."""
    return (
        value.asnumpy() if isinstance(value, ms.Tensor) else value.numpy() if isinstance(value, torch.Tensor) else value
    )


def tensor(value):
    """Return arrays as PyTorch tensors, everything else as it is."""
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def native(value):
    """Return arrays as MindSpore's tensors, everything else as it is."""
    return ms.Tensor(value) if isinstance(value, np.ndarray) else value


def same(pair, name: str, *arguments):
    """Return MindSpore's result of a function without gradient after checking that it is exactly PyTorch's."""
    ours, theirs = (getattr(module, name) for module in pair)
    expected, computed = ours(*map(tensor, arguments)), theirs(*map(native, arguments))
    for a, b in zip(*((x if isinstance(x, tuple) else (x,)) for x in (computed, expected)), strict=True):
        assert np.array_equal(array(a), array(b))
    return tuple(map(array, computed)) if isinstance(computed, tuple) else array(computed)


def gradients(pair, name: str, inputs: tuple, *arguments) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return 3 times a loss of ``inputs`` and its gradients with respect to them, by PyTorch and by MindSpore."""
    ours, theirs = (getattr(module, name) for module in pair)
    leaves = [torch.tensor(x, requires_grad=True) for x in inputs]
    loss = 3 * ours(*leaves, *map(tensor, arguments))
    loss.backward()
    expected = [x.detach().numpy() for x in (loss, *(leaf.grad for leaf in leaves))]

    function = ms.value_and_grad(lambda *x: 3 * theirs(*x, *map(native, arguments)), tuple(range(len(inputs))))
    value, derivatives = function(*map(ms.Tensor, inputs))
    derivatives = derivatives if len(inputs) > 1 else (derivatives,)
    return expected, [x.asnumpy() for x in (value, *derivatives)]


def assert_same_gradients(*case) -> list[np.ndarray]:
    """Run :func:`gradients`, hold the results to the gate, and return MindSpore's."""
    expected, computed = gradients(*case)
    assert max(difference(a, b) for a, b in zip(computed, expected, strict=True)) <= GATE
    return computed


def random_logits(seed: int, scale: float = 3) -> np.ndarray:
    """Return float32 ``[3,CLASSES,*SIZE]``."""
    return (scale * np.random.default_rng(seed).standard_normal((3, CLASSES, *SIZE))).astype(np.float32)


def random_labels(seed: int, ignored: float = 0.2) -> np.ndarray:
    """Return uint8 ``[3,*SIZE]`` with a share of 255."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, (3, *SIZE))
    return np.where(rng.random(labels.shape) < ignored, 255, labels).astype(np.uint8)


@pytest.mark.parametrize("name", ["cross_entropy", "reverse_cross_entropy"])
@pytest.mark.parametrize("scale", [1e-3, 3, 60])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_pixel_losses(name, scale, ignored):
    results = assert_same_gradients(LOSSES, name, (random_logits(1, scale),), random_labels(2, ignored))
    assert results[0] > 0


@pytest.mark.parametrize(
    ("pair", "name"),
    [(LOSSES, "cross_entropy"), (LOSSES, "reverse_cross_entropy"), (PSEUDO_LABELS, "unsupervised_loss")],
)
def test_no_labelled_pixel_gives_zero(pair, name):
    value, gradient = assert_same_gradients(pair, name, (random_logits(1),), random_labels(2, 1.0))
    assert value == 0 and not gradient.any()


def test_an_ignored_pixel_without_finite_logits_does_not_spoil_the_gradient():
    logits, labels = random_logits(1), random_labels(2)
    logits[:, :, 0, 0], labels[:, 0, 0] = np.inf, 255
    with np.errstate(invalid="ignore"):
        _, (value, gradient) = gradients(LOSSES, "cross_entropy", (logits,), labels)
    assert np.isfinite(value) and np.isfinite(gradient).all() and not gradient[:, :, 0, 0].any()


@pytest.mark.parametrize("thresh", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("min_kept", [0, 1, 100, 10_000])
def test_ohem_keeps_the_same_pixels(thresh, min_kept):
    logits, labels = random_logits(3), random_labels(4)
    kept = same(LOSSES, "ohem_labels", logits, labels, thresh, min_kept)
    mined = thresh < 1 and 0 < min_kept < labels.size
    assert ((kept != 255).sum() < (labels != 255).sum()) == mined


@pytest.mark.parametrize("criterion", [CriterionConfig(), CriterionConfig(type="ohem", thresh=0.3, min_kept=50)])
def test_supervised_loss(criterion):
    def pair(module):
        return lambda logits, aux, labels: module.supervised_loss(criterion, logits, labels, aux)

    modules = [type("Module", (), {"loss": staticmethod(pair(module))}) for module in LOSSES]
    both = assert_same_gradients(modules, "loss", (random_logits(5), random_logits(6)), random_labels(7))
    assert both[2].any() and both[0] > 0


def test_unsupervised_loss_of_reliable_pixels():
    probabilities = torch.from_numpy(random_logits(8)).softmax(1).numpy()
    uncertainty = mindspore_impl.pseudo_labels.entropy(ms.Tensor(probabilities)).asnumpy()
    assert difference(uncertainty, torch_impl.pseudo_labels.entropy(torch.from_numpy(probabilities))) <= GATE
    for percent in (0.0, 33.3, 80.0, 100.0):
        reliable, threshold = same(PSEUDO_LABELS, "drop_unreliable", uncertainty, random_labels(9), percent)
        assert threshold is not None
        assert_same_gradients(PSEUDO_LABELS, "unsupervised_loss", (random_logits(10),), reliable)
    nothing, threshold = same(PSEUDO_LABELS, "drop_unreliable", uncertainty, random_labels(9, 1.0), 80.0)
    assert threshold is None and (nothing == 255).all()


@pytest.mark.parametrize("count", [1, 2, 3, 1000])
def test_percentile_is_numpys(count):
    values = np.random.default_rng(count).choice(np.linspace(0, 2, 50), count).astype(np.float32)
    for percent in (0.0, 7.7, 50.0, 99.9, 100.0):
        assert same(PSEUDO_LABELS, "percentile", values, percent) == np.percentile(values, percent).astype(np.float32)


@pytest.mark.parametrize("size", [(4, 5), (1, 1), SIZE])
def test_nearest(size):
    assert same(RESIZE, "nearest_floor", random_labels(11), size).shape == (3, *size)


@pytest.mark.parametrize("replacement", ["partner", 255])
def test_mix(replacement):
    masks = np.random.default_rng(12).random((3, *SIZE)) < 0.5
    same(MIXING, "mix", random_labels(13), masks, replacement)
    same(MIXING, "mix", random_logits(14), masks, "partner" if replacement == "partner" else 0.0)


@pytest.mark.parametrize("anchor_entropy", ["lowest", "reliable"])
@pytest.mark.parametrize("ignored", [0.3, 1.0])
def test_reliability_masks(anchor_entropy, ignored):
    uncertainty = np.abs(random_logits(15)[:, 0])
    pseudo_label = random_labels(17, ignored)
    low, high = same(
        U2PL, "reliability_masks", uncertainty, random_labels(16), pseudo_label, 20.0, anchor_entropy, (4, 5)
    )
    assert low[3:].any() == high[3:].any() == (ignored < 1) and low[:3].any()


@pytest.mark.parametrize("encoding", ["union_first", "onehot"])
def test_label_maps(encoding):
    maps = same(CONTRASTIVE, "label_maps", random_labels(18), CLASSES, encoding)
    assert maps[1:].any() == (encoding == "onehot")


def test_memory_bank():
    rng = np.random.default_rng(19)
    banks = (
        torch_impl.methods.u2pl.memory_bank.MemoryBank([7, 4], 3),
        mindspore_impl.methods.u2pl.memory_bank.MemoryBank([7, 4], 3),
    )
    for count in (0, 3, 3, 0, 5, 20, 1, 7):
        keys = rng.standard_normal((count, 3)).astype(np.float32)
        for index in range(2):
            banks[0].append(index, torch.from_numpy(keys))
            banks[1].append(index, ms.Tensor(keys))
            assert np.array_equal(banks[1].queue(index), banks[0].queue(index))
        logical = rng.integers(banks[1].counts[0], size=9) if banks[1].counts[0] else np.arange(0)
        assert np.array_equal(array(banks[1].gather(0, logical)), banks[0].gather(0, logical))
    restored = mindspore_impl.methods.u2pl.memory_bank.MemoryBank([7, 4], 3)
    restored.restore(banks[0].state())
    assert all(np.array_equal(restored.queue(index), banks[0].queue(index)) for index in range(2))


def settings(preset: str = "authors", **changes) -> ContrastiveSettings:
    """Return resolved settings for small maps."""
    small = {"low_rank": 1, "high_rank": 4, "num_queries": 13, "num_negatives": 6}
    return dataclasses.replace(ContrastiveSettings(), **CONTRASTIVE_PRESETS[preset] | small | changes)


class ContrastiveCase:
    """Inputs of the contrastive term with classes 0 (always) to ``present`` - 1; anchors and negatives are found in most."""

    def __init__(self, present: int = CLASSES, zero_features: bool = False) -> None:
        rng = np.random.default_rng(20)
        self.features = [rng.standard_normal((4, 6, *SIZE)).astype(np.float32) for _ in range(2)]
        if zero_features:
            self.features[0][:, :, :4] = 0
        self.probabilities = torch.from_numpy(rng.standard_normal((4, CLASSES, *SIZE)).astype(np.float32)).softmax(1)
        self.labels = rng.integers(0, present, (4, *SIZE)).astype(np.uint8)
        self.masks = [rng.random((4, *SIZE)) < 0.6 for _ in range(2)]
        self.keys = [rng.standard_normal((7, 6)).astype(np.float32) for _ in range(CLASSES)]
        self.prototype = rng.standard_normal((CLASSES, 13, 6)).astype(np.float32)

    def run(self, package, to_framework, representation, chosen: ContrastiveSettings, prefill: bool, average: bool):
        """Return the result and the bank of one framework."""
        bank = package.methods.u2pl.memory_bank.MemoryBank([20] * CLASSES, 6)
        for index, keys in enumerate(self.keys if prefill else []):
            bank.append(index, to_framework(keys))
        maps = [
            package.methods.u2pl.contrastive.label_maps(to_framework(part), CLASSES, chosen.label_encoding)
            for part in (self.labels[:2], self.labels[2:])
        ]
        clock = Clock(epoch=1, step=0, iteration=1, epochs=2, iterations_per_epoch=1)
        result = package.methods.u2pl.contrastive.contrastive_loss(
            representation, to_framework(self.features[1]), to_framework(self.probabilities.numpy()),
            to_framework(np.concatenate([array(part) for part in maps])), *map(to_framework, self.masks), 2, bank,
            chosen, StepDraws(U2PLSettings(contrastive=chosen), 0, clock),
            to_framework(self.prototype) if average else None, 0.9,
        )  # fmt: skip
        return result, bank


def compare_contrastive(case: ContrastiveCase, ours, theirs, prefill: bool = True, average: bool = False):
    """Run both frameworks with their settings; return both results and the largest difference of what they computed."""
    leaf = torch.tensor(case.features[0], requires_grad=True)
    expected, bank = case.run(torch_impl, torch.from_numpy, leaf, ours, prefill, average)
    (2 * expected.loss).backward()
    kept = []

    def loss(representation):
        kept[:] = case.run(mindspore_impl, ms.Tensor, representation, theirs, prefill, average)
        return 2 * kept[0].loss

    value, gradient = ms.value_and_grad(loss)(ms.Tensor(case.features[0]))
    result, found_bank = kept
    pairs = [
        (value.asnumpy(), 2 * expected.loss.detach()), (gradient.asnumpy(), leaf.grad),
        (array(result.class_means), expected.class_means), (result.class_terms, expected.class_terms),
        *((found_bank.queue(index), bank.queue(index)) for index in range(CLASSES)),
    ]  # fmt: skip
    if average:
        pairs.append((array(result.prototype), expected.prototype))
    return result, expected, max(difference(*pair) for pair in pairs)


EXACT = ("valid_classes", "anchor_candidates", "new_keys", "evaluated_position", "evaluated_bank_class")


@pytest.mark.parametrize("preset", CONTRASTIVE_PRESETS)
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("zero_features", [False, True])
def test_contrastive_loss(preset, average, zero_features):
    chosen = settings(preset)
    result, expected, apart = compare_contrastive(ContrastiveCase(4, zero_features), chosen, chosen, average=average)
    assert apart <= GATE
    assert [getattr(result, name) for name in EXACT] == [getattr(expected, name) for name in EXACT]
    assert len(result.class_terms) >= 3 and sum(result.new_keys)


@pytest.mark.parametrize("case", ["one class", "empty bank"])
def test_contrastive_loss_without_a_term_is_zero(case):
    chosen = settings(high_rank=1)
    inputs = ContrastiveCase(1 if case == "one class" else CLASSES)
    result, _, apart = compare_contrastive(inputs, chosen, chosen, prefill=case == "one class")
    assert apart <= GATE and result.loss.asnumpy() == 0 and not result.class_terms


def test_the_gate_notices_a_temperature_that_differs_by_a_thousandth():
    _, _, apart = compare_contrastive(ContrastiveCase(), settings(), settings(temperature=0.5005))
    assert apart > GATE


def test_the_gate_notices_one_pixel_less():
    logits, labels = random_logits(1), random_labels(2)
    expected, _ = gradients(LOSSES, "cross_entropy", (logits,), labels)
    labels[0, 4, 4] = 255 if labels[0, 4, 4] != 255 else 0
    _, computed = gradients(LOSSES, "cross_entropy", (logits,), labels)
    assert min(difference(a, b) for a, b in zip(computed, expected)) > GATE
