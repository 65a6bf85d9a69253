"""CPS with and without CutMix: settings (TorchSemiSeg), shared by both frameworks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.config.strict import ranged
from common.methods.cpcl.collaborative import TwoBranchSettings


@dataclass(frozen=True, kw_only=True)
class CPSSettings(TwoBranchSettings):
    """Settings of CPS; ``cutmix`` tells its two published forms apart.

    ``legacy_grad_scale`` n divides every gradient by n as the released program does on n GPUs: learning rate
    n*lr and weight decay d with it equal lr and n*d without.

    ``memory`` (without CutMix): one pass of each branch is kept for its gradient at a time (``fast``), or one in all, for which
    branch 2 runs once more without gradient (``frugal``); the numbers are the same. MindSpore is always frugal.
    """

    name: Literal["cps"] = "cps"
    cutmix: bool = True
    unsup_weight: float = ranged(1.0, low=0.0)
    legacy_grad_scale: int = ranged(1, low=1)
    memory: Literal["fast", "frugal"] = "fast"

    def mixes(self) -> bool:
        """Whether CutMix mixes two draws of unlabelled images."""
        return self.cutmix
