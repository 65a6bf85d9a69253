"""What a checkpoint is: layout, network, classes, origin, tensors and whether they are finite. Nothing in it is run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.checkpoints.branches import has_branches
from common.checkpoints.checkpoint import Checkpoint, read, recognised
from common.checkpoints.describe import described
from common.checkpoints.formats import SINGLE, content_format, is_own, read_content
from common.checkpoints.layouts import DIALECTS
from common.files import sha256
from common.networks.tensors import Tensors, is_counter, listing

STATED = ("experiment", "method", "framework", "epoch", "iteration", "miou", "role")
"""What of a file's own description is printed as it is."""


def inspect(path: Path, dialect: str | None = None, unsafe: bool = False) -> str:
    """Return the description of a checkpoint file as text; raises :class:`UserError` for a file that cannot be read.

    A file whose names no layout has is shown as it is, because that is when one looks.
    """
    content = read_content(path, unsafe)
    size = f"{path.stat().st_size / 1e6:.1f} MB ({path.stat().st_size} bytes)"
    rows = [("file", str(path)), ("format", content_format(path)), ("size", size), ("sha256", sha256(path))]
    if dialect is None and not is_own(content) and recognised(content) is None:
        rows += [("layout", f"none of the known ones ({', '.join(DIALECTS)})")]
        parts = dict(_arrays(content))
        return "\n".join([*_lines([*rows, *_finite({"": parts})]), *_tensors({"": parts})])
    checkpoint = described(read(path, dialect, unsafe=unsafe))
    shown = {_shown(role, checkpoint): tensors for role, tensors in checkpoint.networks.items()}
    everything = shown | ({"state": checkpoint.state} if checkpoint.state else {})
    rows += _origin(checkpoint) + _network(checkpoint)
    rows += [("network", f"{role}: {_count(tensors)}") for role, tensors in shown.items()]
    if checkpoint.state:
        rows.append(("state", f"{len(checkpoint.state)} arrays"))
    if checkpoint.not_read:
        rows.append(("not read", listing(checkpoint.not_read)))
    return "\n".join([*_lines([*rows, *_finite(everything)]), *_tensors(everything)])


def _origin(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    meta, origin = checkpoint.meta, checkpoint.meta.origin
    if origin is None:
        rows = [("layout", f"this project's own, version {meta.format_version}")]
    else:
        layout = DIALECTS[origin.dialect]
        twins = [other.name for other in DIALECTS.values() if other.marks.same_as == layout.name]
        also = f" (files of {', '.join(twins)} are the same)" if twins else ""
        rows = [("layout", f"{layout.name}: {layout.description}{also}")]
        if layout.preset:
            rows.append(("method", " or ".join([layout.name.removesuffix("-mindspore"), *twins])))
        rows += [(name, str(value)) for name, value in origin.values.items() if value is not None]
    return rows + [(name, str(getattr(meta, name))) for name in STATED if getattr(meta, name) is not None]


def _network(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    network = checkpoint.meta.network
    if network is None:
        return []
    parts = [network["encoder"], f"{network.get('stem')} stem", f"output stride {network.get('output_stride')}"]
    for key in ("representation", "auxiliary", "subclasses"):
        if network.get(key):
            parts.append(key if network[key] is True else f"{key} {network[key]}")
    classes = checkpoint.meta.classes or ()
    return [("built as", ", ".join(parts)), ("classes", f"{len(classes)}: {listing(classes)}")]


def _shown(role: str, checkpoint: Checkpoint) -> str:
    return checkpoint.meta.role or role if role == SINGLE else role


def _count(tensors: Tensors) -> str:
    learned = sum(array.size for name, array in tensors.items() if not is_counter(name) and ".running_" not in name)
    branches = ", class and subclass branch" if has_branches(tensors) else ""
    return f"{len(tensors)} tensors, {learned:,} parameters{branches}"


def _finite(parts: dict[str, Tensors]) -> list[tuple[str, str]]:
    """One row for every tensor with a NaN or an infinity, or one that says that there is none."""
    rows = []
    for role, tensors in parts.items():
        for name, array in tensors.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                counts = f"{int(np.isnan(array).sum())} NaN, {int(np.isinf(array).sum())} infinite of {array.size}"
                rows.append(("NOT FINITE", f"{' '.join(filter(None, [role, name]))}: {counts}"))
    return rows or [("finite", "all values are numbers")]


def _arrays(content: dict[str, Any], where: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for key, value in content.items():
        if isinstance(value, np.ndarray):
            yield f"{where}{key}", value
        elif isinstance(value, dict):
            yield from _arrays(value, f"{where}{key} / ")


def _lines(rows: list[tuple[str, str]]) -> list[str]:
    return [f"{name:11} {text}" for name, text in rows]


def _tensors(parts: dict[str, Tensors]) -> list[str]:
    lines = ["tensors"]
    for role, tensors in parts.items():
        lines += [f"  {role}"] if role else []
        width = max(map(len, tensors), default=0)
        for name, array in tensors.items():
            shape = "x".join(map(str, array.shape)) if math.prod(array.shape) != 1 or array.ndim else "scalar"
            lines.append(f"    {name:{width}}  {array.dtype.name:8} {shape}")
    return lines
