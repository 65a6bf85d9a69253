"""Checkpoints in neutral names, whatever file they come from or go to.

======================  ==================================================================================
``.safetensors``        one network, neutral names; ``meta`` as JSON in the metadata block
``.pth`` (``.pt``)      ``format_version``, ``meta`` and ``model``, or ``networks`` and ``state`` of a run
``.ckpt``               tags ``NAME``, or ``network/ROLE/NAME`` and ``state/NAME``; ``__meta__`` as uint8 JSON
======================  ==================================================================================

The authors' layouts are tables in ``common/checkpoints/layouts.py``. Writing ``.pth`` needs PyTorch: ``torch_impl/checkpoint.py``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.checkpoints.branches import CLASS_BRANCH, SUBCLASS_BRANCH, branch, has_branches
from common.checkpoints.ckpt_file import read_ckpt, write_ckpt
from common.checkpoints.dialects import INSIDE, Dialect, mindspore_norms, torch_norms
from common.checkpoints.layouts import DIALECTS
from common.checkpoints.meta import FORMAT_VERSION, CheckpointMeta, Origin
from common.checkpoints.pth_file import HEAD, is_pth, read_pth
from common.checkpoints.wrappers import unwrapped
from common.config.schema import NetworkConfig
from common.config.strict import build
from common.errors import UserError
from common.files import atomic_path
from common.networks.tensors import Tensors, check_dtypes, widen_bfloat16

SUFFIXES = {".pth": ".pth", ".pt": ".pth", ".pth.tar": ".pth", ".ckpt": ".ckpt", ".safetensors": ".safetensors"}
"""The format by the end of a file name."""
CKPT_MARK = b"\x0a"
"""How a MindSpore file begins: the first field of its message, of variable length."""
META_TAG = "__meta__"
SINGLE = "model"
DEPLOY_ORDER = ("teacher", "student", "branch1", SINGLE)
"""Which network a file of several is taken for where its ``meta`` does not say: first of these that it has."""


@dataclass
class Checkpoint:
    """Networks by role, in neutral names, and what is known about them.

    A deployable checkpoint has the one network ``model`` and no ``state``; a training state has networks by role, and in
    ``state`` everything else. A file of another program has ``meta.origin``; ``not_read`` names what else it holds and is
    not kept. Its only network is ``model``, too.
    """

    meta: CheckpointMeta
    networks: dict[str, Tensors]
    state: Tensors = field(default_factory=dict)
    not_read: tuple[str, ...] = ()

    @property
    def deployable(self) -> bool:
        """Whether this is one network and nothing else."""
        return set(self.networks) == {SINGLE} and not self.state

    def deployed_role(self) -> str:
        """The role of the network to validate and deploy."""
        for role in (self.meta.role, *DEPLOY_ORDER):
            if role in self.networks:
                return role
        return next(iter(self.networks))

    def only(self, role: str | None = None, where: str = "the checkpoint") -> Checkpoint:
        """Return the deployable checkpoint of one network; raises :class:`UserError` where that role is missing.

        ``class`` and ``subclass`` are the branches of a network with two, each as a network of its own.
        """
        if role in (CLASS_BRANCH, SUBCLASS_BRANCH) and role not in self.networks:
            return self._branch(role, where)
        role = role or self.deployed_role()
        if role not in self.networks and not (self.deployable and role == self.meta.role):
            raise UserError(f"{where} has no network of the role {role!r}; it has {', '.join(self.networks)}")
        if self.deployable:
            return self
        meta = dataclasses.replace(self.meta, role=role)
        return Checkpoint(meta=meta, networks={SINGLE: self.networks[role]}, not_read=self.not_read)

    def _branch(self, role: str, where: str) -> Checkpoint:
        whole = self.only(where=where)
        if role == whole.meta.role:
            return whole
        if not has_branches(whole.networks[SINGLE]):
            raise UserError(f"{where} has no network of the role {role!r}: its network has no subclass branch")
        tensors, meta = branch(whole.networks[SINGLE], whole.meta, role)
        return Checkpoint(meta=meta, networks={SINGLE: tensors}, not_read=whole.not_read)

    def built_from(self, where: str) -> tuple[NetworkConfig, tuple[str, ...]]:
        """Return the network's configuration and the names of its classes; raises :class:`UserError` where unknown."""
        if self.meta.network is None or self.meta.classes is None:
            raise UserError(f"{where} does not say which network it holds; name the experiment")
        return build(NetworkConfig, self.meta.network, {"": where}), self.meta.classes


