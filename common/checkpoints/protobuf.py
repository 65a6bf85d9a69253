"""The protobuf wire format, read without a schema: enough for MindSpore checkpoints and ONNX files."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types: how a field's value is stored."""


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Walk the fields of one message: (field number, value), varints as int, everything else as its bytes.

    Nothing is copied. Raises ValueError for bytes that are no message.
    """
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            # Zeros, as of a file that was given its length before its content.
            raise ValueError(f"byte {at - 1} begins no field")
        if kind == VARINT:
            value, at = varint(data, at)
            yield number, value
            continue
        if kind == BYTES:
            length, at = varint(data, at)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise ValueError("bytes that no protobuf message has")
        if at + length > len(data):
            raise ValueError("it ends in the middle of an entry")
        yield number, data[at : at + length]
        at += length


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return the number that starts at the byte ``at`` and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends in the middle of a number")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number of more than 64 bits")


def packed(data: memoryview) -> list[int]:
    """Return the numbers of a packed repeated field."""
    values, at = [], 0
    while at < len(data):
        value, at = varint(data, at)
        values.append(value)
    return values
