"""UCCL: settings, presets and switches (the authors' ``UCCL.py``), shared by both frameworks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from common.config.strict import ranged
from common.methods.uccl.weak_to_strong import AUTHORS_CUTMIX, FIXED_CUTMIX, WeakToStrongSettings


@dataclass(frozen=True, kw_only=True)
class SBUSettings:
    """Semantic backpropagation update (the authors' ``cal_loss_divergence``).

    ``support``: ``all`` spreads the weights over all pixels as released, ``uncertain`` over the uncertain ones of a class only.
    ``conf_thresh``: pixels up to this confidence are uncertain; null follows the preset: the method's ``conf_thresh``
    (``authors``) or 0.95 (``fixed``).
    """

    support: Literal["auto", "all", "uncertain"] = "auto"
    conf_thresh: float | None = ranged(None, low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class CKRSettings:
    """Class-aware knowledge regulation (the authors' ``calculate_region``).

    ``ignored``: padding takes part with the released program's scrambled rows (``rows``) or not at all (``exclude``).
    ``detach_weights``: no gradient to the weak logits that weight the positions.
    """

    ignored: Literal["auto", "rows", "exclude"] = "auto"
    detach_weights: Literal["auto", False, True] = "auto"


@dataclass(frozen=True, kw_only=True)
class UCCLSettings(WeakToStrongSettings):
    """Settings of UCCL; defaults are the authors' for VOC.

    ``alpha_sbu`` and ``beta_ckr`` weight the two losses. ``bn_extra_passes``: the two passes of which the released program uses
    nothing but their effect on BatchNorm's running statistics. ``padding``: where SBU and CKR see padding, in the ignore map
    resized to the decoder's size: values ``equal`` to 255, of which rounding takes some away at some sizes (as released; none
    at crops of 4 n + 1), or ``above`` 254.99.
    """

    name: Literal["uccl"] = "uccl"
    alpha_sbu: float = ranged(0.015, low=0.0)
    beta_ckr: float = ranged(0.02, low=0.0)
    sbu: SBUSettings = SBUSettings()
    ckr: CKRSettings = CKRSettings()
    bn_extra_passes: Literal["auto", False, True] = "auto"
    padding: Literal["auto", "equal", "above"] = "auto"

    presets: ClassVar = {
        "authors": {
            "cutmix": AUTHORS_CUTMIX,
            "sbu": {"support": "all", "conf_thresh": lambda settings: settings.conf_thresh},
            "ckr": {"ignored": "rows", "detach_weights": False},
            "bn_extra_passes": True,
            "padding": "equal",
        },
        "fixed": {
            "cutmix": FIXED_CUTMIX,
            "sbu": {"support": "uncertain", "conf_thresh": 0.95},
            "ckr": {"ignored": "exclude", "detach_weights": True},
            "bn_extra_passes": False,
            "padding": "above",
        },
    }

    def warnings(self, classes: int) -> list[str]:
        """What is probably not meant, one line each."""
        threshold = self.sbu.conf_thresh
        if not self.alpha_sbu or threshold >= 1 / classes:
            return []
        return [
            f"warning: no pixel of {classes} classes is as uncertain as {threshold:g}, so SBU stays 0 (as in the released "
            "Cityscapes settings); method.sbu.conf_thresh=0.95 turns it on"
        ]