def read(
    path: str | os.PathLike, dialect: str | None = None, role: str | None = None, unsafe: bool = False
) -> Checkpoint:
    """Read a checkpoint of any known layout and format into neutral names; its content tells both, not its name.

    ``dialect`` None: recognised by content. ``role`` picks one network and makes the result deployable. ``unsafe``: see
    ``common/checkpoints/pth_file.py``. Raises :class:`UserError` for whatever cannot be read whole.
    """
    path = Path(path)
    payload = read_payload(path, unsafe)
    if is_own(payload):
        if dialect and not find_dialect(dialect).own:
            raise UserError(f"{path} is this project's own file, not of the layout {dialect}; leave the layout out")
        checkpoint = _from_own(payload, path)
    else:
        checkpoint = _from_foreign(payload, _chosen(dialect, payload, path), path)
    return checkpoint.only(role, str(path)) if role else checkpoint


def read_payload(path: Path, unsafe: bool = False) -> dict[str, Any]:
    """Return what a checkpoint file holds as it is, nested dicts of arrays and plain values; see :func:`read`."""
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}; check the path")
    try:
        payload = _READERS[content_format(path)](path, unsafe)
    except MemoryError:
        raise UserError(
            f"{path} needs more memory than there is, {path.stat().st_size / 2**20:.0f} MiB at least; close other programs "
            "(a damaged file can ask for any amount)"
        ) from None
    if not isinstance(payload, dict):
        raise UserError(f"{path} holds a {type(payload).__name__}, not a checkpoint; save its state dict")
    return payload


def write(path: str | os.PathLike, checkpoint: Checkpoint, dialect: str | None = None) -> None:
    """Write a ``.safetensors`` or ``.ckpt`` file, whole or not at all; ``dialect`` None: the format's own."""
    suffix = file_format(path)
    if suffix == ".pth":
        raise UserError(f"{path}: writing .pth needs PyTorch; write .safetensors or .ckpt, or install the extra torch")
    payload = content_for(path, checkpoint, dialect)
    flat = _flattened(payload)
    if suffix == ".ckpt":
        write_ckpt(path, flat | _meta_tensor(payload))
    else:
        _write_safetensors(path, flat, payload)


def content_for(path: str | os.PathLike, checkpoint: Checkpoint, dialect: str | None = None) -> dict[str, Any]:
    """Return the nested dict of arrays and plain values that the file ``path`` will hold in ``dialect``."""
    suffix = file_format(path)
    chosen = find_dialect(dialect or ("mindspore" if suffix == ".ckpt" else "torch"))
    if suffix not in chosen.suffixes:
        raise UserError(f"{path}: the layout {chosen.name} is that of {' or '.join(chosen.suffixes)} files")
    for tensors in (*checkpoint.networks.values(), checkpoint.state):
        check_dtypes(tensors, str(path))
    if chosen.own:
        return _own_content(path, checkpoint, chosen)
    return _foreign_content(path, checkpoint, chosen)


def capacity(path: str | os.PathLike, dialect: str | None = None) -> int | None:
    """How many networks the file ``path`` can hold in ``dialect``; None: any number."""
    if dialect is None or find_dialect(dialect).own:
        return 1 if file_format(path) == ".safetensors" else None
    return len(find_dialect(dialect).slots)


def find_dialect(name: str) -> Dialect:
    """Return the layout ``name``; raises :class:`UserError` listing the known ones."""
    if name not in DIALECTS:
        raise UserError(f"unknown layout {name!r}; known: {', '.join(DIALECTS)}")
    return DIALECTS[name]


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


