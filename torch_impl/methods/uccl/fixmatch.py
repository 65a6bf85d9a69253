"""FixMatch in PyTorch; the MindSpore file of the same name mirrors this one.

    L = (L_x + L_s) / 2

L_x: cross entropy or OHEM of the labelled images. L_s: cross entropy of one CutMixed strong view against the labels of the weak
view (train mode) and, inside the box, of its partner (eval mode), where they are certain.

Source: ``fixmatch.py`` of LiheYoung/UniMatch.
"""

from __future__ import annotations

from torch import Tensor

from torch_impl.methods.uccl.weak_to_strong import Inputs, Outputs, PseudoLabels, WeakToStrong


class FixMatch(WeakToStrong):
    """One strong view."""

    def weak_pass(self, inputs: Inputs) -> Outputs:
        """Labelled and weak images pass together."""
        return self.forward("student", self.together(inputs.images, inputs.views.weak), inputs.clock, "weak")

    def strong_pass(self, inputs: Inputs) -> Outputs:
        """The strong view."""
        return self.forward("student", inputs.views.mixed_strong(0), inputs.clock, "strong")

    def weak_terms(self, outputs: Outputs, inputs: Inputs, weak_labels: PseudoLabels) -> dict[str, Tensor]:
        """See the formula."""
        return {"sup": self.supervised(outputs, inputs.labels) / 2}

    def strong_terms(self, outputs: Outputs, inputs: Inputs, weak_labels: PseudoLabels) -> dict[str, Tensor]:
        """See the formula."""
        (loss,) = self.strong_losses(outputs["logits"], inputs.views, weak_labels, inputs.partner)
        return {"strong": loss / 2}
