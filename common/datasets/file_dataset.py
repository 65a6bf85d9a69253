"""Data sets on disk: which images a list names, where their files lie, and reading them as plain arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, TypeVar, get_args

import cv2
import numpy as np

from common.arrays import IGNORE
from common.config.schema import DatasetConfig, DrawnShapes, FileDatasetConfig, FixedFolders, Folders
from common.datasets.decoded_cache import cached
from common.datasets.layouts import (
    Encoding,
    Part,
    image_places,
    label_places,
    listed_by_folder,
    other_layouts,
    unusual_places,
)
from common.datasets.lists import ListEntry, read_list
from common.datasets.shapes import ShapesDataset
from common.errors import UserError
from common.images.picture import LOSSLESS, SUFFIXES, TURNED, PixelLimit, read_indices, read_rgb, remarks, upright_size
from common.paths import at_home, data_root

CITYSCAPES_TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15,
    31: 16, 32: 17, 33: 18,
}  # fmt: skip
"""Official Cityscapes id to train id; every other id is ignored (cityscapesScripts' ``labels.py``)."""

ListKey = Literal["train_list", "val_list"]
"""The lists of a data set, as :class:`FileDatasetConfig` calls them."""
PARTS: dict[ListKey, Part] = {"train_list": "train", "val_list": "val"}

LINE_RULES: tuple[tuple[Callable[[str], str], str], ...] = (
    (lambda image_id: image_id.rpartition("/")[2], "a path in a list begins below dataset.image_dir, or names it"),
    (lambda image_id: image_id.partition(" ")[0], "a field of a list ends at a tab, or behind the suffix of a picture"),
)
"""Shorter names that a missing image may have been meant by, and why the longer one was read."""

Value = TypeVar("Value")


class Dataset(Protocol):
    """A set of images with labels, read one at a time. Can be pickled for worker processes."""

    config: DatasetConfig

    @property
    def name(self) -> str:
        """Name of the data set, e.g. ``voc``."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; the position is the class id."""

    @property
    def ignored_classes(self) -> frozenset[int]:
        """Classes that no label can show, because the value they would have is ignored."""

    @property
    def train_ids(self) -> tuple[str, ...]:
        """Ids of the training list in its order, each once."""

    @property
    def val_ids(self) -> tuple[str, ...]:
        """Ids of the validation list in its order, each once."""

    def image(self, image_id: str) -> np.ndarray:
        """Return uint8 RGB ``[H,W,3]``; raises :class:`UserError` when the file is missing or damaged."""

    def label(self, image_id: str) -> np.ndarray:
        """Return uint8 ``[H,W]``, class ids and 255 = ignore; raises :class:`UserError` unless it fits the image."""


def open_dataset(config: DatasetConfig) -> Dataset:
    """Return the data set that ``config`` describes; files are looked at when they are first needed."""
    return ShapesDataset(config) if isinstance(config, DrawnShapes) else FileDataset(config)


class FileDataset:
    """Every layout with files (see :class:`FileDatasetConfig`); implements :class:`Dataset`."""

    def __init__(self, config: FileDatasetConfig) -> None:
        self.config = config
        self.name = config.name
        self.classes = config.classes
        self.root = data_root() / at_home(config.root)
        self.more_lists: tuple[Path, ...] = ()
        """Lists whose lines messages name where the data set's own do not name an image."""
        if not 0 <= config.ignore_index <= 255:
            raise UserError(
                f"dataset.ignore_index = {config.ignore_index} of data set {config.name} must lie in 0..255"
            )
        if config.label_encoding in ("cityscapes_ids", "auto") and len(config.classes) != 19:
            raise UserError(
                f"dataset.label_encoding={config.label_encoding} gives 19 classes, but data set {config.name} names "
                f"{len(config.classes)}"
            )

    @property
    def ignored_classes(self) -> frozenset[int]:
        """See :class:`Dataset`."""
        encoding: Encoding = "cityscapes_ids" if self.config.label_encoding == "cityscapes_ids" else "index"
        return frozenset(range(len(self.classes))) - frozenset(self._class_tables[encoding].tolist())

    @cached_property
    def train_ids(self) -> tuple[str, ...]:
        """See :class:`Dataset`."""
        return _unique(self.entries("train_list"))

    @cached_property
    def val_ids(self) -> tuple[str, ...]:
        """See :class:`Dataset`."""
        return _unique(self.entries("val_list"))

    def require_root(self) -> None:
        """Raise :class:`UserError` unless the data folder exists."""
        if not self.root.is_dir():
            raise UserError(
                f"data folder {self.root} of data set {self.name} does not exist; put the data there, "
                "or set the environment variable DATA_ROOT or dataset.root"
            )

    def list_path(self, key: ListKey) -> Path:
        """The file of a list; raises :class:`UserError` when the data folder is missing or the list is not set."""
        self.require_root()
        name = getattr(self.config, key)
        if not name and self.config.layout.startswith("cityscapes"):
            name = f"{PARTS[key]}.txt"
        if not name:
            raise UserError(f"dataset.{key} of data set {self.name} is not set; name a file of image ids")
        return self.root / name

    def entries(self, key: ListKey) -> tuple[ListEntry, ...]:
        """The lines of a list as they are, see :func:`read_list`, or the images of the folder that stands for it."""
        path, part = self.list_path(key), PARTS[key]
        if path.exists():
            return read_list(path, self.config)
        if not getattr(self.config, key):
            ids = listed_by_folder(self.config, self.root, part)
            if ids:
                return tuple(ListEntry(image_id, 0) for image_id in ids)
        raise UserError(
            f"list {path} of data set {self.name} does not exist; put it there, correct the name, or fetch a registered one "
            f"from a copy of the authors' repository: python -m common.splits import {self.name}/{part} PATH"
        )

    def part(self, image_id: str) -> Part:
        """Whether an image belongs to the validation list; only layouts with a folder for each part ask the list."""
        return "val" if isinstance(self.config, FixedFolders) and image_id in self._val_set else "train"

    def image_path(self, image_id: str) -> Path:
        """The image file of an id; it need not exist. Raises :class:`UserError` where two files could be it."""
        usual = _first_file(image_places(self.config, self.root, image_id, self.part(image_id)))
        return self._other_suffix(usual, "image_suffix", SUFFIXES) or usual

    def label_path(self, image_id: str) -> Path:
        """The label file of an id; it need not exist. Raises :class:`UserError` where two files could be it."""
        return self._label_place(image_id)[0]

    def image(self, image_id: str) -> np.ndarray:
        """See :class:`Dataset` and :func:`common.images.picture.read_rgb`."""
        path = self.image_path(image_id)
        return self._kept(path, 3, lambda: self._read(read_rgb, path, "image", image_id))

    def label(self, image_id: str) -> np.ndarray:
        """See :class:`Dataset` and :func:`common.images.picture.read_indices`."""
        path, encoding = self._label_place(image_id)
        values = self._kept(path, 2, lambda: self._read(read_indices, path, "label", image_id))
        label = self._class_ids(values, encoding, path, image_id)
        size = self._read(upright_size, self.image_path(image_id), "image", image_id)
        if label.shape != size:
            tagged = any(TURNED in remarks(file) for file in (path, self.image_path(image_id)))
            hint = "; one carries an orientation tag, remove it if the label was drawn on the stored pixels"
            raise UserError(
                f"label {path} is {label.shape[1]}x{label.shape[0]} pixels but its image is {size[1]}x{size[0]}; "
                f"they must match{hint if tagged else ''}{self.where(image_id)}"
            )
        return label

    def where(self, image_id: str) -> str:
        """Which lines of the data set's lists name an id, as the end of a message; empty if none does."""
        places = self._named_in.get(image_id, [])
        return f" ({', '.join(places)})" if places else ""

    @cached_property
    def _named_in(self) -> dict[str, list[str]]:
        """Where each id is named: in the training and validation lists, or else in ``more_lists``."""
        named: dict[str, list[str]] = {}
        for key in get_args(ListKey):
            with contextlib.suppress(UserError):
                for entry in self.entries(key):
                    if entry.line:
                        named.setdefault(entry.id, []).append(f"line {entry.line} of {self.list_path(key)}")
        more: dict[str, list[str]] = {}
        for path in self.more_lists:
            with contextlib.suppress(UserError):
                for entry in read_list(path, self.config):
                    more.setdefault(entry.id, []).append(f"line {entry.line} of {path}")
        return more | named

    def _label_place(self, image_id: str) -> tuple[Path, Encoding]:
        places = label_places(self.config, self.root, image_id, self.part(image_id))
        there = next((place for place in places if place[0].is_file()), None)
        if there is not None:
            return there
        for usual, encoding in places:
            if path := self._other_suffix(usual, "label_suffix", LOSSLESS):
                return path, encoding
        return places[0]

    def _other_suffix(self, usual: Path, key: str, formats: Sequence[str]) -> Path | None:
        """The one file that ends otherwise than ``usual`` and stands for it where that does not exist; None if there is none.

        ``key`` is the setting that says how ``usual`` ends.
        """
        if usual.is_file() or not isinstance(self.config, Folders):
            return None
        places = unusual_places(self.config, usual, getattr(self.config, key), formats)
        there = [path for path in places if path.is_file()]
        if there and not all(path.samefile(there[0]) for path in there):
            raise UserError(
                f"{usual} does not exist, and both {there[0].name} and {there[1].name} could stand for it; keep one of them"
            )
        return there[0] if there else None

    def _kept(self, path: Path, axes: int, decode: Callable[[], np.ndarray]) -> np.ndarray:
        if not self.config.cache or not path.is_file():
            return decode()
        return cached(data_root() / at_home(self.config.cache) / path.parent.name, path, axes, decode)

    def _read(self, read: Callable[..., Value], path: Path, kind: str, image_id: str) -> Value:
        """Return what ``read`` makes of a file; its error also says which lines name the image."""
        if not path.is_file():
            self.require_root()
            hint = self._missing_hint(path, kind, image_id)
            raise UserError(f"{kind} {path} does not exist{hint}{self.where(image_id)}")
        try:
            return read(path, kind, PixelLimit(self.config.max_pixels, "dataset.max_pixels"))
        except UserError as error:
            raise UserError(f"{error}{self.where(image_id)}") from None

    @cached_property
    def _val_set(self) -> frozenset[str]:
        # Without a validation list there is nothing to tell apart; whoever needs the list gets its error.
        with contextlib.suppress(UserError):
            return frozenset(self.val_ids)
        return frozenset()

    def _missing_hint(self, path: Path, kind: str, image_id: str) -> str:
        other = Path(str(path).replace("_labelTrainIds.png", "_labelIds.png"))
        if kind == "label" and other != path and other.is_file():
            return ", but its labelIds file does; set dataset.label_encoding=cityscapes_ids"
        for shorter, rule in LINE_RULES if kind == "image" and isinstance(self.config, Folders) else ():
            other = self.image_path(shorter(image_id))
            if shorter(image_id) != image_id and other.is_file():
                return f", but {other} does: {rule}"
        for layout in other_layouts(self.config, self.root, image_id, self.part(image_id)):
            return f", but it is there in the layout {layout}; set dataset.layout={layout}"
        return ""

    def _class_ids(self, values: np.ndarray, encoding: Encoding, path: Path, image_id: str) -> np.ndarray:
        small = values if values.dtype == np.uint8 else np.clip(values, 0, 255).astype(np.uint8)
        table = self._class_tables[encoding]
        wrong = cv2.LUT(small, (table < 0).astype(np.uint8))
        if small is not values:
            wrong |= small != values
        if wrong.max(initial=0):
            bad = wrong.astype(bool)
            row, column = np.argwhere(bad)[0]
            first, last = self.config.label_shift, self.config.label_shift + len(self.classes) - 1
            hint = "; if the classes start at 1, set dataset.label_shift=1" if values[bad].max() == last + 1 else ""
            raise UserError(
                f"label {path} has the value {int(values[row, column])} at row {row}, column {column}, outside the "
                f"classes {first}..{last} and not {self.config.ignore_index} (ignore); "
                f"{int(bad.sum())} such pixels{hint}{self.where(image_id)}"
            )
        return cv2.LUT(small, table.astype(np.uint8))

    @cached_property
    def _class_tables(self) -> dict[Encoding, np.ndarray]:
        """By encoding: pixel value 0..255 to class id, 255 = ignore, -1 = not allowed."""
        index, official = np.full(256, -1, dtype=np.int16), np.full(256, IGNORE, dtype=np.int16)
        shift = self.config.label_shift
        index[:shift] = IGNORE
        index[shift : shift + len(self.classes)] = np.arange(len(self.classes))
        official[list(CITYSCAPES_TRAIN_IDS)] = list(CITYSCAPES_TRAIN_IDS.values())
        for table in (index, official):
            table[[self.config.ignore_index, IGNORE]] = IGNORE
        return {"index": index, "cityscapes_ids": official}


def _first_file(paths: Sequence[Path]) -> Path:
    """The first of some places where there is a file, else the first."""
    return paths[0] if len(paths) == 1 else next((path for path in paths if path.is_file()), paths[0])


def _unique(entries: Sequence[ListEntry]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry.id for entry in entries))
