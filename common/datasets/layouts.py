"""Where a data set's files lie, layout by layout: the official downloads and the rearranged copies of CPS and USRN.

A file may have several places, the usual one first. ``{id}`` is the image id, ``{part}`` ``train`` or ``val``, ``{city}``
what stands before the first underscore of a Cityscapes id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.config.schema import FileDatasetConfig, Folders
from common.images.picture import SUFFIXES, is_picture_name

Part = Literal["train", "val"]
Encoding = Literal["index", "cityscapes_ids"]

OFFICIAL_IMAGE = "leftImg8bit/{part}/{city}/{id}_leftImg8bit.png"
OFFICIAL_LABEL = "gtFine/{part}/{city}/{id}_gtFine_{kind}.png"
EXTRA = ("leftImg8bit/train_extra/{city}/{id}_leftImg8bit.png",)
"""Cityscapes' 19,998 coarsely annotated images, which can serve as unlabelled ones."""


@dataclass(frozen=True)
class Places:
    """Templates of image and label files by part; a label's ``{kind}`` is ``labelTrainIds`` or ``labelIds``."""

    image: dict[Part, tuple[str, ...]]
    label: dict[Part, tuple[str, ...]]


FIXED: dict[str, Places] = {
    "cityscapes": Places(
        image={"train": (OFFICIAL_IMAGE, *EXTRA), "val": (OFFICIAL_IMAGE,)},
        label={"train": (OFFICIAL_LABEL,), "val": (OFFICIAL_LABEL,)},
    ),
    "cityscapes_cps": Places(
        image={"train": ("images/{part}/{id}.png", "images/train_extra/{id}.png"), "val": ("images/{part}/{id}.png",)},
        label=dict.fromkeys(("train", "val"), ("segmentation/{part}/{id}_gtFine.png",)),
    ),
    "cityscapes_usrn": Places(
        image={"train": ("images/{part}/{id}_leftImg8bit.png",), "val": (OFFICIAL_IMAGE,)},
        label={"train": ("segmentation/{part}/{id}_gtFine_{kind}.png",), "val": (OFFICIAL_LABEL,)},
    ),
    "voc_cps": Places(
        image={"train": ("train_aug/image/{id}.jpg",), "val": ("val/image/{id}.jpg",)},
        label={"train": ("train_aug/label/{id}.png",), "val": ("val/label/{id}.png",)},
    ),
}
"""Layouts of :class:`common.config.schema.FixedFolders`."""

KINDS: dict[str, Encoding] = {"labelTrainIds": "index", "labelIds": "cityscapes_ids"}
"""How the pixels of Cityscapes' two kinds of label files are read; ``auto`` prefers the first that is there."""


def image_places(config: FileDatasetConfig, root: Path, image_id: str, part: Part) -> list[Path]:
    """Return where the image of an id may lie, the usual place first."""
    if isinstance(config, Folders):
        return [root / config.image_dir / f"{image_id}{config.image_suffix}"]
    return [root / _fill(template, image_id, part) for template in FIXED[config.layout].image[part]]


def unusual_places(config: Folders, usual: Path, suffix: str, formats: Sequence[str]) -> list[Path]:
    """Return where a file is looked for if it is not in its ``usual`` place.

    ``suffix`` is what follows the id there. These are the same name with the suffix in another case, or, where images and
    labels lie apart, with that of one of ``formats``.
    """
    beginning, _, ending = suffix.rpartition(".")
    if f".{ending}".lower() not in SUFFIXES:
        return []
    apart = Path(config.image_dir) != Path(config.label_dir)
    stem = f"{usual.name.removesuffix(suffix)}{beginning}"
    endings = [f".{ending}".lower(), *(formats if apart else ())]
    names = dict.fromkeys(f"{stem}{form}" for end in endings for form in (end, end.upper()))
    return [usual.with_name(name) for name in names if name != usual.name]


def label_places(config: FileDatasetConfig, root: Path, image_id: str, part: Part) -> list[tuple[Path, Encoding]]:
    """Return where the label of an id may lie and how its pixels are to be read, the usual place first."""
    if isinstance(config, Folders):
        encoding: Encoding = "cityscapes_ids" if config.label_encoding == "cityscapes_ids" else "index"
        folders = [config.label_dir, *filter(None, [config.extra_label_dir])]
        return [(root / folder / f"{image_id}{config.label_suffix}", encoding) for folder in folders]
    places = []
    for template in FIXED[config.layout].label[part]:
        if "{kind}" not in template:
            # A copy without the kind in its name holds train ids, unless the user says otherwise.
            encoding = "cityscapes_ids" if config.label_encoding == "cityscapes_ids" else "index"
            places.append((root / _fill(template, image_id, part), encoding))
            continue
        for kind, encoding in KINDS.items():
            if config.label_encoding in ("auto", encoding):
                places.append((root / _fill(template, image_id, part, kind), encoding))
    return places


def listed_by_folder(config: FileDatasetConfig, root: Path, part: Part) -> list[str] | None:
    """Return the sorted ids of the images in the folder of ``part``; None for layouts that cannot be listed so."""
    if not config.layout.startswith("cityscapes"):
        return None
    template = FIXED[config.layout].image[part][0]
    pattern = template.format(part=part, city="*", id="*")
    suffix = template.rpartition("{id}")[2]
    return sorted({path.name.removesuffix(suffix) for path in root.glob(pattern) if is_picture_name(path)})


def other_layouts(config: FileDatasetConfig, root: Path, image_id: str, part: Part) -> Iterator[str]:
    """Yield the other layouts of the same data set in which the image of an id is there."""
    family = config.layout.partition("_")[0]
    for layout, places in FIXED.items():
        if layout != config.layout and layout.partition("_")[0] == family:
            candidates = (root / _fill(template, image_id, part) for template in places.image[part])
            if any(path.is_file() for path in candidates):
                yield layout
    if config.layout == "voc_cps" and (root / Folders.image_dir / f"{image_id}{Folders.image_suffix}").is_file():
        yield "voc"


def _fill(template: str, image_id: str, part: Part, kind: str = "") -> str:
    return template.format(id=image_id, part=part, city=image_id.partition("_")[0], kind=kind)
