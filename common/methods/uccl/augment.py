"""Weak base, strong views and CutMix boxes of FixMatch, UniMatch and UCCL (``specs/uccl.md`` section 7).

As in ``augment.py``, drawing is apart from applying. Geometry and colours are computed on 8-bit pictures with Pillow's filters,
as the authors do; pictures are normalised last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from common.arrays import IGNORE, Box
from common.config.schema import AugmentConfig
from common.images.colour import ColourJitter, draw_colour_jitter, gaussian_blur, grey
from common.images.mixing import box_mask
from common.images.normalise import normalise
from common.methods.weak_crop import Labels

JITTER, JITTER_AMOUNTS = 0.8, (0.5, 0.5, 0.5)
"""How likely a colour jitter is, and its brightness, contrast and saturation; the hue is ``augment.strong_hue``."""
BLUR, BLUR_RADIUS = 0.5, (0.1, 2.0)


@dataclass(frozen=True, kw_only=True)
class BaseDraws:
    """Long side of the resized picture, corner of the crop in the padded one, flip."""

    long_side: int
    left: int
    top: int
    flip: bool


@dataclass(frozen=True, kw_only=True)
class StrongDraws:
    """What one strong view decides; None: this operation is left out, or there is no box."""

    jitter: ColourJitter | None
    grey: bool
    blur: float | None
    box: Box | None


def resized(height: int, width: int, long_side: int) -> tuple[int, int]:
    """Return height and width with the long side ``long_side``, the other one rounded half up, at least one pixel."""
    if height > width:
        return long_side, max(int(width * long_side / height + 0.5), 1)
    return max(int(height * long_side / width + 0.5), 1), long_side


def draw_base(height: int, width: int, config: AugmentConfig, rng: np.random.Generator) -> BaseDraws:
    """Draw long side, left, top and flip, in this order; both ends of every range are included."""
    low, high = (int(factor * max(height, width)) for factor in config.resize_range)
    long_side = max(int(rng.integers(low, high + 1)), 1)
    new_height, new_width = resized(height, width, long_side)
    left, top = (int(rng.integers(0, max(side - config.crop, 0) + 1)) for side in (new_width, new_height))
    return BaseDraws(long_side=long_side, left=left, top=top, flip=bool(rng.random() < config.flip))


def draw_strong(config: AugmentConfig, rng: np.random.Generator) -> StrongDraws:
    """Draw one strong view and its CutMix box for a crop of ``config.crop`` pixels a side, in the authors' order."""
    amounts = (*JITTER_AMOUNTS, config.strong_hue)
    jitter = draw_colour_jitter(amounts, rng) if rng.random() < JITTER else None
    is_grey = bool(rng.random() < config.strong_grey)
    blur = float(rng.uniform(*BLUR_RADIUS)) if rng.random() < BLUR else None
    return StrongDraws(jitter=jitter, grey=is_grey, blur=blur, box=draw_area_box(config.crop, rng))


