"""Finding lists of image ids in what a user has: one file, a folder such as a copy of the authors' repository, or an archive."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

from common.config import DatasetConfig
from common.data.datasets import read_list
from common.errors import UserError

Lists = dict[str, tuple[str, ...]]
"""Image ids in file order by the path of the list they were found in."""


def list_ids(path: Path, config: DatasetConfig) -> tuple[str, ...]:
    """Return the ids of one list in file order; see :func:`common.data.datasets.read_list`."""
    return tuple(entry.id for entry in read_list(path, config))


def find_lists(path: Path, scratch: Path, config: DatasetConfig) -> Lists:
    """Return every readable ``.txt`` list in a file, folder, zip or tar archive; archives are unpacked below ``scratch``.

    Raises :class:`UserError` when there is none.
    """
    lists = {}
    for name, file in _files(path, scratch).items():
        try:
            lists[name] = list_ids(file, config)
        except UserError:
            continue
    if not lists:
        raise UserError(f"{path}: no .txt list of image ids in it")
    return lists


def _files(path: Path, scratch: Path) -> dict[str, Path]:
    if path.is_dir():
        return {str(file): file for file in sorted(path.rglob("*.txt"))}
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return _keep({name: archive.read(name) for name in archive.namelist() if name.endswith(".txt")}, scratch)
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            members = [member for member in archive.getmembers() if member.isfile() and member.name.endswith(".txt")]
            return _keep({member.name: archive.extractfile(member).read() for member in members}, scratch)
    return {str(path): path}


def _keep(members: dict[str, bytes], scratch: Path) -> dict[str, Path]:
    """Write archive members to numbered files, so that none can choose where it is written."""
    files = {}
    for number, (name, data) in enumerate(sorted(members.items())):
        files[name] = scratch / f"{number}.txt"
        files[name].write_bytes(data)
    return files
