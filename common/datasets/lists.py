"""Lists of images as text files: a line is an id, a path, or an image and its label."""

from __future__ import annotations

import codecs
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from common.config.schema import DatasetConfig, Folders
from common.errors import UserError
from common.files import read_bytes
from common.images.picture import SUFFIXES

MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
"""Byte-order marks and the encoding of the text that begins with them; the first that fits counts."""


class ListEntry(NamedTuple):
    """One line of a list: the image id and the line's number, from 1; 0 where a folder stands for the list."""

    id: str
    line: int


class _Place(NamedTuple):
    """What a line says of an image besides its id: folder and suffix, each empty where it is left open."""

    folder: str
    suffix: str

    def contradicts(self, other: _Place) -> bool:
        return any(mine and theirs and mine != theirs for mine, theirs in zip(self, other))


def first_field(line: str, config: DatasetConfig) -> str:
    """Return the part of a line that names the image; a label may follow it.

    Fields end at a tab, or at white space, a comma or a semicolon behind the suffix of a picture; any other space is
    part of the name.
    """
    endings = "|".join(re.escape(suffix) for suffix in dict.fromkeys((config.image_suffix, *SUFFIXES)) if suffix)
    before_tab = line.strip().partition("\t")[0]
    match = re.match(rf"(.+?(?:{endings}))[\s,;]+\S", before_tab, re.IGNORECASE)
    return match[1] if match else before_tab.strip()


def reduce_to_id(field: str, config: DatasetConfig) -> str:
    """Reduce one field of a list, a path or a bare id, to the image id.

    The id is the file name without the data set's image suffix or that of a usual image format, and without what
    Cityscapes appends to the id (``_leftImg8bit``, ``_gtFine_...``). In the layouts ``voc`` and ``folders`` it begins with
    the sub-folders below ``image_dir``: all folders of a path that does not name ``image_dir``, none of an absolute one.
    """
    return _reduce(field, config)[0]


def read_list(path: Path, config: DatasetConfig) -> tuple[ListEntry, ...]:
    """Read the images of a list file, one per line; blank lines, CRLF and a byte-order mark do no harm.

    Text is UTF-8, or what its byte-order mark says. Raises :class:`UserError` when the file is missing, empty or no
    text, when a line leaves the folder of images, and when two different lines would become one id.
    """
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise UserError(
            f"list {path} of data set {config.name} does not exist; put it there or correct the name"
        ) from None
    except OSError as error:
        raise UserError(f"list {path} of data set {config.name} cannot be read: {error.strerror}") from None
    return parse_list(data, str(path), config)


def parse_list(data: bytes, path: str, config: DatasetConfig) -> tuple[ListEntry, ...]:
    """Return the images of a list's bytes; see :func:`read_list`. ``path`` is its name in messages."""
    entries = []
    named: dict[str, tuple[int, str, _Place]] = {}
    for number, line in enumerate(_text(data, path).replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if not line.strip():
            continue
        field = first_field(line, config)
        image_id, place = _reduce(field, config)
        if not image_id or ".." in image_id.split("/"):
            raise UserError(f"list {path}, line {number}: {field!r} names no file in the folder of images; correct it")
        first, text, other = named.setdefault(image_id, (number, field, place))
        if place.contradicts(other):
            raise UserError(
                f"list {path}: line {first} ({text}) and line {number} ({field}) would both become the image {image_id}; "
                "rename one of the files, or bring them into sub-folders of dataset.image_dir in the layout folders"
            )
        entries.append(ListEntry(image_id, number))
    if not entries:
        raise UserError(f"list {path} of data set {config.name} is empty; it needs one image id per line")
    return tuple(entries)


def _reduce(field: str, config: DatasetConfig) -> tuple[str, _Place]:
    """The id of a field, and what the field says besides it."""
    written = field.replace("\\", "/")
    absolute = written.startswith("/") or re.match(r"[A-Za-z]:/", written) is not None
    *folders, file = [part for part in written.split("/") if part not in ("", ".")] or [""]
    name = PurePosixPath(file.removesuffix(config.image_suffix))
    stem = name.stem if name.suffix.lower() in SUFFIXES else name.name
    suffix = file[len(stem) :]
    stem = stem.removesuffix("_leftImg8bit").partition("_gtFine_")[0]
    if not isinstance(config, Folders):
        return stem, _Place("/".join(folders), suffix)
    images = [part for part in config.image_dir.split("/") if part not in ("", ".")]
    ends = [
        end for end in range(len(images), len(folders) + 1) if images and folders[end - len(images) : end] == images
    ]
    kept_from = ends[-1] if ends else len(folders) if absolute else 0
    return "/".join([*folders[kept_from:], stem]), _Place("/".join(folders[:kept_from]), suffix)


def _text(data: bytes, path: str) -> str:
    encoding = next((encoding for mark, encoding in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"list {path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    if "\0" in text:
        raise UserError(
            f"list {path} is not UTF-8 text (byte {data.index(0)} is zero, as in UTF-16 without a byte-order mark); "
            "save it as UTF-8"
        )
    # Lists that are joined bring the mark of each part along.
    return text.replace("\ufeff", "")
