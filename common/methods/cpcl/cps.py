"""CPS with and without CutMix: settings (``specs/cpcl.md`` appendix A), shared by both frameworks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from common.config.strict import ranged
from common.methods.cpcl.collaborative import LABELLED, UNLABELLED, UNLABELLED_OTHER
from common.methods.interface import MethodSettings, Stream


@dataclass(frozen=True, kw_only=True)
class CPSSettings(MethodSettings):
    """Settings of CPS; ``cutmix`` tells its two published forms apart.

    ``legacy_grad_scale`` n divides every gradient by n as the released program does on n GPUs (appendix A.4): learning rate
    n*lr and weight decay d with it equal lr and n*d without.
    """

    branches: ClassVar[int] = 2
    passed_alone: ClassVar[tuple[str, ...]] = ("labelled", "unlabelled")

    name: Literal["cps"] = "cps"
    cutmix: bool = True
    unsup_weight: float = ranged(1.0, low=0.0)
    legacy_grad_scale: int = ranged(1, low=1)

    def streams(self) -> tuple[Stream, ...]:
        """Labelled images and one or, to mix, two draws of unlabelled ones, all with the same augmentation."""
        return (LABELLED, UNLABELLED, UNLABELLED_OTHER) if self.cutmix else (LABELLED, UNLABELLED)
