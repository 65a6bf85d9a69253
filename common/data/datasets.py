"""Data sets on disk: which images a list names, where their files lie, and reading them as plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
from PIL import Image, UnidentifiedImageError

from common.config import DatasetConfig
from common.data.shapes import ShapesDataset
from common.errors import UserError
from common.metrics import IGNORE
from common.paths import data_root

CITYSCAPES_TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15,
    31: 16, 32: 17, 33: 18,
}  # fmt: skip
"""Official Cityscapes id to train id; every other id is ignored (``specs/u2pl.md`` section 2.1)."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
COLOUR_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16B")
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow raises for damaged files, depending on the format."""

ListKey = Literal["train_list", "val_list"]
"""The lists of a data set, as :class:`DatasetConfig` calls them."""


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
    def train_ids(self) -> tuple[str, ...]:
        """Ids of the training list in its order, each once."""

    @property
    def val_ids(self) -> tuple[str, ...]:
        """Ids of the validation list in its order, each once."""

    def image(self, image_id: str) -> np.ndarray:
        """Return uint8 RGB ``[H,W,3]``; raises :class:`UserError` when the file is missing or damaged."""

    def label(self, image_id: str) -> np.ndarray:
        """Return uint8 ``[H,W]``, class ids and 255 = ignore; raises :class:`UserError` unless it fits the image."""


class ListEntry(NamedTuple):
    """One line of a list: the image id and the line's number, from 1."""

    id: str
    line: int


def open_dataset(config: DatasetConfig) -> Dataset:
    """Return the data set that ``config`` describes; files are looked at when they are first needed."""
    return ShapesDataset(config) if config.layout == "shapes" else FileDataset(config)


def reduce_to_id(field: str, config: DatasetConfig) -> str:
    """Reduce one field of a list, a path or a bare id, to the image id (``specs/splits_u2pl.md`` section 2).

    The id is the file name without folder, without the data set's image suffix or that of a usual image format, and
    without what Cityscapes appends to the id (``_leftImg8bit``, ``_gtFine_...``).
    """
    path = PurePosixPath(PurePosixPath(field).name.removesuffix(config.image_suffix))
    name = path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name
    return name.removesuffix("_leftImg8bit").partition("_gtFine_")[0]


