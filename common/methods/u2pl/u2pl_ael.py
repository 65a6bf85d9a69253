"""U2PL with AEL: settings, host-side draws and per-class banks (``train.py`` of ``with_AEL``), shared by both frameworks.

AEL (adaptive equalisation learning) lets classes that the student does badly be pasted, mixed in and trained more often.
What it has in common with U2PL is in ``common/methods/u2pl/u2pl.py``. ``preset: authors`` is what the released program (branch
``with_AEL``) computes, ``fixed`` what was meant; every switch can be set alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import cv2
import numpy as np

from common.arrays import Box
from common.config.strict import ranged
from common.images.mixing import box_mask
from common.methods.interface import OWN_LABEL, Clock, Stream
from common.methods.u2pl.augment import WeakCropAndPaste
from common.methods.u2pl.u2pl import CONTRASTIVE_PRESETS, ContrastiveDraws, ContrastiveStepDraws, TeacherBankSettings
from common.rng import generator

KEPT_OF = 2
"""Of so many loaded unlabelled images one is kept."""


@dataclass(frozen=True, kw_only=True)
class U2PLAELSettings(TeacherBankSettings):
    """Settings of U2PL with AEL; defaults are the authors' for Cityscapes.

    ``loss_scale`` multiplies every term: the authors divide the losses by the number of processes W and average the
    gradients once more, which comes to 1/W. ``contrastive.weight`` is relative to the other terms (0.1/W).

    ``drop``: the released program drops the pixels of *lowest* entropy from the unlabelled images' loss, the paper those of
    highest. ``contrastive_pixels``: the released contrastive term sees only the pixels that were not dropped, U2PL's
    own all of them. Before ``consistency_start_epoch`` the consistency terms count nothing. ``paste_excluded`` are the
    classes that are never pasted; ``*_power`` are the exponents of 1 - confidence in the probabilities of the classes; areas
    are shares of the crop.
    """

    augment: ClassVar = WeakCropAndPaste

    name: Literal["u2pl_ael"] = "u2pl_ael"
    drop: Literal["auto", "low", "high"] = "auto"
    contrastive_pixels: Literal["auto", "kept", "all"] = "auto"
    contrastive_start_epoch: int = ranged(20, low=0)
    loss_scale: float = ranged(1.0, low=0.0)
    consistency_start_epoch: int = ranged(0, low=0)
    consistency_weight: float = ranged(1.0, low=0.0)
    confidence_gamma: float = ranged(2.0, low=0.0)
    sampling: bool = True
    sampling_gamma: float = ranged(1.0, low=0.0)
    confidence_momentum: float = ranged(0.999, low=0.0, high=1.0)
    paste_probability: float = ranged(0.5, low=0.0, high=1.0)
    paste_classes: int = ranged(3, low=1)
    paste_excluded: tuple[int, ...] = ranged((0, 1, 2, 8, 10), low=0)
    paste_power: float = ranged(0.5, low=0.0)
    partner_power: float = ranged(1.0, low=0.0)
    component_area: float = ranged(0.005, low=0.0, high=1.0)
    coverage_area: float = ranged(0.01, low=0.0, high=1.0)

    presets: ClassVar = {
        "authors": {"contrastive": CONTRASTIVE_PRESETS["authors"], "drop": "low", "contrastive_pixels": "kept"},
        "fixed": {"contrastive": CONTRASTIVE_PRESETS["fixed"], "drop": "high", "contrastive_pixels": "all"},
    }

    def streams(self, augment: WeakCropAndPaste) -> tuple[Stream, ...]:
        """Labelled images, for some of them another one to paste from, and one of every two unlabelled images."""
        return (
            Stream(name="labelled", source="labelled", pipeline=augment, labels=OWN_LABEL),
            Stream(
                name="paste", source="labelled", pipeline=augment.paste, labels=OWN_LABEL, order="uniform",
                probability=self.paste_probability,
            ),
            Stream(name="unlabelled", source="unlabelled", pipeline=augment, one_of=KEPT_OF),
        )  # fmt: skip

    def warnings(self, classes: int) -> list[str]:
        """Those of U2PL, and classes excluded from copy-paste that do not fit the data set."""
        excluded = set(self.paste_excluded)
        lines, where = super().warnings(classes), f"warning: method.paste_excluded = {sorted(excluded)}"
        if unknown := sorted(index for index in excluded if index >= classes):
            lines.append(f"{where}: there is no class {unknown[0]} among {classes}; name ids below {classes}")
        if excluded >= set(range(classes)):
            lines.append(f"{where} leaves no class to paste, so nothing is pasted; exclude frequent classes only")
        return lines

    def copies_student(self, clock: Clock) -> bool:
        """Never: the teacher follows from the first step on, in which it still has values of its own."""
        return False

    def consistency(self, clock: Clock) -> float:
        """Weight of the consistency terms in this step."""
        return self.consistency_weight if clock.epoch >= self.consistency_start_epoch else 0.0

    def contrastive_epoch(self) -> int:
        """First epoch with the contrastive term."""
        return self.contrastive_start_epoch

    def entropy_percent(self, clock: Clock) -> float:
        """Percentage of the contrastive masks; it does not fall as U2PL's does."""
        return self.contrastive.low_entropy_threshold