def _read_ckpt(path: Path, unsafe: bool) -> dict[str, Any]:
    content = read_ckpt(path)
    raw = content.pop(META_TAG, None)
    if raw is None:
        return content
    payload = _own_header(np.asarray(raw).tobytes(), path)
    if not any(tag.startswith("network/") for tag in content):
        return payload | {SINGLE: content}
    networks: dict[str, Any] = {}
    state = {}
    for tag, value in content.items():
        kind, _, name = tag.partition("/")
        if kind == "network":
            role, _, name = name.partition("/")
            networks.setdefault(role, {})[name] = value
        else:
            state[name] = value
    return payload | {"networks": networks, "state": state}


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
        meta = json.loads(text)
        return {"format_version": meta["format_version"], "meta": meta}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: its description ({META_TAG}) is damaged; fetch or save the file again") from None


def is_own(payload: dict[str, Any]) -> bool:
    """Whether a file's content is of this project's own form, whatever its names."""
    return isinstance(payload.get("format_version"), int) and isinstance(payload.get("meta"), dict)


def _from_own(payload: dict[str, Any], path: Path) -> Checkpoint:
    if payload["format_version"] > FORMAT_VERSION:
        version = payload["format_version"]
        raise UserError(f"{path} has format {version}, this program knows {FORMAT_VERSION}; update the program")
    networks = {SINGLE: payload[SINGLE]} if SINGLE in payload else payload.get("networks")
    state = payload.get("state", {})
    if not isinstance(networks, dict) or not networks or not _all_arrays(*networks.values(), state):
        raise UserError(f"{path} lacks networks or holds something else than arrays; fetch or save it again")
    renamed = {role: torch_norms(unwrapped(tensors)) for role, tensors in networks.items()}
    return Checkpoint(meta=CheckpointMeta.from_plain(payload["meta"], str(path)), networks=renamed, state=state)


def _all_arrays(*parts: Any) -> bool:
    return all(isinstance(part, dict) and all(isinstance(v, np.ndarray) for v in part.values()) for part in parts)


def recognised(payload: dict[str, Any]) -> Dialect | None:
    """Return the layout of a file of another program by its content, None where no table has all of its names."""
    return next((candidate for candidate in DIALECTS.values() if candidate.fits(payload)), None)


def _chosen(dialect: str | None, payload: dict[str, Any], path: Path) -> Dialect:
    found = find_dialect(dialect) if dialect else recognised(payload)
    if found:
        return found
    raise UserError(
        f"{path}: its names are of no known layout ({', '.join(DIALECTS)}); it begins with "
        f"{', '.join(map(str, list(payload)[:4])) or 'nothing'}; name the layout to see which names do not fit"
    )


