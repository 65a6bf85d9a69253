"""PyTorch's ``.pth`` files, read without PyTorch and without running what a pickle asks for.

Both formats of ``torch.save`` are read: the zip archive (since 1.6) and the legacy stream of pickles. Only tensors,
NumPy scalars and plain values are rebuilt; any other global in the pickle is refused.
"""

from __future__ import annotations

import math
import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.errors import UserError
from common.networks.tensors import widen_bfloat16

STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bfloat16",
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1",
    "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
ZIP_MARK = b"PK\x03\x04"
PICKLE_MARK = b"\x80"

Storage = Callable[[str, str, int], np.ndarray]
"""Gives the flat array of a storage's key, type code and number of elements."""


def read_pth(path: str | os.PathLike, unsafe: bool = False) -> Any:
    """Return what ``torch.save`` wrote: dicts, lists and plain values, every tensor as a writable NumPy array.

    bfloat16 is widened to float32. ``unsafe`` lets the pickle import and call anything it names: only for a file whose
    origin is trusted. Raises :class:`UserError` for a file that asks for more than tensors and plain values, is cut
    off, damaged or not of this format.
    """
    path = Path(path)
    with open(path, "rb") as file:
        mark = file.read(len(ZIP_MARK))
        file.seek(0)
        try:
            if mark == ZIP_MARK:
                return _plain(_read_zip(file, path, unsafe))
            if mark[:1] == PICKLE_MARK:
                return _plain(_read_legacy(file, path, unsafe))
        except (UserError, OSError):
            raise
        # A damaged pickle can fail in nearly every way that Python knows.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"{path} is not a readable PyTorch file ({reason}); fetch or save it again") from None
    raise UserError(f"{path} is not a PyTorch file: it is neither a zip archive nor a pickle; fetch or save it again")


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, storage: Storage, path: Path, unsafe: bool) -> None:
        super().__init__(file, encoding="utf-8")
        self.storage, self.path, self.unsafe = storage, path, unsafe

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if f"{module}.{name}" in ALLOWED:
            return ALLOWED[f"{module}.{name}"]
        if self.unsafe:
            return super().find_class(module, name)
        raise UserError(
            f"{self.path}: loading it would run {module}.{name}, which is more than tensors and plain values; refused. "
            "Have it saved again as a plain state dict, or, if you trust it, convert it with converters.convert_ckpt --unsafe"
        )

    def persistent_load(self, reference: tuple) -> np.ndarray:
        kind, type_code, key, _, count, *view = reference
        if kind != "storage" or any(item is not None for item in view):
            raise ValueError("a storage of a kind that is not supported")
        return self.storage(key, type_code, count)


def _read_zip(file: BinaryIO, path: Path, unsafe: bool) -> Any:
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
        order = ">" if big else "<"
        storages: dict[str, np.ndarray] = {}

        def storage(key: str, type_code: str, count: int) -> np.ndarray:
            if key not in storages:
                raw = archive.read(f"{root}data/{key}")
                wide = type_code == "bfloat16"
                storages[key] = widen_bfloat16(raw, order) if wide else np.frombuffer(raw, order + type_code)
            if storages[key].size != count:
                raise ValueError(f"storage {key} has {storages[key].size} elements instead of {count}")
            return storages[key]

        with archive.open(pickles[0]) as stream:
            return _Unpickler(stream, storage, path, unsafe).load()


def _read_legacy(file: BinaryIO, path: Path, unsafe: bool) -> Any:
    """Magic number, protocol, system, the object, the storages' keys, then per key its length and its bytes."""
    limit = os.fstat(file.fileno()).st_size
    storages: dict[str, np.ndarray] = {}
    order = "<"

    def storage(key: str, type_code: str, count: int) -> np.ndarray:
        if type_code == "bfloat16":
            raise ValueError("bfloat16 in the legacy format")
        if key not in storages:
            if not 0 <= count * np.dtype(type_code).itemsize <= limit:
                raise ValueError(f"storage {key} is larger than the file")
            storages[key] = np.zeros(count, order + type_code)
        return storages[key]

    def load() -> Any:
        return _Unpickler(file, storage, path, unsafe).load()

    if load() != LEGACY_MAGIC or load() != LEGACY_PROTOCOL:
        raise UserError(f"{path} is a Python pickle that torch.save did not write; save its tensors with torch.save")
    if not load()["little_endian"]:
        order = ">"
    value = load()
    for key in load():
        (count,) = struct.unpack(f"{order}q", file.read(8))
        content = file.read(count * storages[key].itemsize)
        storages[key][:] = np.frombuffer(content, storages[key].dtype)
    return value


def _plain(value: Any) -> Any:
    """Copy out of the storages: ordinary dicts and lists, native contiguous arrays that share no memory."""
    if isinstance(value, np.ndarray):
        return value.astype(value.dtype.newbyteorder("="), order="C")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _rebuild_tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    """A view into the storage; one that reaches outside it would read foreign memory."""
    reach = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True)) + 1
    if min((offset, *size, *stride)) < 0 or (math.prod(size) and reach > storage.size):
        raise ValueError("a tensor reaches outside its storage")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


def _rebuild_parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    return data


class _ScalarType:
    """Stands for ``numpy.dtype`` in the pickle of a NumPy scalar: number types only."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch(r"[fiub][1248]", code):
            raise ValueError(f"a NumPy scalar of type {code!r}")
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _scalar(kind: _ScalarType, raw: bytes) -> int | float | bool:
    return np.frombuffer(raw, kind.order + kind.code)[0].item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.dtype": _ScalarType,
    "_codecs.encode": _encode,
}
"""The globals a pickle may name besides the storages, and what stands for them here."""
