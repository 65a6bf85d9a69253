"""Named arrays of a network: what a checkpoint may hold, and the strict comparison before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from common.errors import UserError

Tensors = dict[str, np.ndarray]
"""Arrays by neutral name (the module names of ``torch_impl/networks``)."""

DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
"""NumPy types that ``.pth``, ``.ckpt`` and ``.safetensors`` all hold."""

LISTED = 12
"""Number of names that a message spells out before it only counts."""


def is_counter(name: str) -> bool:
    """Whether ``name`` is PyTorch's count of BatchNorm batches: carried when present, never required."""
    return name.endswith(".num_batches_tracked")


def check_dtypes(tensors: Tensors, where: str) -> None:
    """Raise :class:`UserError` unless every array has one of ``DTYPES``."""
    for name, array in tensors.items():
        if array.dtype.name not in DTYPES:
            raise UserError(
                f"{where}: {name} is {array.dtype}, but a checkpoint holds {', '.join(DTYPES)}; save it as one of these"
            )


def widen_bfloat16(raw: bytes | bytearray, byte_order: str = "<") -> np.ndarray:
    """Return float32 ``[n]`` with exactly the values of ``n`` raw bfloat16 numbers (NumPy has no such type)."""
    return (np.frombuffer(raw, f"{byte_order}u2").astype(np.uint32) << 16).view(np.float32)


def listing(names: Iterable[str]) -> str:
    """Return the first names separated by commas, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def require_match(expected: Mapping[str, tuple[int, ...]], tensors: Tensors, where: str) -> None:
    """Raise one :class:`UserError` that lists every missing, surplus and misshapen name; counters are not compared.

    ``expected`` is name -> shape of the network, ``tensors`` the arrays of the file ``where``.
    """
    wanted = {name: tuple(shape) for name, shape in expected.items() if not is_counter(name)}
    shapes = {name: array.shape for name, array in tensors.items() if not is_counter(name)}
    missing = [name for name in wanted if name not in shapes]
    surplus = [name for name in shapes if name not in wanted]
    misshapen = [
        f"{name} {list(shapes[name])} in the file, {list(shape)} in the network"
        for name, shape in wanted.items()
        if name in shapes and shapes[name] != shape
    ]
    parts = {"missing": missing, "surplus": surplus, "of another shape": misshapen}
    text = "; ".join(f"{len(names)} {kind}: {listing(names)}" for kind, names in parts.items() if names)
    if text:
        hint = "take the experiment the file was trained for, or another role or dialect"
        raise UserError(f"{where} does not fit this network, nothing was loaded: {text}; {hint}")
