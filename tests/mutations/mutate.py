"""What can be wrong with a file: cut, flipped, exchanged, oversized. Every function draws from ``rng`` alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

Change = Callable[[Path, Random], None]
"""Spoils one file in its place."""

CANARY = "canary"
"""Made in the working folder by whatever runs hostile code."""
EXTREMES = (b"\xff" * 4, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\0" * 8, b"\xff" * 7 + b"\x7f", b"\0\0\0\x40", b"\1")
WORDS = (
    "", "-1", "0", "7", "1e308", "nan", ".inf", "null", "true", "[]", "{}", "[1, 2]", '"x"', "10" * 20, "../../escape",
    "/etc/passwd", "~nobody/x", "\u00e4\u65e5", "a b", "\ufeff", "\0", "'", '"', "{", "[", "- ", ": ", "# ", "&a [*a]", "*a",
    "!!python/object/apply:os.mkdir [canary]", "!!binary aaaa", "2026-11-29", "\t", "0x10", "1_000", "yes", "<<", "x" * 5000,
)  # fmt: skip
"""What takes the place of words of text files."""


def of_bytes(change: Callable[[bytes, Random], bytes]) -> Change:
    """A change of a file's bytes."""

    def on_file(path: Path, rng: Random) -> None:
        path.write_bytes(change(path.read_bytes(), rng))

    on_file.__name__ = change.__name__
    return on_file


def place(data: bytes, rng: Random) -> int:
    """Somewhere in a file, every second time near its beginning or end, where formats say what follows."""
    near = min(200, len(data))
    return rng.choice(
        [rng.randrange(len(data)), rng.randrange(near), len(data) - 1 - rng.randrange(near)] if data else [0]
    )


@of_bytes
def empty(data: bytes, rng: Random) -> bytes:
    return b""


@of_bytes
def cut(data: bytes, rng: Random) -> bytes:
    return data[: place(data, rng)]


@of_bytes
def flip_bits(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 30)) if data else 0):
        changed[place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


@of_bytes
def overwrite(data: bytes, rng: Random) -> bytes:
    at = place(data, rng)
    block = rng.choice((*EXTREMES, rng.randbytes(rng.randrange(1, 100)), bytes(rng.randrange(1, 100))))
    return data[:at] + block + data[at + len(block) :]


@of_bytes
def insert(data: bytes, rng: Random) -> bytes:
    at = place(data, rng)
    return data[:at] + rng.choice((rng.randbytes(rng.randrange(1, 100)), data[at : at + 50])) + data[at:]


@of_bytes
def leave_out(data: bytes, rng: Random) -> bytes:
    at = place(data, rng)
    return data[:at] + data[at + rng.randrange(1, 100) :]


@of_bytes
def exchange_blocks(data: bytes, rng: Random) -> bytes:
    size = max(1, len(data) // 8)
    first, second = sorted(rng.randrange(max(1, len(data) - size)) for _ in range(2))
    second = max(second, first + size)
    return b"".join(
        [
            data[:first],
            data[second : second + size],
            data[first + size : second],
            data[first : first + size],
            data[second + size :],
        ]
    )


@of_bytes
def append(data: bytes, rng: Random) -> bytes:
    return data + rng.choice((b"\0", b"\n", rng.randbytes(300), data, bytes(100_000)))


def oversize(path: Path, rng: Random) -> None:
    """A file of half a gigabyte, nearly all of it a hole."""
    with open(path, "ab") as file:
        file.truncate(1 << 29)


def swap(path: Path, rng: Random) -> None:
    """The content of another file, of any kind, under this name."""
    home = next(parent for parent in path.parents if (parent / "parity.json").exists())
    others = [file for file in sorted(home.rglob("*")) if file.is_file() and file != path]
    path.write_bytes(rng.choice(others).read_bytes())


def become_something_else(path: Path, rng: Random) -> None:
    """No file any more: missing, a folder, a link to nowhere, to itself or to a device, a pipe."""
    path.unlink()
    match rng.choice(("missing", "folder", "nowhere", "itself", "device", "pipe")):
        case "folder":
            path.mkdir()
        case "nowhere":
            path.symlink_to(path.with_name("nowhere"))
        case "itself":
            path.symlink_to(path.name)
        case "device":
            path.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(path)


BYTES = (
    empty,
    cut,
    cut,
    flip_bits,
    flip_bits,
    flip_bits,
    overwrite,
    overwrite,
    insert,
    leave_out,
    exchange_blocks,
    append,
)
ANY = (*BYTES, swap, become_something_else, oversize)


def rename(path: Path, rng: Random) -> None:
    """Another suffix than the content has."""
    path.rename(path.with_name(path.stem + rng.choice((".pth", ".ckpt", ".safetensors", ".PT", ".pth.tar", ".bin"))))
