"""USRN's subclasses: how many each class has, their ids, and label images of them on disk.

Ids are laid out class by class: class c has ids o_c .. o_c + K_c - 1 with o_c = K_0 + ... + K_{c-1}; 255 is ignored. Beside
the label images lies ``subclasses.json``, which says for which split and from which numbers K_c they were made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image

from common.arrays import Size
from common.config.schema import MOST_SUBCLASSES, DatasetConfig
from common.datasets.file_dataset import Dataset
from common.errors import UserError
from common.files import atomic_path, read_json, write_json_atomic
from common.images.picture import read_indices

DESCRIPTION = "subclasses.json"


def offsets(counts: Sequence[int]) -> np.ndarray:
    """Return the id of every class's first subclass, int64 ``[C]``."""
    return np.cumsum([0, *counts[:-1]])


def parent_table(counts: Sequence[int]) -> np.ndarray:
    """Return uint8 ``[256]``: the class of every subclass id; other values, such as 255, stay what they are."""
    table = np.arange(256, dtype=np.uint8)
    table[: sum(counts)] = np.repeat(np.arange(len(counts)), counts)
    return table


def check_counts(counts: Sequence[int]) -> None:
    """Raise :class:`ValueError` unless every class has a subclass and the ids fit into 8 bits."""
    if min(counts, default=1) < 1:
        raise ValueError(f"subclass_counts = {list(counts)}: every class needs at least one subclass")
    if sum(counts) > MOST_SUBCLASSES:
        raise ValueError(f"{sum(counts)} subclasses; at most {MOST_SUBCLASSES} fit into 8-bit label images beside 255")


def counts_by_share(pixels: Sequence[int], share: float) -> tuple[int, ...]:
    """Return K_c = ceil(N_c / u), at least 1, with u = ``share`` of all labelled pixels; N_c are those of class c.

    The rule for splits without published numbers. Raises :class:`UserError` where the ids do not fit.
    """
    unit = share * sum(pixels)
    # A count of exactly n units must not become n + 1 by rounding.
    counts = tuple(max(1, int(np.ceil(number / unit * (1 - 1e-12)))) if unit else 1 for number in pixels)
    try:
        check_counts(counts)
    except ValueError as error:
        raise UserError(f"method.subclass_share = {share} gives {error}; raise it") from None
    return counts


def file_stem(dataset: DatasetConfig, image_id: str) -> str:
    """Return the name, without suffix, of an image's feature file and subclass label: that of its image file."""
    return f"{image_id}_leftImg8bit" if dataset.layout == "cityscapes" else image_id


def write_subclass_image(path: Path, ids: np.ndarray) -> None:
    """Write subclass ids uint8 ``[H,W]`` as an 8-bit grey PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        Image.fromarray(ids).save(temporary, format="PNG")


def read_subclass_image(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Return uint8 ``[H,W]``; raises :class:`UserError` if it is missing, damaged, no image of ids or not of ``shape``."""
    if not path.is_file():
        raise UserError(f"subclass label {path} does not exist; make the subclass labels of this split")
    try:
        ids = read_indices(path, "subclass label")
    except UserError as error:
        raise UserError(f"{error}, or make the subclass labels again") from None
    if ids.dtype != np.uint8 or ids.shape != tuple(shape):
        raise UserError(
            f"subclass label {path} is {ids.shape[1]}x{ids.shape[0]} of {ids.dtype}, not {shape[1]}x{shape[0]} of 8 bits; "
            "make the subclass labels again"
        )
    return ids


@dataclass(frozen=True)
class LabelFolder:
    """Subclass labels of a folder as a source of a stream's label images (:class:`common.methods.interface.LabelSource`)."""

    folder: str

    def label(self, dataset: Dataset, image_id: str, size: Size) -> np.ndarray:
        """Return the subclass ids of an image, uint8 ``[H,W]``; raises as :func:`read_subclass_image`."""
        path = Path(self.folder) / f"{file_stem(dataset.config, image_id)}.png"
        return read_subclass_image(path, size)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What ``subclasses.json`` says of the label images beside it; ``digest`` is that of the images (:func:`digest`)."""

    dataset: str
    split: str
    split_digest: str
    counts: tuple[int, ...]
    rule: str
    seed: int
    quantise: str
    sample: int | None
    checkpoint_sha256: str
    images: int
    digest: str

    def write(self, folder: Path) -> None:
        """Write it into ``folder``."""
        write_json_atomic(folder / DESCRIPTION, asdict(self))


def read_description(folder: Path, command: str) -> Description:
    """Return what lies in ``folder``; raises :class:`UserError` naming ``command``, which makes subclass labels."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(f"no subclass labels in {folder} ({DESCRIPTION} is missing); make them: {command}")
    try:
        content = read_json(path)
        content["counts"] = tuple(content["counts"])
        return Description(**{field.name: content[field.name] for field in fields(Description)})
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged; make the subclass labels again: {command}") from None


def digest(paths: Iterable[Path]) -> str:
    """Return the SHA-256 over names and contents of label images in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
