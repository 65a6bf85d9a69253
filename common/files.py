"""Writing files whole or not at all, and their SHA-256."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError

STEM = 40
"""Characters of a file's name that its temporary name keeps: a name may be as long as the file system allows."""


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on normal exit it is flushed to disk and takes the place of ``path``.

    Missing folders are created. When the body raises, the temporary file is removed and ``path`` stays as it was. The
    temporary name keeps the suffix of ``path``, because some writers choose the format by it. Raises :class:`UserError`
    where nothing can be written; what else goes wrong, a full disk above all, is an ``OSError`` that names ``path``.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "not an ordinary file"
        raise UserError(f"cannot write {path}: it is {what}; choose another name")
    temporary = path.with_name(f".{path.stem[:STEM]}.{secrets.token_hex(8)}{path.suffix}")
    # The name is known before the file is there: a signal at any moment leaves nothing behind.
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch(exist_ok=False)
        yield temporary
        _sync(temporary)
        if path.exists():
            os.chmod(temporary, path.stat().st_mode & 0o777)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:
            # Some libraries keep the system's number to themselves.
            raise OSError(errno.EIO, error.strerror or str(error) or "cannot be written", str(path)) from error
        if error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            temporary.unlink()
    _sync(path.parent)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``path``; on normal exit it takes the place of ``path``, an older folder or nothing.

    When the body raises, the temporary folder is removed and ``path`` stays as it was. What a killed process has left is
    removed by the next one. Raises as :func:`atomic_path`.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"cannot make the folder {path}: there is a file of this name; choose another name")
    part, old = (path.with_name(f".{path.name}.{kind}") for kind in ("part", "old"))
    try:
        _put_back(old, path)
        _remove(part, old)
        with _writing(path):
            part.mkdir(parents=True)
        yield part
        if path.exists():
            os.replace(path, old)
        os.replace(part, path)
    finally:
        _put_back(old, path)
        _remove(part, old)


def _put_back(old: Path, path: Path) -> None:
    """Bring back a folder that was to be replaced by one that has not come."""
    if old.exists() and not path.exists():
        os.replace(old, path)


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def write_text_atomic(path: str | os.PathLike, text: str) -> None:
    """Write ``text`` as UTF-8 with ``\\n`` line ends."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_array_atomic(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write an array as ``.npy``: what ``numpy.save`` writes, but the error of a full disk says what it is."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.tobytes("F" if array.flags.fnc else "C"))


def write_json_atomic(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON; NaN and infinities are refused because they are not JSON."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def require_ordinary(path: str | os.PathLike) -> None:
    """Raise ``OSError`` for what is there and no file or folder: reading a pipe waits for ever, a device never ends."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))


def read_bytes(path: str | os.PathLike) -> bytes:
    """Return the content of an ordinary file; raises ``OSError`` for anything else."""
    require_ordinary(path)
    return Path(path).read_bytes()


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; raises ValueError for anything else, also for one that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: str | os.PathLike) -> Any:
    """Return the value of a JSON file in UTF-8; raises ValueError as :func:`parse_json`."""
    return parse_json(read_bytes(path).decode("utf-8"))


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, 64 lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what the user can mend by another place for ``path`` into one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR):
            raise
        raise UserError(f"cannot write {path}: {error.strerror}; choose a folder you may write to") from None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
