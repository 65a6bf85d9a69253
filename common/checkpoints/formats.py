"""The three formats of checkpoint files: which one a file has, and its content, nested dicts of arrays and plain values.

======================  ==================================================================================
``.safetensors``        one network, neutral names; ``meta`` as JSON in the metadata block
``.pth`` (``.pt``)      ``format_version``, ``meta`` and ``model``, or ``networks`` and ``state`` of a run
``.ckpt``               tags ``NAME``, or ``network/ROLE/NAME`` and ``state/NAME``; ``__meta__`` as uint8 JSON
======================  ==================================================================================

Files of other programs have other names and places in them; their content is read and written alike. Writing ``.pth`` needs
PyTorch: ``torch_impl/checkpoint.py``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.checkpoints.ckpt_file import read_ckpt, write_ckpt
from common.checkpoints.pth_file import HEAD, is_pth, read_pth
from common.errors import UserError
from common.files import atomic_path, parse_json
from common.networks.tensors import Tensors, widen_bfloat16

SUFFIXES = {".pth": ".pth", ".pt": ".pth", ".pth.tar": ".pth", ".ckpt": ".ckpt", ".safetensors": ".safetensors"}
"""The format by the end of a file name."""
CKPT_MARK = b"\x0a"
"""How a MindSpore file begins: the first field of its message, of variable length."""
META_TAG = "__meta__"
"""Where a ``.ckpt`` file has its description."""
SINGLE = "model"
"""Where a file of one network has it."""


def file_format(path: str | os.PathLike) -> str:
    """Return ``.pth``, ``.ckpt`` or ``.safetensors`` for a file name, or raise :class:`UserError`."""
    name = Path(path).name.lower()
    for ending, suffix in SUFFIXES.items():
        if name.endswith(ending):
            return suffix
    if name.endswith(".onnx"):
        raise UserError(f"{path} is an exported model, not a checkpoint; run it with onnx_impl, or name its checkpoint")
    raise UserError(f"{path}: unknown suffix; a checkpoint is a {', '.join(SUFFIXES)} file")


def content_format(path: Path) -> str:
    """Return the format of a file that is there by its first bytes; where they tell nothing, by its name."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if is_pth(head):
        return ".pth"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8:
        return ".safetensors"
    return ".ckpt" if head.startswith(CKPT_MARK) else file_format(path)


def is_own(content: dict[str, Any]) -> bool:
    """Whether a file's content is of this project's own form, whatever its names."""
    return isinstance(content.get("format_version"), int) and isinstance(content.get("meta"), dict)


def read_content(path: Path, unsafe: bool = False) -> dict[str, Any]:
    """Return what a checkpoint file holds as it is, nested dicts of arrays and plain values.

    ``unsafe``: see ``common/checkpoints/pth_file.py``. Raises :class:`UserError` for whatever cannot be read whole.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}; check the path")
    try:
        content = _READERS[content_format(path)](path, unsafe)
    except MemoryError:
        raise UserError(
            f"{path} needs more memory than there is, {path.stat().st_size / 2**20:.0f} MiB at least; close other programs "
            "(a damaged file can ask for any amount)"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint; save its state dict")
    return content


def write_content(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Write the content of a ``.safetensors`` or ``.ckpt`` file, whole or not at all."""
    suffix = file_format(path)
    if suffix == ".pth":
        raise UserError(f"{path}: writing .pth needs PyTorch; write .safetensors or .ckpt, or install the extra torch")
    tensors = _flattened(content)
    if suffix == ".ckpt":
        write_ckpt(path, tensors | _meta_tensor(content))
    else:
        _write_safetensors(path, tensors, content)


def _read_ckpt(path: Path, unsafe: bool) -> dict[str, Any]:
    tensors = read_ckpt(path)
    raw = tensors.pop(META_TAG, None)
    if raw is None:
        return tensors
    content = _own_header(np.asarray(raw).tobytes(), path)
    if not any(tag.startswith("network/") for tag in tensors):
        return content | {SINGLE: tensors}
    networks: dict[str, Any] = {}
    state = {}
    for tag, value in tensors.items():
        kind, _, name = tag.partition("/")
        if kind == "network":
            role, _, name = name.partition("/")
            networks.setdefault(role, {})[name] = value
        else:
            state[name] = value
    return content | {"networks": networks, "state": state}


def _read_safetensors(path: Path, unsafe: bool) -> dict[str, Any]:
    from safetensors import SafetensorError, deserialize, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {}).get("meta")
            names = list(file.keys())
            wide = {name for name in names if file.get_slice(name).get_dtype() == "BF16"}
            content = {name: np.array(file.get_tensor(name)) for name in names if name not in wide}
        for name, part in deserialize(path.read_bytes()) if wide else ():
            if name in wide:
                content[name] = widen_bfloat16(part["data"]).reshape(part["shape"])
    # Beside its own error the library passes on what NumPy thinks of types and sizes.
    except (SafetensorError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); fetch or save it again") from None
    return content if header is None else _own_header(header, path) | {SINGLE: content}


_READERS: dict[str, Callable[[Path, bool], Any]] = {
    ".pth": read_pth,
    ".ckpt": _read_ckpt,
    ".safetensors": _read_safetensors,
}


def _own_header(text: str | bytes, path: Path) -> dict[str, Any]:
    try:
        meta = parse_json(text)
        return {"format_version": meta["format_version"], "meta": meta}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: its description ({META_TAG}) is damaged; fetch or save the file again") from None


def _flattened(content: dict[str, Any]) -> Tensors:
    if not is_own(content):
        return content
    if SINGLE in content:
        return content[SINGLE]
    flat = {f"state/{name}": array for name, array in content["state"].items()}
    for role, tensors in content["networks"].items():
        flat |= {f"network/{role}/{name}": array for name, array in tensors.items()}
    return flat


def _meta_tensor(content: dict[str, Any]) -> Tensors:
    """The description as the last tensor, so that a file cut off between two tensors lacks it."""
    if not is_own(content):
        return {}
    return {META_TAG: np.frombuffer(json.dumps(content["meta"]).encode("utf-8"), np.uint8)}


def _write_safetensors(path: str | os.PathLike, tensors: Tensors, content: dict[str, Any]) -> None:
    from safetensors.numpy import save

    metadata = {"meta": json.dumps(content["meta"])} if is_own(content) else None
    raw = save({name: array.copy(order="C") for name, array in tensors.items()}, metadata)
    with atomic_path(path) as temporary:
        temporary.write_bytes(raw)
