"""CPCL: settings, and the class-wise disagreement that both frameworks compute on the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from common.config.strict import ranged
from common.methods.cpcl.collaborative import TwoBranchSettings

Variant = Literal["head", "legacy_2022"]

SCORE_FLOOR = 1e-6
"""Added to the sum that disagreement scores are divided by."""


@dataclass(frozen=True, kw_only=True)
class CPCLSettings(TwoBranchSettings):
    """Settings of CPCL; defaults are the authors' for VOC.

    ``variant``: what the program computes since March 2023 (``head``: every pixel weighted by its confidence), or in its
    first version (``legacy_2022``: one confidence per branch). ``legacy_divisor`` belongs to the latter: losses
    are means over the pixels with a target (``kept``, VOC) or over all (``all``, Cityscapes).
    """

    name: Literal["cpcl"] = "cpcl"
    variant: Variant = "head"
    legacy_divisor: Literal["kept", "all"] = "kept"
    unsup_weight: float = ranged(1.0, low=0.0)


@dataclass(frozen=True)
class Disagreement:
    """How much the branches disagree on each class in the whole batch.

    ``scores`` float64 ``[K]``; ``first_wins`` bool ``[K,K]``: whether at a pixel that branch 1 calls a and branch 2 calls b
    the label of branch 1 is taken, which has the higher score (a tie is branch 2's); ``overlap``: share of agreeing pixels.
    """

    of_all_groups: ClassVar[bool] = True

    scores: np.ndarray
    first_wins: np.ndarray
    overlap: float


def disagreement(counts: np.ndarray, variant: Variant = "head") -> Disagreement:
    """Return the disagreement of ``counts`` int64 ``[K,K]``: pixels that branch 1 gives class a (row), branch 2 class b.

    One agreement is added to every class, which avoids 0/0 and is part of the method.
    """
    matrix = counts + np.eye(len(counts), dtype=np.int64)
    agreed, of_first, of_second = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    raw = (of_second - agreed) / of_second + (of_first - agreed) / of_first
    total = raw.sum()
    divisor = total + SCORE_FLOOR if variant == "head" else total or 1.0
    scores = raw / divisor
    return Disagreement(
        scores=scores,
        first_wins=scores[:, None] > scores[None, :],
        overlap=float(agreed.sum() / matrix.sum()),
    )
