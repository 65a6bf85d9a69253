"""Layers of configuration files put over one another, with the source of every key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common.config.schema import DatasetConfig, Layout
from common.config.strict import build
from common.config.yaml_files import read_yaml
from common.errors import UserError
from common.paths import CONFIGS


class Layers:
    """Nested values put over one another, with the source and the layer number of every dotted key."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self._numbers: dict[str, int] = {}
        self._merged: list[str] = []

    def merge(self, values: Any, source: str) -> None:
        """Put ``values`` over what is there: mappings key by key, everything else is replaced.

        What comes from one source one after the other is one layer.
        """
        if not isinstance(values, Mapping):
            raise UserError(f"{source}: must be a mapping of sections, not {values!r}")
        if self._merged[-1:] != [source]:
            self._merged.append(source)
        self._merge(self.values, values, source, "")

    def number(self, dotted: str) -> int:
        """The layer that gave a dotted key its value, from 0 for the first; -1 for one that no layer has."""
        return self._numbers.get(dotted, -1)

    def drop(self, dotted: str) -> Any:
        """Take the key ``section.key`` away and return its value; None if no layer has it."""
        section, _, key = dotted.partition(".")
        self.sources.pop(dotted, None)
        self._numbers.pop(dotted, None)
        part = self.values.get(section)
        return part.pop(key, None) if isinstance(part, dict) else None

    def _merge(self, target: dict[str, Any], values: Mapping[str, Any], source: str, where: str) -> None:
        for key, value in values.items():
            key, dotted = str(key), f"{where}{key}"
            if isinstance(value, Mapping) and isinstance(target.get(key), dict):
                self._merge(target[key], value, source, f"{dotted}.")
                continue
            self.sources[dotted], self._numbers[dotted] = source, len(self._merged) - 1
            if isinstance(value, Mapping):
                target[key] = {}
                self._merge(target[key], value, source, f"{dotted}.")
            else:
                target[key] = value


def dataset_config(name: str, configs: Path = CONFIGS) -> DatasetConfig:
    """Return the data set part of ``datasets/NAME.yaml`` alone."""
    check_name(name, file_names(configs, "datasets"), "data set", name)
    layers = Layers()
    layers.merge(*read_file(configs, "datasets", name))
    return build(Layout, layers.values.get("dataset", {}), layers.sources, "dataset")


def check_name(name: str, valid: Iterable[str], kind: str, asked: str) -> None:
    """Raise :class:`UserError` with the nearest valid name unless ``name`` is valid; ``asked`` is what asks for this ``kind``."""
    valid = list(valid)
    if name not in valid:
        near = difflib.get_close_matches(name, valid, n=1, cutoff=0.0)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{asked}: unknown {kind} {name!r}{hint} (known: {', '.join(valid)})")


def file_names(configs: Path, kind: str) -> list[str]:
    """Return the names of the files of a folder of ``configs``."""
    return sorted(path.stem for path in (configs / kind).glob("*.yaml"))


def read_file(configs: Path, kind: str, name: str) -> tuple[Any, str]:
    """Return the content of a file of ``configs`` and what messages call the file."""
    path = configs / kind / f"{name}.yaml"
    source = str(Path(configs.name) / kind / path.name)
    return read_yaml(path, source), source
