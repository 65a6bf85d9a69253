"""Lists of images as text files: a line is an id, a path, or an image and its label."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from common.config.schema import DatasetConfig
from common.errors import UserError
from common.images.picture import SUFFIXES


class ListEntry(NamedTuple):
    """One line of a list: the image id and the line's number, from 1; 0 where a folder stands for the list."""

    id: str
    line: int


def reduce_to_id(field: str, config: DatasetConfig) -> str:
    """Reduce one field of a list, a path or a bare id, to the image id (``specs/splits_u2pl.md`` section 2).

    The id is the file name without folder, without the data set's image suffix or that of a usual image format, and
    without what Cityscapes appends to the id (``_leftImg8bit``, ``_gtFine_...``).
    """
    path = PurePosixPath(PurePosixPath(field).name.removesuffix(config.image_suffix))
    name = path.stem if path.suffix.lower() in SUFFIXES else path.name
    return name.removesuffix("_leftImg8bit").partition("_gtFine_")[0]


def read_list(path: Path, config: DatasetConfig) -> tuple[ListEntry, ...]:
    """Read the ids of a list file, one per line in the first field; blank lines, CRLF and a byte-order mark do no harm.

    Raises :class:`UserError` when the file is missing, empty or not UTF-8 text.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"list {path} of data set {config.name} does not exist; put it there or correct the name"
        ) from None
    except OSError as error:
        raise UserError(f"list {path} of data set {config.name} cannot be read: {error.strerror}") from None
    return parse_list(data, str(path), config)


def parse_list(data: bytes, path: str, config: DatasetConfig) -> tuple[ListEntry, ...]:
    """Return the ids of a list's bytes; see :func:`read_list`. ``path`` is its name in messages."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"list {path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    entries = tuple(
        ListEntry(reduce_to_id(line.split()[0], config), n) for n, line in enumerate(lines, 1) if line.strip()
    )
    if not entries:
        raise UserError(f"list {path} of data set {config.name} is empty; it needs one image id per line")
    return entries
