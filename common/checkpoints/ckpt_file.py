"""MindSpore's ``.ckpt`` files, read and written without MindSpore.

The file is a protobuf message: repeated field 1 {1: tag, 2: tensor {1: dims (repeated), 2: type name, 3: raw bytes}},
optionally followed by ``crc_num`` and the CRC-32 of what precedes as 10 big-endian bytes. A tensor larger than
``SLICE_BYTES`` is split: entries with the same tag follow one another. No part of it can run code.
"""

from __future__ import annotations

import math
import os
import zlib

import numpy as np

from common.checkpoints.protobuf import BYTES, VARINT, fields, packed
from common.errors import UserError
from common.files import atomic_path, read_bytes
from common.networks.tensors import Tensors, check_dtypes, widen_bfloat16

TYPE_NAMES = {
    "Float16": "float16", "Float32": "float32", "Float64": "float64", "Bool": "bool",
    "Int8": "int8", "Int16": "int16", "Int32": "int32", "Int64": "int64",
    "UInt8": "uint8", "UInt16": "uint16", "UInt32": "uint32", "UInt64": "uint64",
}  # fmt: skip
CRC_MARK = b"crc_num"
CRC_BYTES = 10
SLICE_BYTES = 512 * 1024 * 1024


def read_ckpt(path: str | os.PathLike) -> dict[str, np.ndarray | str]:
    """Return every tensor and every text of a ``.ckpt`` file, in order.

    Arrays are writable and bit for bit those of the file, but bfloat16 is widened to float32. Raises
    :class:`UserError` when the file is cut off, damaged, encrypted or not of this format.
    """
    try:
        entries = _entries(_checked(memoryview(read_bytes(path))))
        return {tag: _array(tag, *entry) for tag, entry in entries.items()}
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path} is not a readable MindSpore checkpoint ({error}); fetch or save it again") from None


def write_ckpt(path: str | os.PathLike, tensors: Tensors) -> None:
    """Write ``tensors`` to a file that ``mindspore.load_checkpoint`` reads, whole or not at all, with a CRC."""
    check_dtypes(tensors, str(path))
    type_names = {numpy_name: name for name, numpy_name in TYPE_NAMES.items()}
    crc = 0
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        for tag, array in tensors.items():
            content = memoryview(array.tobytes())
            for start in range(0, max(len(content), 1), SLICE_BYTES):
                part = content[start : start + SLICE_BYTES]
                for piece in _encoded(tag, array.shape, type_names[array.dtype.name], part):
                    crc = zlib.crc32(piece, crc)
                    file.write(piece)
        file.write(CRC_MARK + crc.to_bytes(CRC_BYTES, "big"))


def _checked(data: memoryview) -> memoryview:
    """Return the message without its CRC, which must be right where there is one."""
    if not data:
        raise ValueError("it is empty")
    end = len(data) - len(CRC_MARK) - CRC_BYTES
    if end < 0 or data[end : end + len(CRC_MARK)] != CRC_MARK:
        return data
    stored = int.from_bytes(data[-CRC_BYTES:], "big")
    data = data[:end]
    if zlib.crc32(data) != stored:
        raise ValueError("its CRC does not fit its content")
    return data


def _entries(data: memoryview) -> dict[str, tuple[list[int], str, list[memoryview]]]:
    """Return dims, type name and the pieces of the content of every tag."""
    entries: dict[str, tuple[list[int], str, list[memoryview]]] = {}
    for number, value in fields(data):
        if number != 1 or not isinstance(value, memoryview):
            raise ValueError(f"field {number} where an entry should be")
        tag, dims, type_name, content = _entry(value)
        if tag not in entries:
            entries[tag] = (dims, type_name, [content])
        elif entries[tag][:2] == (dims, type_name):
            entries[tag][2].append(content)
        else:
            raise ValueError(f"{tag} occurs twice with different shapes or types")
    return entries


def _entry(data: memoryview) -> tuple[str, list[int], str, memoryview]:
    entry = dict(fields(data))
    if not isinstance(entry.get(1), memoryview) or not isinstance(entry.get(2), memoryview):
        raise ValueError("an entry without tag or tensor")
    dims: list[int] = []
    type_name, content = "", memoryview(b"")
    for number, value in fields(entry[2]):
        if number == 1:
            dims += packed(value) if isinstance(value, memoryview) else [value]
        elif number == 2 and isinstance(value, memoryview):
            type_name = str(value, "utf-8")
        elif number == 3 and isinstance(value, memoryview):
            content = value
    return str(entry[1], "utf-8"), dims, type_name, content


def _array(tag: str, dims: list[int], type_name: str, pieces: list[memoryview]) -> np.ndarray | str:
    content = bytearray().join(pieces)
    if type_name == "str":
        return content.decode("utf-32-le")
    # Older writers give a scalar the dims [0].
    shape = [] if dims == [0] and content else dims
    if type_name == "BFloat16":
        values = widen_bfloat16(content)
    elif type_name in TYPE_NAMES:
        values = np.frombuffer(content, TYPE_NAMES[type_name])
    else:
        raise ValueError(f"{tag} is of the unknown type {type_name!r}")
    if values.size != math.prod(shape):
        raise ValueError(f"{tag} has {values.size} values for the shape {shape}")
    return values.reshape(shape)


def _encoded(tag: str, shape: tuple[int, ...], type_name: str, content: memoryview) -> tuple[bytes, memoryview]:
    """Return one entry as its head and its content, which is the last field and is not copied."""
    head = b"".join(_key(1, VARINT) + _number(size) for size in shape)
    head += _lengthed(2, type_name.encode()) + _key(3, BYTES) + _number(len(content))
    tensor_length = len(head) + len(content)
    head = _lengthed(1, tag.encode("utf-8")) + _key(2, BYTES) + _number(tensor_length) + head
    return _key(1, BYTES) + _number(len(head) + len(content)) + head, content


def _lengthed(number: int, payload: bytes) -> bytes:
    return _key(number, BYTES) + _number(len(payload)) + payload


def _key(number: int, kind: int) -> bytes:
    return _number(number << 3 | kind)


def _number(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
