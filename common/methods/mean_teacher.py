"""Mean Teacher: settings and the growth of the consistency's weight, shared by both frameworks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from common.config.strict import ranged
from common.methods.interface import Clock
from common.methods.teacher import TeacherSettings


@dataclass(frozen=True, kw_only=True)
class MeanTeacherSettings(TeacherSettings):
    """Settings of Mean Teacher; the teacher begins with the first step.

    ``unsup_weight`` is reached after ``ramp_up``, a share of the run.
    """

    name: Literal["mean_teacher"] = "mean_teacher"
    unsup_weight: float = ranged(1.0, low=0.0)
    ramp_up: float = ranged(0.25, low=0.0, high=1.0)

    def consistency_weight(self, clock: Clock) -> float:
        """Weight of the consistency in this step: unsup_weight * exp(-5 (1 - t)^2), t from 0 to 1 during the ramp-up."""
        steps = self.ramp_up * clock.total
        share = min(clock.iteration / steps, 1.0) if steps else 1.0
        return self.unsup_weight * math.exp(-5 * (1 - share) ** 2)
