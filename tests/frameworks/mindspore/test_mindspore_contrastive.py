"""What MindSpore's memory bank and keys do beyond PyTorch's: rows are gathered in numbers that come again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("mindspore")

import mindspore as ms  # noqa: E402

from common.methods.u2pl.u2pl import CONTRASTIVE_PRESETS, ContrastiveSettings  # noqa: E402
from mindspore_impl.device import start  # noqa: E402
from mindspore_impl.methods.u2pl import contrastive  # noqa: E402
from mindspore_impl.methods.u2pl.memory_bank import MemoryBank  # noqa: E402

CLASSES, WIDTH, SIZE = 5, 6, (9, 11)


@pytest.mark.mindspore
def test_keys_are_gathered_in_powers_of_two(monkeypatch):
    """MindSpore keeps an operator for every shape that it ever met, and every step has other numbers of keys."""
    start("cpu")
    rng, lengths, gather = np.random.default_rng(0), set(), contrastive.ops.gather
    settings = dataclasses.replace(ContrastiveSettings(low_rank=1, high_rank=4), **CONTRASTIVE_PRESETS["fixed"])
    features = ms.Tensor(rng.standard_normal((4, WIDTH, *SIZE)).astype(np.float32))
    probabilities = ms.ops.softmax(ms.Tensor(rng.standard_normal((4, CLASSES, *SIZE)).astype(np.float32)), 1)
    maps = contrastive.label_maps(ms.Tensor(rng.integers(0, CLASSES, (4, *SIZE)).astype(np.uint8)), CLASSES, "onehot")

    def noted(rows, index, axis):
        lengths.add(index.shape[0])
        return gather(rows, index, axis)

    monkeypatch.setattr(contrastive.ops, "gather", noted)
    bank, numbers = MemoryBank([1000] * CLASSES, WIDTH), set()
    for share in (0.1, 0.4, 0.7, 1.0):
        high = ms.Tensor(rng.random((4, *SIZE)) < share)
        numbers.update(contrastive.append_keys(features, probabilities, maps, high, 2, bank, settings))
    assert len(numbers) > len(lengths)
    assert all(length & (length - 1) == 0 for length in lengths)
