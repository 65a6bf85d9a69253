"""UniMatch v1 in MindSpore; the PyTorch file of the same name mirrors this one.

    L = (L_x + L_s1 / 4 + L_s2 / 4 + L_fp / 2) / 2

L_x: cross entropy or OHEM of the labelled images. L_s1, L_s2: cross entropy of two CutMixed strong views against the labels of
the weak view (train mode) and, inside the box, of its partner (eval mode), where they are certain. L_fp: the same labels for
the weak view with dropped features.

Source: ``specs/uccl.md`` section 4.3 and appendix B (LiheYoung/UniMatch ``unimatch.py``).
"""

from __future__ import annotations

from mindspore import Tensor

from mindspore_impl.methods.uccl.weak_to_strong import Inputs, Passed, WeakToStrong


class UniMatch(WeakToStrong):
    """Two strong views and feature dropout."""

    def run_passes(self, inputs: Inputs) -> Passed:
        """Labelled and weak images pass together, clean and perturbed, then both strong views."""
        views = inputs.views
        weak = self.perturbed_pass("weak", self.together(inputs.images, views.weak), inputs)
        strong = self.together(views.mixed_strong(0), views.mixed_strong(1))
        return {"weak": weak, "strong": self.forward("student", strong, inputs.clock, "strong")}

    def terms(self, passed: Passed, inputs: Inputs) -> tuple[dict[str, Tensor], Tensor]:
        """See the formula."""
        views, count, logits = inputs.views, len(inputs.images), passed["weak"]["logits"]
        both = count + len(views.weak)
        own = self.pseudo_labels(logits[count:both], views)
        first, second = self.strong_losses(passed["strong"]["logits"], views, own, inputs.partner)
        confidence, label = own
        feature = self.consistency(logits[both + count :], label, confidence, views.ignore)
        losses = {
            "sup": self.supervised({"logits": logits}, inputs.labels) / 2,
            "strong": (first + second) / 8,
            "feature": feature / 4,
        }
        return losses, self.certain(own, views)