def class_probabilities(confidence: np.ndarray, power: float) -> np.ndarray:
    """Return softmax((1 - confidence) ** power), float64 ``[K]``: the less sure a class, the likelier."""
    exponentials = np.exp(np.maximum(1 - confidence.astype(np.float64), 0) ** power)
    return exponentials / exponentials.sum()


def images_with(coverage: np.ndarray, category: int) -> np.ndarray:
    """Return the positions of the images that show ``category``, of all images if none is known to (``[K,N]`` -> ``[n]``)."""
    known = coverage[category].nonzero()[0]
    return known if len(known) else np.arange(coverage.shape[1])


def covered_classes(labels: np.ndarray, classes: int, area: float) -> np.ndarray:
    """Return uint8 ``[K]``: 1 for classes with at least ``area`` pixels in the class map ``[H,W]``."""
    return (np.bincount(labels.ravel(), minlength=classes) >= area).astype(np.uint8)


def keep_thresholds(confidence: np.ndarray, gamma: float) -> np.ndarray:
    """Return float32 ``[K]``: a pixel of a class takes part where its uniform number exceeds the class's entry.

    1 - ((1 - c) / max(1 - c)) ** gamma: always for the class of least confidence, the rarer the surer a class.
    """
    doubt = 1 - confidence
    return (1 - (doubt / np.maximum(doubt.max(), np.float32(1e-12))) ** gamma).astype(np.float32)


def moved_average(bank: np.ndarray, values: np.ndarray, momentum: float) -> np.ndarray:
    """Return momentum * bank + (1 - momentum) * values, float32."""
    return (momentum * bank + (1 - momentum) * values).astype(np.float32)