def _from_foreign(payload: dict[str, Any], dialect: Dialect, path: Path) -> Checkpoint:
    networks, homeless, left = dialect.networks(payload)
    if homeless or not networks:
        places = ", ".join(f"{slot.key} {slot.prefix}".strip() or "the file itself" for slot in dialect.slots)
        found = f"{homeless[0]} lies elsewhere" if homeless else "there are none"
        raise UserError(f"{path}: the layout {dialect.name} keeps its networks in {places}; here {found}")
    state = {name: payload[name] for name in dialect.wrapper.state if isinstance(payload.get(name), np.ndarray)}
    values = {name: value for name, value in payload.items() if _is_plain(value)}
    flat = not any(isinstance(payload.get(slot.key), dict) for slot in dialect.slots)
    taken = {*(payload if flat else ()), *state, *values, *(slot.key for slot in dialect.slots), *INSIDE}
    checkpoint = Checkpoint(
        meta=CheckpointMeta(origin=Origin(dialect=dialect.name, values=values)),
        networks={role: dialect.to_neutral(tensors, str(path)) for role, tensors in networks.items()},
        state=state,
        not_read=(*left, *(name for name in payload if name not in taken)),
    )
    return checkpoint if state or len(networks) > 1 else checkpoint.only()


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold it."""
    return isinstance(value, (int, str, type(None))) or (isinstance(value, float) and math.isfinite(value))


def _own_content(path: str | os.PathLike, checkpoint: Checkpoint, dialect: Dialect) -> dict[str, Any]:
    # By way of JSON: a NumPy number in it would make a .pth file more than plain values.
    meta = json.loads(json.dumps(checkpoint.meta.to_plain() | {"format_version": FORMAT_VERSION}, allow_nan=False))
    rename = mindspore_norms if dialect.norm == "mindspore" else dict
    networks = {role: rename(tensors) for role, tensors in checkpoint.networks.items()}
    payload: dict[str, Any] = {"format_version": FORMAT_VERSION, "meta": meta}
    if checkpoint.deployable:
        return payload | {SINGLE: networks[SINGLE]}
    if file_format(path) == ".safetensors":
        raise UserError(
            f"{path}: .safetensors holds one network; choose one of {', '.join(networks)}, or .pth or .ckpt"
        )
    return payload | {"networks": networks, "state": dict(checkpoint.state)}


def _foreign_content(path: str | os.PathLike, checkpoint: Checkpoint, dialect: Dialect) -> dict[str, Any]:
    slots = {slot.role: slot for slot in dialect.slots}
    networks = checkpoint.networks
    if checkpoint.deployable:
        role = checkpoint.meta.role
        networks = {role if role in slots else dialect.slots[0].role: networks[SINGLE]}
    if not set(networks) <= set(slots):
        raise UserError(
            f"{path}: the layout {dialect.name} holds {', '.join(slots)}, not {', '.join(networks)}; choose one role"
        )
    payload: dict[str, Any] = {}
    for role, tensors in networks.items():
        slot = slots[role]
        foreign = dialect.from_neutral(tensors, str(path))
        content = payload.setdefault(slot.key, {}) if slot.key else payload
        content.update({f"{dialect.module_prefix}{slot.prefix}{name}": array for name, array in foreign.items()})
    if not dialect.wrapper.keys:
        return payload
    payload |= {name: checkpoint.state[name] for name in dialect.wrapper.state if name in checkpoint.state}
    values = _foreign_values(checkpoint.meta, dialect)
    places = {slot.key for slot in dialect.slots}
    whole = {
        key: payload.get(key, values.get(key)) for key in dialect.wrapper.keys if key in payload or key not in places
    }
    return whole | values | payload


def _foreign_values(meta: CheckpointMeta, dialect: Dialect) -> dict[str, Any]:
    """The plain entries of a file: those it came with, else what our ``meta`` says in the layout's words."""
    wrapper = dialect.wrapper
    if meta.origin is not None and find_dialect(meta.origin.dialect).rules == dialect.rules:
        return dict(wrapper.constants) | meta.origin.values
    values = dict(wrapper.constants) | {
        foreign: getattr(meta, entry) for foreign, entry in wrapper.values if getattr(meta, entry) is not None
    }
    if wrapper.percent and meta.miou is not None:
        values[wrapper.percent] = round(100 * meta.miou, 2)
    return values


def _flattened(payload: dict[str, Any]) -> Tensors:
    if not is_own(payload):
        return payload
    if SINGLE in payload:
        return payload[SINGLE]
    flat = {f"state/{name}": array for name, array in payload["state"].items()}
    for role, tensors in payload["networks"].items():
        flat |= {f"network/{role}/{name}": array for name, array in tensors.items()}
    return flat


def _meta_tensor(payload: dict[str, Any]) -> Tensors:
    """The description as the last tensor, so that a file cut off between two tensors lacks it."""
    if not is_own(payload):
        return {}
    return {META_TAG: np.frombuffer(json.dumps(payload["meta"]).encode("utf-8"), np.uint8)}


def _write_safetensors(path: str | os.PathLike, tensors: Tensors, payload: dict[str, Any]) -> None:
    from safetensors.numpy import save

    metadata = {"meta": json.dumps(payload["meta"])} if is_own(payload) else None
    content = save({name: array.copy(order="C") for name, array in tensors.items()}, metadata)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
