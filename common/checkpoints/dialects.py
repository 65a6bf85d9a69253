"""How names are translated between the neutral ones (modules of ``torch_impl/networks``) and those of other programs.

A rule is a pair (neutral prefix, foreign prefix); the longest prefix that ends at a dot wins. One table serves both
directions. A name that no rule carries there and back again is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from common.checkpoints.wrappers import unwrapped, without_bookkeeping, without_holder
from common.errors import UserError
from common.networks.tensors import Tensors, is_counter, listing

Rules = tuple[tuple[str, str], ...]
NormStyle = Literal["torch", "mindspore"]

MINDSPORE_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
"""What MindSpore calls the tensors of a BatchNorm."""
INSIDE = ("state_dict", "model")
"""Entries that the names of a flat file may also lie in."""
TORCH_NORM = {mindspore: torch for torch, mindspore in MINDSPORE_NORM.items()}


@dataclass(frozen=True)
class Slot:
    """Where a file keeps a network: under ``key`` (empty: the file is flat), in names that start with ``prefix``."""

    role: str
    key: str = ""
    prefix: str = ""


class Networks(NamedTuple):
    """What a file's names say: networks by role, names that are in no slot, and those of training's bookkeeping."""

    by_role: dict[str, Tensors]
    homeless: list[str]
    left: list[str]


@dataclass(frozen=True, kw_only=True)
class Marks:
    """By what a layout is told from the others.

    ``name`` is the start of one of its foreign names, ``entries`` must lie at the file's top level. ``same_as`` is the layout
    that is recognised in place of this one because their files do not differ.
    """

    name: str
    entries: tuple[str, ...] = ()
    same_as: str = ""


@dataclass(frozen=True, kw_only=True)
class Wrapper:
    """What a file holds at its top level, beside the networks or around them.

    ``keys`` are all entries in order; one that we have nothing for is written as None. Of these, ``values`` are plain
    (foreign name, name in :class:`CheckpointMeta`), ``constants`` always the same, ``percent`` the mIoU in percent.
    ``state`` are arrays that only some files have.
    """

    keys: tuple[str, ...] = ()
    values: tuple[tuple[str, str], ...] = ()
    constants: tuple[tuple[str, Any], ...] = ()
    percent: str = ""
    state: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One layout of checkpoint files: its names (``rules``), where its networks lie (``slots``), what is around them.

    ``module_prefix`` is written before every name. ``norm`` says whose names a BatchNorm's tensors have, ``counters`` whether
    its batches are counted. ``ignored`` names are not read; ``zero_bias`` are convolutions that have a bias here and none
    there. ``preset`` is the file of ``configs/networks`` whose network the layout holds, ``native`` whether the layout is this
    project's.
    """

    name: str
    description: str
    rules: Rules
    slots: tuple[Slot, ...]
    marks: Marks
    wrapper: Wrapper = Wrapper()
    suffixes: tuple[str, ...] = (".pth",)
    module_prefix: str = ""
    norm: NormStyle = "torch"
    counters: bool = True
    ignored: tuple[str, ...] = ()
    zero_bias: tuple[str, ...] = ()
    preset: str = ""
    native: bool = False

    def neutral_name(self, name: str) -> str | None:
        """Return the neutral name of a foreign one, or None where the table has no way there and back."""
        result = _translate(name, self._foreign_to_neutral)
        return result if result is not None and _translate(result, self._neutral_to_foreign) == name else None

    def foreign_name(self, name: str) -> str | None:
        """Return the foreign name of a neutral one, or None where the table has no way there and back."""
        result = _translate(name, self._neutral_to_foreign)
        return result if result is not None and _translate(result, self._foreign_to_neutral) == name else None

    @cached_property
    def _neutral_to_foreign(self) -> dict[str, str]:
        return dict(self.rules)

    @cached_property
    def _foreign_to_neutral(self) -> dict[str, str]:
        return {foreign: neutral for neutral, foreign in self.rules}

    def to_neutral(self, tensors: Tensors, where: str) -> Tensors:
        """Rename one network's foreign arrays; raises :class:`UserError` listing the names that have no counterpart."""
        tensors = {name: array for name, array in torch_norms(tensors).items() if not _starts(name, self.ignored)}
        tensors = _rename(tensors, self.neutral_name, f"{where}: names that the layout {self.name} does not have")
        for module in self.zero_bias:
            weight = tensors.get(f"{module}.weight")
            if weight is not None:
                tensors.setdefault(f"{module}.bias", np.zeros(weight.shape[0], weight.dtype))
        return tensors

    def from_neutral(self, tensors: Tensors, where: str) -> Tensors:
        """Rename one network's neutral arrays, without ``module_prefix``.

        Raises :class:`UserError` listing what the layout has no place for.
        """
        kept = {name: array for name, array in tensors.items() if self.counters or not is_counter(name)}
        for module in self.zero_bias:
            bias = kept.pop(f"{module}.bias", None)
            if bias is not None and bias.any():
                raise UserError(f"{where}: the layout {self.name} has no place for {module}.bias, which is not zero")
        if self.counters and not self.native:
            kept = _with_counters(kept)
        kept = _rename(kept, self.foreign_name, f"{where}: the layout {self.name} has no place for")
        return mindspore_norms(kept) if self.norm == "mindspore" else kept

    def networks(self, content: Mapping[str, Any]) -> Networks:
        """Return the networks in a file's content by role, and the names that are in no slot or no part of a network.

        Names are foreign ones, without wrappers (``common/checkpoints/wrappers.py``). A flat file is taken for the content
        of the first slot's key.
        """
        keys = dict.fromkeys(slot.key for slot in self.slots)
        places = {key: content[key] for key in keys if isinstance(content.get(key), dict)}
        if not places:
            wrapped = [content[key] for key in INSIDE if isinstance(content.get(key), dict)]
            flat = wrapped[0] if wrapped else content
            places = {self.slots[0].key: flat} if arrays_of(flat) else {}
        networks: dict[str, Tensors] = {}
        homeless: list[str] = []
        left: list[str] = []
        for key, place in places.items():
            rest, beside = without_bookkeeping(unwrapped(arrays_of(place)), self._is_known)
            rest = without_holder(rest, self._first_parts)
            left += beside
            for slot in self.slots:
                if slot.key == key:
                    part = [name for name in rest if name.startswith(slot.prefix)]
                    if part:
                        networks[slot.role] = {name[len(slot.prefix) :]: rest.pop(name) for name in part}
            homeless += rest
        return Networks(networks, homeless, left)

    def _is_known(self, name: str) -> bool:
        return self.neutral_name(name) is not None or _starts(name, self.ignored)

    @cached_property
    def _first_parts(self) -> set[str]:
        """Where the names of the layout's networks begin."""
        names = [*self._foreign_to_neutral, *self.ignored, *(slot.prefix for slot in self.slots if slot.prefix)]
        return {name.partition(".")[0] for name in names}

    def fits(self, content: Mapping[str, Any]) -> bool:
        """Whether all names of a file's networks are this layout's, and its marks are among them."""
        if self.marks.same_as or not all(entry in content for entry in self.marks.entries):
            return False
        networks, homeless, _ = self.networks(content)
        styles = {style for tensors in networks.values() for style in [_norm_style(tensors)] if style}
        names = [name for tensors in networks.values() for name in torch_norms(tensors)]
        return (
            not homeless
            and styles <= {self.norm}
            and all(map(self._is_known, names))
            and any(name.startswith(self.marks.name) for name in names)
        )


