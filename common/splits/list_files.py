"""Finding lists of image ids in what a user has: one file, a folder such as a copy of the authors' repository, or an archive."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from common.config.schema import DatasetConfig
from common.datasets.lists import parse_list, read_list
from common.errors import UserError
from common.files import write_text_atomic
from common.splits.registry import canonical, digest

Lists = dict[str, tuple[str, ...]]
"""Image ids in file order, a line each, by the path of the list they were found in."""

LARGEST_LIST = 16 * 2**20
"""Bytes of the largest file that is read as a list; the longest published one has less than 1 MiB."""
COMPANION = "._"
"""How the names of macOS's companion files begin."""
LARGEST_ARCHIVE = 512 * 2**20
"""Bytes of all lists of one archive together."""


def list_ids(path: Path, config: DatasetConfig) -> tuple[str, ...]:
    """Return the ids of one list in file order; see :func:`common.datasets.lists.read_list`."""
    return tuple(entry.id for entry in read_list(path, config))


def find_lists(path: Path, config: DatasetConfig) -> tuple[Lists, dict[str, str]]:
    """Return every ``.txt`` list in a file, folder, zip or tar archive, and why the others of its text files are none.

    Archives are read in memory and nothing of them is unpacked, so no name in them can choose where something is
    written. Raises :class:`UserError` with the reason when there is no list, or when the lists of an archive unpack to
    more than ``LARGEST_ARCHIVE``.
    """
    lists, refused, total = {}, {}, 0
    for name, data in _contents(path):
        total += len(data)
        if total > LARGEST_ARCHIVE:
            raise UserError(f"{path}: its lists unpack to more than {LARGEST_ARCHIVE >> 20} MiB; refused")
        try:
            if len(data) > LARGEST_LIST:
                raise UserError(f"list {name} has more than {LARGEST_LIST >> 20} MiB, which no list of images has")
            lists[name] = tuple(entry.id for entry in parse_list(data, name, config))
        except UserError as error:
            refused[name] = str(error)
    if not lists:
        raise UserError(next(iter(refused.values()), f"{path}: no .txt list of image ids in it"))
    return lists, refused


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every text file; of one too large for a list one byte more than allowed."""
    if path.is_dir():
        for file in sorted(path.rglob("*.txt")):
            if file.is_file() and not file.name.startswith(COMPANION):
                with open(file, "rb") as stream:
                    yield str(file), _start(stream)
    elif not path.is_file():
        raise UserError(f"{path}: no such file or folder")
    else:
        try:
            yield from _members(path)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, RuntimeError, zlib.error) as error:
            raise UserError(f"{path} cannot be read as an archive ({error}); fetch it again") from None


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if _is_text(entry.filename):
                    with archive.open(entry) as stream:
                        yield entry.filename, _start(stream)
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and _is_text(member.name):
                    yield member.name, _start(archive.extractfile(member))
    else:
        with open(path, "rb") as stream:
            yield str(path), _start(stream)


def _is_text(name: str) -> bool:
    """Whether an archive's member is a list by its name; macOS puts a companion ``._NAME`` beside every file."""
    return name.endswith(".txt") and not PurePosixPath(name).name.startswith(COMPANION)


def _start(stream: BinaryIO) -> bytes:
    """The bytes of a list; at most one byte more than allowed is unpacked, whatever the archive says of its size."""
    return stream.read(LARGEST_LIST + 1)


def write_lists(folder: Path, lists: Mapping[str, Sequence[str]]) -> None:
    """Write lists in canonical form by file name and print what each is."""
    for file, ids in lists.items():
        write_text_atomic(folder / file, "".join(f"{name}\n" for name in canonical(ids)))
        print(f"{folder / file}: {counted(ids)}, {digest(ids)}")


def counted(ids: Sequence[str]) -> str:
    """Return how many images the lines of a list name, and how many lines name one again."""
    images = len(set(ids))
    return f"{images} ids" + (
        f" ({len(ids)} lines, {len(ids) - images} name an image again)" if len(ids) > images else ""
    )