class ClassBanks:
    """What the run has learnt about its classes: ``confidence`` float32 ``[K]`` and ``coverage`` uint8 ``[K,N]``.

    ``confidence`` is the moving average of the student's probability of a class on its labelled pixels, and falls for a
    class that does not occur; it starts at random in [0, 1). ``coverage`` tells which of the N unlabelled images showed a class
    when the teacher last saw them.
    """

    def __init__(self, classes: int, images: int, seed: int) -> None:
        self.confidence = generator(seed, "ael class confidence").random(classes, np.float32)
        self.coverage = np.zeros((classes, images), np.uint8)

    def update_confidence(self, confidence: np.ndarray, momentum: float) -> None:
        """Move the average towards one step's ``confidence`` ``[K]``, 0 for absent classes."""
        self.confidence = moved_average(self.confidence, confidence, momentum)

    def update_coverage(self, positions: np.ndarray, labels: np.ndarray, area_share: float) -> None:
        """Note which classes the images at ``positions`` ``[n]`` show in their class maps ``[n,H,W]``."""
        self.note_coverage(positions, self.covered(labels, area_share))

    def covered(self, labels: np.ndarray, area_share: float) -> np.ndarray:
        """Return uint8 ``[n,K]``: which classes the class maps ``[n,H,W]`` show."""
        return np.stack([covered_classes(label, len(self.coverage), area_share * label.size) for label in labels])

    def note_coverage(self, positions: np.ndarray, covered: np.ndarray) -> None:
        """Note what the images at ``positions`` ``[n]`` show; of an image that comes twice, the later."""
        for position, classes in zip(positions, covered):
            self.coverage[:, position] = classes

    def state(self) -> dict[str, np.ndarray]:
        """Return both banks by name."""
        return {"class_confidence": self.confidence.copy(), "cutmix_bank": self.coverage.copy()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` returned."""
        self.confidence, self.coverage = state["class_confidence"].copy(), state["cutmix_bank"].copy()


class Draws(ContrastiveDraws, Protocol):
    """The random decisions of one step of U2PL with AEL."""

    def pasted_classes(self, confidence: np.ndarray) -> np.ndarray:
        """Return the ids of the classes that are pasted in this step."""

    def partners(self, banks: ClassBanks, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes ``[count]`` that images are to show, and the positions ``[count]`` of such images."""

    def mix_masks(self, labels: np.ndarray, categories: Sequence[int]) -> np.ndarray:
        """Return bool ``[n,H,W]``, false where the image with the class map ``labels[i]`` comes in."""

    def uniform(self, term: str, shape: tuple[int, int, int]) -> np.ndarray:
        """Return float32 numbers of [0, 1) for every class and pixel, ``[K,H,W]``; ``term`` names the images."""


class StepDraws(ContrastiveStepDraws):
    """Draws of AEL and of the contrastive term from generators keyed by (seed, epoch, step, group)."""

    def __init__(self, settings: U2PLAELSettings, seed: int, clock: Clock, group: int = 0) -> None:
        super().__init__(settings, seed, clock, group)
        self._key = seed, clock.epoch, clock.step, group

    def pasted_classes(self, confidence: np.ndarray) -> np.ndarray:
        """See :class:`Draws`; drawn with replacement, so there may be fewer than ``paste_classes``."""
        allowed = np.setdiff1d(np.arange(len(confidence)), self.settings.paste_excluded)
        if not len(allowed):
            return allowed
        probabilities = class_probabilities(confidence[allowed], self.settings.paste_power)
        return np.unique(self._rng("paste").choice(allowed, self.settings.paste_classes, p=probabilities))

    def partners(self, banks: ClassBanks, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Draws`."""
        rng, probabilities = self._rng("partner"), class_probabilities(banks.confidence, self.settings.partner_power)
        categories = rng.choice(len(probabilities), count, p=probabilities)
        return categories, np.array([rng.choice(images_with(banks.coverage, category)) for category in categories])

    def mix_masks(self, labels: np.ndarray, categories: Sequence[int]) -> np.ndarray:
        """See :class:`Draws`: the box of one large component of the class, else one of half the area anywhere."""
        rng, size = self._rng("box"), labels.shape[1:]
        masks = []
        for label, category in zip(labels, categories):
            boxes = component_boxes(label, category, self.settings.component_area * label.size)
            box = boxes[rng.integers(len(boxes))] if boxes else proportioned_box(size, *rng.random(3))
            masks.append(box_mask(size, box))
        return np.stack(masks)

    def uniform(self, term: str, shape: tuple[int, int, int]) -> np.ndarray:
        """See :class:`Draws`."""
        return self._rng(f"uniform {term}").random(shape, np.float32)

    def _rng(self, purpose: str) -> np.random.Generator:
        seed, *key = self._key
        return generator(seed, f"ael {purpose}", *key)


def proportioned_box(size: tuple[int, int], u: float, v_top: float, v_left: float) -> Box:
    """The box of half the area with height share 0.5**u and width share 0.5**(1-u); ``v_*`` of [0, 1] place it.

    Lengths and positions are rounded half to even.
    """
    height, width = (round(0.5**power * side) for power, side in zip((u, 1 - u), size))
    top, left = (round(v * (side - length)) for v, side, length in zip((v_top, v_left), size, (height, width)))
    return Box(top, left, top + height, left + width)


def component_boxes(labels: np.ndarray, category: int, area: float) -> list[Box]:
    """Return the bounding boxes of the 8-connected components of ``category`` in ``labels`` with more than ``area`` pixels."""
    member = (labels == category).astype(np.uint8)
    _, _, components, _ = cv2.connectedComponentsWithStats(member, connectivity=8)
    large = components[1:][components[1:, cv2.CC_STAT_AREA] > area].tolist()
    return [Box(top, left, top + height, left + width) for left, top, width, height, _ in large]


def paste_classes(
    images: np.ndarray, labels: np.ndarray, other: np.ndarray, other_labels: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``images`` ``[B,3,H,W]`` and ``labels`` ``[B,H,W]`` under the pixels of ``classes`` in the other images.

    Image i receives from image i of ``other``; a label map of nothing but 0 stands for no image.
    """
    pasted = np.isin(other_labels, classes) & other_labels.any((1, 2), keepdims=True)
    return np.where(pasted[:, None], other, images), np.where(pasted, other_labels, labels)
