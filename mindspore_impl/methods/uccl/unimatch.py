"""UniMatch v1 in MindSpore; the PyTorch file of the same name mirrors this one.

    L = (L_x + L_s1 / 4 + L_s2 / 4 + L_fp / 2) / 2

L_x: cross entropy or OHEM of the labelled images. L_s1, L_s2: cross entropy of two CutMixed strong views against the labels of
the weak view (train mode) and, inside the box, of its partner (eval mode), where they are certain. L_fp: the same labels for
the weak view with dropped features.

Source: ``unimatch.py`` of LiheYoung/UniMatch.
"""

from __future__ import annotations

from mindspore import Tensor

from mindspore_impl.methods.uccl.weak_to_strong import Inputs, Outputs, PseudoLabels, WeakToStrong


class UniMatch(WeakToStrong):
    """Two strong views and feature dropout."""

    def weak_pass(self, inputs: Inputs) -> Outputs:
        """Labelled and weak images pass together, clean and perturbed."""
        return self.perturbed_pass("weak", self.together(inputs.images, inputs.views.weak), inputs)

    def strong_pass(self, inputs: Inputs) -> Outputs:
        """Both strong views pass together."""
        strong = self.together(inputs.views.mixed_strong(0), inputs.views.mixed_strong(1))
        return self.forward("student", strong, inputs.clock, "strong")

    def weak_terms(self, outputs: Outputs, inputs: Inputs, weak_labels: PseudoLabels) -> dict[str, Tensor]:
        """See the formula."""
        confidence, label = weak_labels
        perturbed = outputs["logits"][-len(inputs.views.weak) :]
        return {
            "sup": self.supervised({"logits": outputs["logits"]}, inputs.labels) / 2,
            "feature": self.consistency(perturbed, label, confidence, inputs.views.ignore) / 4,
        }

    def strong_terms(self, outputs: Outputs, inputs: Inputs, weak_labels: PseudoLabels) -> dict[str, Tensor]:
        """See the formula."""
        return {"strong": sum(self.strong_losses(outputs["logits"], inputs.views, weak_labels, inputs.partner)) / 8}
