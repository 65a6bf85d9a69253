"""PyTorch's ``.pth`` files, read without PyTorch and without running what a pickle asks for.

All formats of ``torch.save`` are read: the zip archive (since 1.6), the legacy stream of pickles and the tar archive of the
first versions. Only tensors, NumPy scalars and plain values are rebuilt (``common/checkpoints/pickles.py``).
"""

from __future__ import annotations

import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from common.checkpoints.pickles import Reference, Storage, Tensor, Unpickler, itemsize, plain
from common.errors import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
ZIP_MARK = b"PK\x03\x04"
PICKLE_MARKS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
TAR_MARK = slice(257, 262), b"ustar"
"""Where a tar archive says what it is."""
HEAD = 512
"""Bytes that are enough to recognise a format."""


def is_pth(head: bytes) -> bool:
    """Whether the first ``HEAD`` bytes of a file are those of one of PyTorch's formats."""
    return head.startswith((ZIP_MARK, *PICKLE_MARKS)) or head[TAR_MARK[0]] == TAR_MARK[1]


def read_pth(path: str | os.PathLike, unsafe: bool = False) -> Any:
    """Return what ``torch.save`` wrote: dicts, lists and plain values, every tensor as a writable NumPy array.

    bfloat16 is widened to float32. ``unsafe`` lets the pickle import and call anything it names: only for a file whose
    origin is trusted. Raises :class:`UserError` for a file that asks for more than tensors and plain values, is cut
    off, damaged or not of this format.
    """
    path = Path(path)
    with open(path, "rb") as file:
        head = file.read(HEAD)
        file.seek(0)
        if not is_pth(head):
            raise UserError(
                f"{path} is not a PyTorch file: it is neither a zip archive nor a pickle nor a tar archive; fetch or save it "
                "again"
            )
        read = _read_zip if head.startswith(ZIP_MARK) else _read_tar
        if head.startswith(PICKLE_MARKS):
            read = _read_legacy

        def load(stream: BinaryIO, refer: Reference) -> Any:
            return Unpickler(stream, refer, path, unsafe).load()

        try:
            return plain(read(file, path, load), os.fstat(file.fileno()).st_size)
        except (UserError, MemoryError):
            raise
        # A damaged pickle can fail in nearly every way that Python knows.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"{path} is not a readable PyTorch file ({reason}); fetch or save it again") from None


Load = Callable[[BinaryIO, Reference], Any]
"""Reads one pickle of a stream."""


def _read_zip(file: BinaryIO, path: Path, load: Load) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        # torch.save compresses nothing; an archive that unpacks to more than it holds was made to fill the memory.
        if sum(entry.file_size for entry in archive.infolist()) > os.fstat(file.fileno()).st_size:
            raise UserError(
                f"{path}: its archive unpacks to more than the file holds, which torch.save never writes; refused"
            )
        pickles = [name for name in names if name.endswith("/data.pkl")]
        root = pickles[0].removesuffix("data.pkl") if pickles else ""
        if not pickles or f"{root}constants.pkl" in names:
            raise UserError(f"{path} is not a checkpoint of torch.save (a TorchScript program or another archive)")
        big = f"{root}byteorder" in names and archive.read(f"{root}byteorder") == b"big"
        contents: dict[str, bytes] = {}

        def refer(reference: Any) -> Storage:
            kind, code, key, _, count, *view = reference
            if kind != "storage" or any(item is not None for item in view):
                raise ValueError("a storage of a kind that is not supported")
            if key not in contents:
                contents[key] = archive.read(f"{root}data/{key}")
            return Storage(code, count, contents[key], ">" if big else "<")

        with archive.open(pickles[0]) as stream:
            return load(stream, refer)


def _read_legacy(file: BinaryIO, path: Path, load: Load) -> Any:
    """Magic number, protocol, system, the object, the storages' keys, then per key its length and its bytes."""
    storages: dict[str, Storage] = {}
    if load(file, _nothing) != LEGACY_MAGIC or load(file, _nothing) != LEGACY_PROTOCOL:
        raise UserError(f"{path} is a Python pickle that torch.save did not write; save its tensors with torch.save")
    order = "<" if load(file, _nothing)["little_endian"] else ">"

    def refer(reference: Any) -> Any:
        if reference[0] == "module":
            return reference[1]
        _, code, key, _, count, *view = reference
        root = storages.setdefault(key, Storage(code, count, order=order))
        if not any(item is not None for item in view):
            return Storage(code, count, root=root)
        _, start, length = view[0]
        return Storage(code, length, root=root, start=start)

    value = load(file, refer)
    for key in load(file, _nothing):
        (count,) = struct.unpack(f"{order}q", file.read(8))
        storages[key].raw = _exactly(file, count * itemsize(storages[key].code))
    return value


def _read_tar(file: BinaryIO, path: Path, load: Load) -> Any:
    """Members ``storages``, ``tensors`` and ``pickle``, which refers to tensors by their keys; nothing is unpacked to disk."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        members = {member.name: member for member in archive if member.isreg() and not member.issparse()}
        if not {"storages", "tensors", "pickle"} <= members.keys():
            raise UserError(f"{path} is a tar archive that torch.save did not write; unpack it and name what is in it")
        objects: dict[int, Any] = {}
        _tar_storages(archive.extractfile(members["storages"]), load, objects)
        stream = archive.extractfile(members["tensors"])
        for _ in range(load(stream, _nothing)):
            key, storage, _ = load(stream, _nothing)
            dimensions, _ = struct.unpack("<ii", _exactly(stream, 8))
            size, stride = (struct.unpack(f"<{dimensions}q", _exactly(stream, 8 * dimensions)) for _ in range(2))
            (offset,) = struct.unpack("<q", _exactly(stream, 8))
            objects[key] = Tensor(objects[storage], offset, size, stride)

        def refer(reference: Any) -> Any:
            return reference[0] if isinstance(reference, tuple) else objects[int(reference)]

        return load(archive.extractfile(members["pickle"]), refer)


def _tar_storages(stream: BinaryIO, load: Load, objects: dict[int, Any]) -> None:
    for _ in range(load(stream, _nothing)):
        key, _, code = load(stream, _nothing)
        (count,) = struct.unpack("<q", _exactly(stream, 8))
        objects[key] = Storage(code, count, _exactly(stream, count * itemsize(code)))
    for key, root, start, count in load(stream, _nothing):
        objects[key] = Storage(objects[root].code, count, root=objects[root], start=start)


def _exactly(stream: BinaryIO, count: int) -> bytes:
    """The next ``count`` bytes; a number in a file never makes more memory than there are bytes left."""
    here = stream.tell()
    left = stream.seek(0, os.SEEK_END) - here
    stream.seek(here)
    if not 0 <= count <= left:
        raise ValueError(f"{count} bytes of a storage where {left} are left")
    return stream.read(count)


def _nothing(reference: Any) -> Any:
    raise ValueError(f"a reference {reference!r} where there is none")
