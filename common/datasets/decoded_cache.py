"""Decoded images kept as plain arrays on disk: reading one back costs a small part of decoding a large PNG.

A cached array belongs to one state of its source: path, size and time of change are part of its name, so a replaced
image is decoded again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.files import require_ordinary, write_array_atomic

READER = 2
"""Raised whenever a file is decoded to other values than before, so that arrays of the old reading are not used."""


def cached(folder: Path, source: Path, axes: int, decode: Callable[[], np.ndarray]) -> np.ndarray:
    """Return ``decode()`` of the file ``source``, whole numbers of so many ``axes``, from ``folder`` or else put there.

    Several processes may do this at once: an array is written whole or not at all.
    """
    state = source.stat()
    identity = f"{READER}\n{source.resolve()}\n{state.st_size}\n{state.st_mtime_ns}"
    key = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    path = folder / f"{source.stem}-{key}.npy"
    try:
        require_ordinary(path)
        array = np.load(path, allow_pickle=False)
        if array.ndim == axes and array.dtype.kind in "biu":
            return array
    # A damaged header can fail in nearly every way that Python knows; the picture itself is still there.
    except Exception:
        pass
    array = decode()
    write_array_atomic(path, array)
    return array
