"""Writing files whole or not at all, and their SHA-256."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        _create(temporary, path)
        yield temporary
        _sync(temporary)
        if path.exists():
            os.chmod(temporary, path.stat().st_mode & 0o777)
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            temporary.unlink()
    _sync(path.parent)


def write_text_atomic(path: str | os.PathLike, text: str) -> None:
    """Write ``text`` as UTF-8 with ``\\n`` line ends."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_json_atomic(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON; NaN and infinities are refused because they are not JSON."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, 64 lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _create(temporary: Path, path: Path) -> None:
    """Create the empty file ``temporary``, and the folders above it, with the permissions of an ordinary new file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
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