def read_list(path: Path, config: DatasetConfig) -> tuple[ListEntry, ...]:
    """Read the ids of a list file, one per line in the first field; blank lines, CRLF and a byte-order mark do no harm.

    Raises :class:`UserError` when the file is missing, empty or not UTF-8 text.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            f"list {path} of data set {config.name} does not exist; put it there or correct the name"
        ) from None
    except OSError as error:
        raise UserError(f"list {path} of data set {config.name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"list {path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    entries = tuple(
        ListEntry(reduce_to_id(line.split()[0], config), n) for n, line in enumerate(lines, 1) if line.strip()
    )
    if not entries:
        raise UserError(f"list {path} of data set {config.name} is empty; it needs one image id per line")
    return entries


class FileDataset:
    """Layouts ``voc``, ``cityscapes`` and ``folders`` (see :class:`DatasetConfig`); implements :class:`Dataset`."""

    def __init__(self, config: DatasetConfig) -> None:
        self.config = config
        self.name = config.name
        self.classes = config.classes
        self.root = data_root() / Path(config.root).expanduser()
        if not 0 <= config.ignore_index <= 255:
            raise UserError(
                f"dataset.ignore_index = {config.ignore_index} of data set {config.name} must lie in 0..255"
            )
        if config.label_encoding == "cityscapes_ids" and len(config.classes) != 19:
            raise UserError(
                f"dataset.label_encoding=cityscapes_ids gives 19 classes, but data set {config.name} names "
                f"{len(config.classes)}"
            )

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
        if not getattr(self.config, key):
            raise UserError(f"dataset.{key} of data set {self.name} is not set; name a file of image ids")
        return self.root / getattr(self.config, key)

    def entries(self, key: ListKey) -> tuple[ListEntry, ...]:
        """The lines of a list as they are; see :func:`read_list`."""
        return read_list(self.list_path(key), self.config)

    def image_path(self, image_id: str) -> Path:
        """The image file of an id; it need not exist."""
        if self.config.layout == "cityscapes":
            return self.root / "leftImg8bit" / self._city_folder(image_id) / f"{image_id}_leftImg8bit.png"
        return self.root / self.config.image_dir / f"{image_id}{self.config.image_suffix}"

    def label_path(self, image_id: str) -> Path:
        """The label file of an id; it need not exist."""
        if self.config.layout == "cityscapes":
            kind = "labelIds" if self.config.label_encoding == "cityscapes_ids" else "labelTrainIds"
            return self.root / "gtFine" / self._city_folder(image_id) / f"{image_id}_gtFine_{kind}.png"
        return self.root / self.config.label_dir / f"{image_id}{self.config.label_suffix}"

    def image(self, image_id: str) -> np.ndarray:
        """See :class:`Dataset`; grey, palette and transparent images become RGB."""
        with self._open(self.image_path(image_id), image_id, "image") as file:
            if file.mode not in COLOUR_MODES:
                raise UserError(
                    f"image {file.filename} has pixels of type {file.mode}; save it with 8 bits per channel"
                    f"{self.where(image_id)}"
                )
            return np.array(self._decode(file, image_id, "image").convert("RGB"))

    def label(self, image_id: str) -> np.ndarray:
        """See :class:`Dataset`; a palette image is read as its indices, never through its colours."""
        path = self.label_path(image_id)
        with self._open(path, image_id, "label") as file:
            if file.mode not in INDEX_MODES:
                raise UserError(
                    f"label {path} is a colour image ({file.mode}); labels are one channel of class ids"
                    f"{self.where(image_id)}"
                )
            label = self._class_ids(np.asarray(self._decode(file, image_id, "label")), path, image_id)
        with self._open(self.image_path(image_id), image_id, "image") as image:
            if label.shape != (image.height, image.width):
                raise UserError(
                    f"label {path} is {label.shape[1]}x{label.shape[0]} pixels but its image is "
                    f"{image.width}x{image.height}; they must match{self.where(image_id)}"
                )
        return label

    def where(self, image_id: str) -> str:
        """Which lines of the data set's lists name an id, as the end of a message; empty if none does."""
        places = []
        for key in get_args(ListKey):
            try:
                entries = self.entries(key)
            except UserError:
                continue
            places += [f"line {entry.line} of {self.list_path(key)}" for entry in entries if entry.id == image_id]
        return f" ({', '.join(places)})" if places else ""

    def _city_folder(self, image_id: str) -> str:
        part = "val" if image_id in self._val_set else "train"
        return f"{part}/{image_id.partition('_')[0]}"

    @cached_property
    def _val_set(self) -> frozenset[str]:
        return frozenset(self.val_ids)

    def _open(self, path: Path, image_id: str, kind: str) -> Image.Image:
        try:
            return Image.open(path)
        except FileNotFoundError:
            self.require_root()
            hint = self._missing_hint(path, kind)
            raise UserError(f"{kind} {path} does not exist{hint}{self.where(image_id)}") from None
        except DECODING_ERRORS as error:
            raise UserError(self._damaged(path, kind, image_id, error)) from None

    def _decode(self, file: Image.Image, image_id: str, kind: str) -> Image.Image:
        try:
            file.load()
        except DECODING_ERRORS as error:
            raise UserError(self._damaged(file.filename, kind, image_id, error)) from None
        return file

    def _damaged(self, path: Path | str, kind: str, image_id: str, error: Exception) -> str:
        if Path(path).is_file() and Path(path).stat().st_size == 0:
            reason = "is empty"
        else:
            reason = "is not an image" if isinstance(error, UnidentifiedImageError) else f"cannot be decoded ({error})"
        return f"{kind} {path} {reason}; replace it{self.where(image_id)}"

    def _missing_hint(self, path: Path, kind: str) -> str:
        other = Path(str(path).replace("_labelTrainIds.png", "_labelIds.png"))
        if kind == "label" and other != path and other.is_file():
            return ", but its labelIds file does; set dataset.label_encoding=cityscapes_ids"
        return ""

    def _class_ids(self, values: np.ndarray, path: Path, image_id: str) -> np.ndarray:
        small = values if values.dtype == np.uint8 else np.clip(values, 0, 255).astype(np.uint8)
        label = self._class_table[small]
        bad = (label < 0) | (small != values)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise UserError(
                f"label {path} has the value {int(values[row, column])} at row {row}, column {column}, outside the "
                f"classes 0..{len(self.classes) - 1} and not {self.config.ignore_index} (ignore); "
                f"{int(bad.sum())} such pixels"
                f"{self.where(image_id)}"
            )
        return label.astype(np.uint8)

    @cached_property
    def _class_table(self) -> np.ndarray:
        """Pixel value 0..255 to class id, 255 = ignore, -1 = not allowed."""
        table = np.full(256, -1, dtype=np.int16)
        if self.config.label_encoding == "cityscapes_ids":
            table[:] = IGNORE
            table[list(CITYSCAPES_TRAIN_IDS)] = list(CITYSCAPES_TRAIN_IDS.values())
        else:
            table[: len(self.classes)] = np.arange(len(self.classes))
        table[[self.config.ignore_index, IGNORE]] = IGNORE
        return table


def _unique(entries: Sequence[ListEntry]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry.id for entry in entries))