def torch_norms(tensors: Tensors) -> Tensors:
    """Give every BatchNorm, recognised by the moving mean beside it, PyTorch's names."""
    return _rename_norms(tensors, "moving_mean", TORCH_NORM)


def mindspore_norms(tensors: Tensors) -> Tensors:
    """Give every BatchNorm, recognised by the running mean beside it, MindSpore's names."""
    return _rename_norms(tensors, "running_mean", MINDSPORE_NORM)


def arrays_of(content: Mapping[str, Any]) -> Tensors:
    """Return the named entries that are arrays."""
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, np.ndarray)}


def sequence(neutral: str, foreign: str, indices: Iterable[int], parts: Iterable[str] = ("conv", "bn")) -> Rules:
    """Return the rules for a module whose ``parts`` are numbered ``indices`` in the foreign layout."""
    return tuple((f"{neutral}.{part}", f"{foreign}.{index}") for part, index in zip(parts, indices, strict=True))


def _rename_norms(tensors: Tensors, mean: str, names: Mapping[str, str]) -> Tensors:
    renamed = {}
    for name, array in tensors.items():
        module, _, leaf = name.rpartition(".")
        is_norm = leaf in names and f"{module}.{mean}" in tensors
        renamed[f"{module}.{names[leaf]}" if is_norm else name] = array
    return renamed


def _with_counters(tensors: Tensors) -> Tensors:
    """Add the counters that frameworks without them leave out, as 0, where PyTorch has them: after the variance."""
    counted = {}
    for name, array in tensors.items():
        counted[name] = array
        module, _, leaf = name.rpartition(".")
        if leaf == "running_var" and f"{module}.num_batches_tracked" not in tensors:
            counted[f"{module}.num_batches_tracked"] = np.zeros((), np.int64)
    return counted


def _norm_style(tensors: Tensors) -> NormStyle | None:
    leaves = {name.rpartition(".")[2] for name in tensors}
    if "moving_mean" in leaves:
        return "mindspore"
    return "torch" if "running_mean" in leaves else None


def _translate(name: str, rules: Mapping[str, str]) -> str | None:
    """Replace the longest prefix that has a rule."""
    prefix = name
    while prefix and prefix not in rules:
        prefix = prefix.rpartition(".")[0]
    return rules[prefix] + name[len(prefix) :] if prefix else None


def _starts(name: str, prefixes: Iterable[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _rename(tensors: Tensors, rename: Callable[[str], str | None], complaint: str) -> Tensors:
    names = {name: rename(name) for name in tensors}
    unknown = [name for name, new in names.items() if new is None]
    if unknown:
        raise UserError(f"{complaint} ({len(unknown)}): {listing(unknown)}")
    return {names[name]: array for name, array in tensors.items()}