def apply_base(
    image: np.ndarray, label: np.ndarray | None, draws: BaseDraws, config: AugmentConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Resize, pad right and bottom, crop and flip; S = ``config.crop``.

    ``image`` uint8 ``[H,W,3]``, ``label`` uint8 ``[H,W]`` or None. Returns uint8 ``[S,S,3]`` with black padding and uint8
    ``[S,S]``: the label, padded with ``config.pad_label``; without one 0, and 255 in the padding.
    """
    height, width = resized(*image.shape[:2], draws.long_side)
    picture = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    if label is None:
        plane, fill = np.zeros((height, width), np.uint8), IGNORE
    else:
        plane, fill = (
            np.asarray(Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST)),
            config.pad_label,
        )
    picture, plane = _window(picture, draws, config.crop, 0), _window(plane, draws, config.crop, fill)
    return (picture[:, ::-1], plane[:, ::-1]) if draws.flip else (picture, plane)


def _window(plane: np.ndarray, draws: BaseDraws, size: int, fill: int) -> np.ndarray:
    shown = plane[draws.top : draws.top + size, draws.left : draws.left + size]
    margins = [(0, size - side) for side in shown.shape[:2]] + [(0, 0)] * (plane.ndim - 2)
    return np.pad(shown, margins, constant_values=fill)


def apply_strong(picture: np.ndarray, draws: StrongDraws) -> np.ndarray:
    """Return the strong view of a weak base, both uint8 ``[S,S,3]``."""
    picture = np.ascontiguousarray(picture)
    if draws.jitter is not None:
        picture = draws.jitter.apply(picture)
    if draws.grey:
        picture = grey(picture)
    return picture if draws.blur is None else gaussian_blur(picture, draws.blur)


def labelled(
    image: np.ndarray, labels: Labels, config: AugmentConfig, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return ``image`` float32 ``[3,S,S]`` and ``label`` uint8 ``[S,S]``: the weak augmentation alone."""
    picture, label = apply_base(image, labels["label"], draw_base(*image.shape[:2], config, rng), config)
    return {"image": _planes(picture, config), "label": np.ascontiguousarray(label)}


def unlabelled(
    image: np.ndarray, labels: Labels, config: AugmentConfig, rng: np.random.Generator, views: int, partner: bool
) -> dict[str, np.ndarray]:
    """Return the views of one unlabelled image and, with ``partner``, those of its CutMix partner.

    ``weak``, ``strong1`` .. ``strong{views}`` float32 ``[3,S,S]``; ``ignore`` uint8 ``[S,S]``, 255 in the padding, else 0; ``box1``
    .. bool ``[S,S]``, true where the partner is pasted. The authors' partner is the same image with an augmentation of its
    own (``specs/uccl.md`` section 7, "Loaders"), so it is made from the same decoded file: ``mix_weak``, ``mix_strong1`` ..,
    ``mix_ignore``.
    """
    sample = _views(image, config, rng, views, boxes=True)
    if partner:
        other = _views(image, config, rng, views, boxes=False)
        sample |= {f"mix_{name}": value for name, value in other.items()}
    return sample


def _views(
    image: np.ndarray, config: AugmentConfig, rng: np.random.Generator, views: int, boxes: bool
) -> dict[str, np.ndarray]:
    picture, ignore = apply_base(image, None, draw_base(*image.shape[:2], config, rng), config)
    sample = {"weak": _planes(picture, config), "ignore": np.ascontiguousarray(ignore)}
    for view in range(1, views + 1):
        draws = draw_strong(config, rng)
        sample[f"strong{view}"] = _planes(apply_strong(picture, draws), config)
        if boxes:
            sample[f"box{view}"] = inside(config.crop, draws.box)
    return sample


def inside(size: int, box: Box | None) -> np.ndarray:
    """Return bool ``[size,size]``, true in ``box``."""
    return np.zeros((size, size), bool) if box is None else ~box_mask((size, size), box)


def _planes(picture: np.ndarray, config: AugmentConfig) -> np.ndarray:
    return np.ascontiguousarray(normalise(picture, config).transpose(2, 0, 1))


PIPELINES: dict[str, Callable[[np.ndarray, Labels, AugmentConfig, np.random.Generator], dict[str, np.ndarray]]] = {
    "weak_8bit": labelled,
    "one_strong": partial(unlabelled, views=1, partner=False),
    "one_strong_and_partner": partial(unlabelled, views=1, partner=True),
    "two_strong": partial(unlabelled, views=2, partner=False),
    "two_strong_and_partner": partial(unlabelled, views=2, partner=True),
}


def draw_area_box(size: int, rng: np.random.Generator, probability: float = 0.5) -> Box | None:
    """Draw UniMatch's CutMix box in ``size`` x ``size``, or None with 1 - ``probability`` (``specs/uccl.md`` section 7).

    An area of 2 to 40 % of the image; then height / width from 0.3 to 1 / 0.3 and the corner, until the box lies inside.
    """
    if rng.random() > probability:
        return None
    area = rng.uniform(0.02, 0.4) * size * size
    while True:
        ratio = rng.uniform(0.3, 1 / 0.3)
        width, height = int(np.sqrt(area / ratio)), int(np.sqrt(area * ratio))
        left, top = int(rng.integers(0, size)), int(rng.integers(0, size))
        if left + width <= size and top + height <= size:
            return Box(top, left, top + height, left + width)
