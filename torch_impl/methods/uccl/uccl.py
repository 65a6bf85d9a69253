"""UCCL in PyTorch; the MindSpore file of the same name mirrors this one.

    L = (L_x + L_s1 / 4 + L_s2 / 4 + L_fp / 2) / 2  +  alpha_sbu * mean(SBU_1, SBU_2)  +  beta_ckr * mean(CKR_1, CKR_2)

The bracket is UniMatch. For each strong view, SBU and CKR compare it with the weak view under the same CutMix box, at decoder
resolution: SBU is a cross entropy against the weak arg-max, weighted by the views' feature similarity; CKR pulls the class-wise
mean features together.

Source: the authors' ``UCCL.py``; presets and switches: ``common/methods/uccl/uccl.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from torch_impl.methods.uccl.ckr_sbu import class_knowledge, cosine, ignored_at, semantic_update
from torch_impl.methods.uccl.unimatch import UniMatch
from torch_impl.methods.uccl.weak_to_strong import Inputs, Outputs, PseudoLabels, Views


class UCCL(UniMatch):
    """UniMatch with SBU and CKR."""

    def parts(self, inputs: Inputs, decided: list[PseudoLabels]) -> Sequence[Callable[[], dict[str, Tensor]]]:
        """One part: SBU and CKR compare two passes. That over mixed weak images comes first."""

        def terms() -> dict[str, Tensor]:
            weak = self._context_passes(inputs)
            losses = self.learn_weak(inputs, decided)
            strong = self.strong_pass(inputs)
            context = self.groups.mean(self._context_terms, weak, strong, inputs)
            return losses | self.learn_strong(strong, inputs, decided) | context

        return (terms,)

    def _context_passes(self, inputs: Inputs) -> dict[int, Outputs]:
        """Run the passes over mixed weak images, by view, and the released program's two whose outputs nobody reads."""
        views, clock, settings = inputs.views, inputs.clock, self.settings
        passed = {
            view: self.forward("student", views.mixed_weak(view), clock, f"weak{view + 1}", gradient=not self._detached)
            for view in range(2)
        }
        if settings.bn_extra_passes:
            self.forward("student", views.weak, clock, "extra1", gradient=False, wanted=())
            self.forward("student", views.strong[0], clock, "extra2", gradient=False, wanted=())
        return passed

    @property
    def _detached(self) -> bool:
        """Whether CKR gives no gradient to the passes over mixed weak images."""
        return self.settings.beta_ckr == 0 or self.settings.ckr.detach_weights

    def _context_terms(self, weak: dict[int, Outputs], strong: Outputs, inputs: Inputs) -> dict[str, Tensor]:
        """Return ``sbu`` and ``ckr`` of a group; see the formula."""
        sbu, ckr = zip(*(self._context(view, outputs, strong, inputs.views) for view, outputs in weak.items()))
        return {
            "sbu": self.settings.alpha_sbu * sum(sbu) / 2,
            "ckr": self.settings.beta_ckr * sum(ckr) / 2,
        }

    def _context(self, view: int, weak: Outputs, strong: Outputs, views: Views) -> tuple[Tensor, Tensor]:
        """Return SBU and CKR of one view, unweighted; ``strong`` holds both views, one after the other."""
        settings = self.settings
        feature, logits = (strong[name].chunk(2)[view] for name in ("decoder", "logits"))
        weak_feature, weak_logits = weak["decoder"].detach(), weak["logits"]
        ignored = ignored_at(views.mixed_ignore(view), logits.shape[2:], settings.padding)
        similarity = cosine(weak_feature, feature, 1)
        threshold, support = settings.sbu.conf_thresh, settings.sbu.support
        sbu = semantic_update(similarity, weak_logits.detach(), logits, ignored, threshold, support)
        mode, detached = settings.ckr.ignored, self._detached
        return sbu, class_knowledge(weak_feature, feature, weak_logits, ignored, mode, detached)
