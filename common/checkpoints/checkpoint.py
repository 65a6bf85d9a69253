"""Checkpoints in neutral names, whatever file they come from or go to.

A *dialect* says which names a file has and where its networks lie; the project's own and those of the authors' programs are
tables in ``common/checkpoints/layouts.py``. A *format* says how the content lies in the file: ``common/checkpoints/formats.py``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.checkpoints.branches import CLASS_BRANCH, SUBCLASS_BRANCH, branch, has_branches
from common.checkpoints.dialects import INSIDE, Dialect, mindspore_norms, torch_norms
from common.checkpoints.formats import SINGLE, file_format, is_own, read_content, write_content
from common.checkpoints.layouts import DIALECTS
from common.checkpoints.meta import FORMAT_VERSION, CheckpointMeta, Origin
from common.checkpoints.wrappers import unwrapped
from common.config.schema import NetworkConfig
from common.config.strict import build
from common.errors import UserError
from common.networks.tensors import Tensors, check_dtypes

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
    content = read_content(path, unsafe)
    if is_own(content):
        if dialect and not find_dialect(dialect).native:
            raise UserError(f"{path} is this project's own file, not of the layout {dialect}; leave the layout out")
        checkpoint = _from_own(content, path)
    else:
        checkpoint = _from_foreign(content, _chosen(dialect, content, path), path)
    return checkpoint.only(role, str(path)) if role else checkpoint


def write(path: str | os.PathLike, checkpoint: Checkpoint, dialect: str | None = None) -> None:
    """Write a ``.safetensors`` or ``.ckpt`` file, whole or not at all; ``dialect`` None: the format's own."""
    write_content(path, content_for(path, checkpoint, dialect))


def content_for(path: str | os.PathLike, checkpoint: Checkpoint, dialect: str | None = None) -> dict[str, Any]:
    """Return the nested dict of arrays and plain values that the file ``path`` will hold in ``dialect``."""
    suffix = file_format(path)
    chosen = find_dialect(dialect or ("mindspore" if suffix == ".ckpt" else "torch"))
    if suffix not in chosen.suffixes:
        raise UserError(f"{path}: the layout {chosen.name} is that of {' or '.join(chosen.suffixes)} files")
    for tensors in (*checkpoint.networks.values(), checkpoint.state):
        check_dtypes(tensors, str(path))
    if chosen.native:
        return _own_content(path, checkpoint, chosen)
    return _foreign_content(path, checkpoint, chosen)


def capacity(path: str | os.PathLike, dialect: str | None = None) -> int | None:
    """How many networks the file ``path`` can hold in ``dialect``; None: any number."""
    if dialect is None or find_dialect(dialect).native:
        return 1 if file_format(path) == ".safetensors" else None
    return len(find_dialect(dialect).slots)


def find_dialect(name: str) -> Dialect:
    """Return the layout ``name``; raises :class:`UserError` listing the known ones."""
    if name not in DIALECTS:
        raise UserError(f"unknown layout {name!r}; known: {', '.join(DIALECTS)}")
    return DIALECTS[name]


def _from_own(content: dict[str, Any], path: Path) -> Checkpoint:
    if content["format_version"] > FORMAT_VERSION:
        version = content["format_version"]
        raise UserError(f"{path} has format {version}, this program knows {FORMAT_VERSION}; update the program")
    networks = {SINGLE: content[SINGLE]} if SINGLE in content else content.get("networks")
    state = content.get("state", {})
    if not isinstance(networks, dict) or not networks or not _all_arrays(*networks.values(), state):
        raise UserError(f"{path} lacks networks or holds something else than arrays; fetch or save it again")
    renamed = {role: torch_norms(unwrapped(tensors)) for role, tensors in networks.items()}
    return Checkpoint(meta=CheckpointMeta.from_plain(content["meta"], str(path)), networks=renamed, state=state)


def _all_arrays(*parts: Any) -> bool:
    return all(isinstance(part, dict) and all(isinstance(v, np.ndarray) for v in part.values()) for part in parts)


def recognised(content: dict[str, Any]) -> Dialect | None:
    """Return the layout of a file of another program by its content, None where no table has all of its names."""
    return next((candidate for candidate in DIALECTS.values() if candidate.fits(content)), None)


def _chosen(dialect: str | None, content: dict[str, Any], path: Path) -> Dialect:
    layout = find_dialect(dialect) if dialect else recognised(content)
    if layout:
        return layout
    raise UserError(
        f"{path}: its names are of no known layout ({', '.join(DIALECTS)}); it begins with "
        f"{', '.join(map(str, list(content)[:4])) or 'nothing'}; name the layout to see which names do not fit"
    )


def _from_foreign(content: dict[str, Any], dialect: Dialect, path: Path) -> Checkpoint:
    networks, homeless, left = dialect.networks(content)
    if homeless or not networks:
        places = ", ".join(f"{slot.key} {slot.prefix}".strip() or "the file itself" for slot in dialect.slots)
        problem = f"{homeless[0]} lies elsewhere" if homeless else "there are none"
        raise UserError(f"{path}: the layout {dialect.name} keeps its networks in {places}; here {problem}")
    state = {name: content[name] for name in dialect.wrapper.state if isinstance(content.get(name), np.ndarray)}
    values = {name: value for name, value in content.items() if _is_plain(value)}
    flat = not any(isinstance(content.get(slot.key), dict) for slot in dialect.slots)
    taken = {*(content if flat else ()), *state, *values, *(slot.key for slot in dialect.slots), *INSIDE}
    checkpoint = Checkpoint(
        meta=CheckpointMeta(origin=Origin(dialect=dialect.name, values=values)),
        networks={role: dialect.to_neutral(tensors, str(path)) for role, tensors in networks.items()},
        state=state,
        not_read=(*left, *(name for name in content if name not in taken)),
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
    content: dict[str, Any] = {"format_version": FORMAT_VERSION, "meta": meta}
    if checkpoint.deployable:
        return content | {SINGLE: networks[SINGLE]}
    if file_format(path) == ".safetensors":
        raise UserError(
            f"{path}: .safetensors holds one network; choose one of {', '.join(networks)}, or .pth or .ckpt"
        )
    return content | {"networks": networks, "state": dict(checkpoint.state)}


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
    content: dict[str, Any] = {}
    for role, tensors in networks.items():
        slot = slots[role]
        foreign = dialect.from_neutral(tensors, str(path))
        place = content.setdefault(slot.key, {}) if slot.key else content
        place.update({f"{dialect.module_prefix}{slot.prefix}{name}": array for name, array in foreign.items()})
    if not dialect.wrapper.keys:
        return content
    content |= {name: checkpoint.state[name] for name in dialect.wrapper.state if name in checkpoint.state}
    values = _foreign_values(checkpoint.meta, dialect)
    places = {slot.key for slot in dialect.slots}
    whole = {
        key: content.get(key, values.get(key)) for key in dialect.wrapper.keys if key in content or key not in places
    }
    return whole | values | content


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
