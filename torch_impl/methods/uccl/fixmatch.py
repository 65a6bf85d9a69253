"""FixMatch in PyTorch; the MindSpore file of the same name mirrors this one.

    L = (L_x + L_s) / 2

L_x: cross entropy or OHEM of the labelled images. L_s: cross entropy of one CutMixed strong view against the labels of the weak
view (train mode) and, inside the box, of its partner (eval mode), where they are certain.

Source: ``specs/uccl.md`` appendix A (LiheYoung/UniMatch ``fixmatch.py``).
"""

from __future__ import annotations

from torch import Tensor

from torch_impl.methods.uccl.weak_to_strong import Inputs, Passed, WeakToStrong


class FixMatch(WeakToStrong):
    """One strong view."""

    def run_passes(self, inputs: Inputs) -> Passed:
        """Labelled and weak images pass together, then the strong view."""
        views, clock = inputs.views, inputs.clock
        weak = self.forward("student", self.together(inputs.images, views.weak), clock, "weak")
        return {"weak": weak, "strong": self.forward("student", views.mixed_strong(0), clock, "strong")}

    def terms(self, passed: Passed, inputs: Inputs) -> tuple[dict[str, Tensor], Tensor]:
        """See the formula."""
        views, weak = inputs.views, passed["weak"]
        own = self.pseudo_labels(weak["logits"][len(inputs.images) :], views)
        (loss,) = self.strong_losses(passed["strong"]["logits"], views, own, inputs.partner)
        return {"sup": self.supervised(weak, inputs.labels) / 2, "strong": loss / 2}, self.certain(own, views)
