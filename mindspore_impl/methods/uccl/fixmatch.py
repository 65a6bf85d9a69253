"""FixMatch in MindSpore; the PyTorch file of the same name mirrors this one.

    L = (L_x + L_s) / 2

L_x: cross entropy or OHEM of the labelled images. L_s: cross entropy of one CutMixed strong view against the labels of the weak
view (train mode) and, inside the box, of its partner (eval mode), where they are certain.

Source: ``specs/uccl.md`` appendix A (LiheYoung/UniMatch ``fixmatch.py``).
"""

from __future__ import annotations

from mindspore import Tensor, ops

from mindspore_impl.methods.uccl.weak_to_strong import Inputs, WeakToStrong


class FixMatch(WeakToStrong):
    """One strong view."""

    def terms(self, inputs: Inputs) -> tuple[dict[str, Tensor], Tensor]:
        """Labelled and weak images pass together, then the strong view."""
        views = inputs.views
        weak = self.forward("student", ops.cat([inputs.images, views.weak]), inputs.clock, "weak")
        strong = self.forward("student", views.mixed_strong(0), inputs.clock, "strong")["logits"]
        own = self.pseudo_labels(weak["logits"][len(inputs.images) :], views)
        (loss,) = self.strong_losses(strong, views, own, inputs.partner)
        return {"sup": self.supervised(weak, inputs.labels) / 2, "strong": loss / 2}, self.certain(own, views)
