"""Mean Teacher in PyTorch; the MindSpore file of the same name mirrors this one.

    L = L_sup + w * mean over pixels of sum over classes of (softmax(student(x)) - softmax(teacher(x)))^2

x: labelled and unlabelled images, weakly augmented, at the size of the logits. Student and teacher differ in their weights and
dropout masks; both are in train mode, and the teacher's weights are a moving average of the student's. w grows during the ramp-up.

Source: Tarvainen and Valpola, "Mean teachers are better role models", NIPS 2017, arXiv 1703.01780, section 2 (MSE consistency on
all images, EMA) and 3.1 (ramp-up). The sum over classes, where the paper has the mean, is this project's: so w needs no K.
"""

from __future__ import annotations

from torch import Tensor

from common.methods.interface import Batch, Clock
from torch_impl.methods.base import Outputs, TeacherMethod


def consistency_loss(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Return the squared distance of softmax(``logits``) from the teacher's ``probabilities``, both ``[B,K,h,w]``."""
    return (logits.softmax(1) - probabilities).square().sum(1).mean()


class MeanTeacher(TeacherMethod):
    """A student that is to agree with the moving average of itself."""

    def step(self, batch: Batch, clock: Clock) -> dict[str, float]:
        """Run one optimiser step and return the loss terms as they enter the sum."""
        images, labels = self.labelled(batch)
        images = self.together(images, self.session.tensor(batch["unlabelled"]["image"]))
        self.copy_student(clock)
        probabilities = self.forward("teacher", images, clock, wanted=("logits",))["logits"].softmax(1)

        def terms(outputs: Outputs, labels: Tensor, probabilities: Tensor) -> dict[str, Tensor]:
            consistency = consistency_loss(outputs["logits"], probabilities)
            return {
                "sup": self.supervised(outputs, labels),
                "unsup": self.settings.consistency_weight(clock) * consistency,
            }

        losses = self.optimizer.differentiate(
            lambda: self.groups.mean(terms, self.forward("student", images, clock), labels, probabilities)
        )
        losses = self.apply_gradients(losses, batch, clock)
        self.move_teacher(clock)
        return losses
