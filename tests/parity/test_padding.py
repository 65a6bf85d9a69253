"""UCCL's padding at the decoder's size: PyTorch's rounding decides in both frameworks where a released preset says so."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ms = pytest.importorskip("mindspore")

import torch.nn.functional as F  # noqa: E402

from common.images import pytorch_resize  # noqa: E402
from common.images.pytorch_resize import FOUR_PRODUCTS, corners_of_white, resize_as_pytorch  # noqa: E402
from mindspore_impl.methods.uccl import ckr_sbu as ms_ckr_sbu  # noqa: E402
from torch_impl.methods.uccl import ckr_sbu as torch_ckr_sbu  # noqa: E402

SIZES = [(side, (((side + 1) // 2 + 1) // 2)) for side in (33, 64, 70, 130, 192, 257, 321, 500, 513, 612, 700)]
"""Sides of images, and of the decoder's maps for them."""

fused = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="this PyTorch rounds sums of products as other processors do",
)


def interpolate(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize float32 ``[B,h,w]`` as the released program does."""
    images = torch.from_numpy(maps).unsqueeze(1)
    return F.interpolate(images, size, mode="bilinear", align_corners=True).squeeze(1).numpy()


def cases(count: int):
    """Yield maps of 255 and 0 with a block of 0 each, one without, and sizes on either side of the kernel's bound."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        height, width, *size = (int(side) for side in rng.integers(1, 200, 4))
        maps = np.full((3, height, width), 255, np.float32)
        maps[1, : rng.integers(height + 1)] = maps[2, :, : rng.integers(width + 1)] = 0
        yield maps, tuple(size)


@fused
def test_the_transcription_has_every_bit_of_the_kernel():
    small = 0
    for maps, size in cases(300):
        small += sum(size) <= FOUR_PRODUCTS
        np.testing.assert_array_equal(resize_as_pytorch(maps, size), interpolate(maps, size))
    assert 50 < small < 250


@fused
def test_four_source_pixels_decide_what_is_255():
    for maps, size in cases(100):
        rows, columns, stays = corners_of_white(maps.shape[1:], size)
        corners = [maps[:, row][:, :, column] == 255 for row in rows for column in columns]
        pattern = sum(2**place * corner for place, corner in enumerate(reversed(corners)))
        predicted = np.take_along_axis(stays, pattern, 0)
        np.testing.assert_array_equal(predicted, interpolate(maps, size) == 255)


@fused
def test_products_that_are_rounded_one_by_one_decide_otherwise(monkeypatch):
    monkeypatch.setattr(pytorch_resize, "_fused", lambda a, b, c: a * b + c)
    assert any(np.any((resize_as_pytorch(*case) == 255) != (interpolate(*case) == 255)) for case in cases(100))


@pytest.mark.parametrize("rule", ["equal", "above"])
@pytest.mark.parametrize(("side", "small"), SIZES)
def test_both_frameworks_see_the_same_padding(side, small, rule):
    ignore = np.zeros((2, side, side), np.uint8)
    ignore[0], ignore[1, side // 2 :] = 255, 255
    ours = torch_ckr_sbu.ignored_at(torch.from_numpy(ignore), (small, small), rule).numpy()
    theirs = ms_ckr_sbu.ignored_at(ms.Tensor(ignore), (small, small), rule).asnumpy()
    if rule == "above":
        assert ours[0].all() and not ours[1, : small // 2].any() and ours[1, small // 2 + 1 :].all()
    if rule == "above" or torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        np.testing.assert_array_equal(theirs, ours)
    if side % 4 == 1:
        assert ours[0].all() and theirs[0].all()


def test_the_released_rule_loses_padding_to_rounding():
    """At 70 pixels, for instance; ``above`` keeps it."""
    ignore = ms.Tensor(np.full((1, 70, 70), 255, np.uint8))
    lost = ~ms_ckr_sbu.ignored_at(ignore, (18, 18), "equal").asnumpy()
    assert 0 < lost.sum() < lost.size
    assert ms_ckr_sbu.ignored_at(ignore, (18, 18), "above").all()
