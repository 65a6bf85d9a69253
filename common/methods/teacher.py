"""What methods with an EMA teacher share: when it begins, how it follows its student, how many pixels keep its label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from common.config.schema import AugmentConfig
from common.config.strict import ranged
from common.methods.interface import OWN_LABEL, Clock, MethodSettings, Stream
from common.methods.weak_crop import WeakCrop


@dataclass(frozen=True, kw_only=True)
class TeacherSettings(MethodSettings):
    """Settings of a method whose teacher is a moving average of the student (as in U2PL's ``train_semi.py``).

    ``ema_decay`` is the largest share that the teacher keeps of itself in a step.
    """

    augment: ClassVar = WeakCrop
    heads: ClassVar = ("auxiliary",)

    ema_decay: float = ranged(0.99, low=0.0, high=1.0)

    def streams(self, augment: AugmentConfig) -> tuple[Stream, ...]:
        """Labelled and unlabelled images, both with the same weak augmentation."""
        return (
            Stream(name="labelled", source="labelled", pipeline=augment, labels=OWN_LABEL),
            Stream(name="unlabelled", source="unlabelled", pipeline=augment),
        )

    def teacher_epoch(self) -> int:
        """First epoch with a teacher, which looks at unlabelled images."""
        return 0

    def semi_supervised(self, clock: Clock) -> bool:
        """Whether this step has a teacher and looks at unlabelled images."""
        return clock.epoch >= self.teacher_epoch()

    def copies_student(self, clock: Clock) -> bool:
        """Whether the teacher becomes the student before this step."""
        return clock.epoch == self.teacher_epoch() and clock.step == 0

    def copies_statistics(self) -> bool:
        """Whether such a copy takes BatchNorm's running statistics along."""
        return True

    def teacher_decay(self, clock: Clock) -> float:
        """EMA decay of this step: a plain average at first, from 0 up to ``ema_decay``."""
        return min(1 - 1 / steps_from(self.teacher_epoch(), clock), self.ema_decay)

    def update_decay(self, clock: Clock) -> float:
        """Decay of the update after this step: 0 where the step began with a copy of the student, else the EMA's."""
        return 0.0 if self.copies_student(clock) else self.teacher_decay(clock)


def steps_from(epoch: int, clock: Clock) -> int:
    """Return the number of steps from the start of ``epoch`` up to this one, from 1."""
    return clock.iteration - clock.iterations_per_epoch * epoch + 1


def percent_kept(drop_percent: float, clock: Clock) -> float:
    """Return the share of pixels that keep their pseudo-label, in percent; ``drop_percent`` are kept at first, all at the end."""
    return 100 - (100 - drop_percent) * (1 - clock.epoch / clock.epochs)
