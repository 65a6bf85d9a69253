"""Finding lists of image ids in what a user has: one file, a folder such as a copy of the authors' repository, or an archive."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from common.config.schema import DatasetConfig
from common.datasets.lists import parse_list, read_list
from common.errors import UserError
from common.files import write_text_atomic
from common.splits.registry import canonical, digest

Lists = dict[str, tuple[str, ...]]
"""Image ids in file order by the path of the list they were found in."""

LARGEST_LIST = 16 * 2**20
"""Bytes of the largest file that is read as a list; the longest published one has less than 1 MiB."""
LARGEST_ARCHIVE = 512 * 2**20
"""Bytes of all lists of one archive together."""


def list_ids(path: Path, config: DatasetConfig) -> tuple[str, ...]:
    """Return the ids of one list in file order; see :func:`common.datasets.lists.read_list`."""
    return tuple(entry.id for entry in read_list(path, config))


def find_lists(path: Path, config: DatasetConfig) -> Lists:
    """Return every readable ``.txt`` list in a file, folder, zip or tar archive.

    Archives are read in memory and nothing of them is unpacked, so no name in them can choose where something is
    written; a file too large for a list is left out. Raises :class:`UserError` when there is no list, or when the
    lists of an archive unpack to more than ``LARGEST_ARCHIVE``.
    """
    lists, total = {}, 0
    for name, data in _contents(path):
        total += len(data)
        if total > LARGEST_ARCHIVE:
            raise UserError(f"{path}: its lists unpack to more than {LARGEST_ARCHIVE >> 20} MiB; refused")
        try:
            lists[name] = tuple(entry.id for entry in parse_list(data, name, config))
        except UserError:
            continue
    if not lists:
        raise UserError(f"{path}: no .txt list of image ids in it")
    return lists


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every text file that is small enough for a list."""
    if path.is_dir():
        for file in sorted(path.rglob("*.txt")):
            if file.is_file() and file.stat().st_size <= LARGEST_LIST:
                yield str(file), file.read_bytes()
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
                if entry.filename.endswith(".txt"):
                    with archive.open(entry) as stream:
                        yield from _small(entry.filename, stream)
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(".txt"):
                    yield from _small(member.name, archive.extractfile(member))
    else:
        with open(path, "rb") as stream:
            yield from _small(str(path), stream)


def _small(name: str, stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """The bytes of a list; at most one byte more than allowed is unpacked, whatever the archive says of its size."""
    data = stream.read(LARGEST_LIST + 1)
    if len(data) <= LARGEST_LIST:
        yield name, data


def write_lists(folder: Path, lists: Mapping[str, Iterable[str]]) -> None:
    """Write lists in canonical form by file name and print what each is."""
    for file, ids in lists.items():
        write_text_atomic(folder / file, "".join(f"{name}\n" for name in canonical(ids)))
        print(f"{folder / file}: {len(canonical(ids))} ids, {digest(ids)}")
