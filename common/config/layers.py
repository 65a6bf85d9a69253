"""Layers of configuration files put over one another, with the source of every key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common.config.schema import DatasetConfig
from common.config.strict import build
from common.config.yaml_files import read_yaml
from common.errors import UserError
from common.paths import CONFIGS


class _Layers:
    """Nested values together with the source of every dotted key."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}

    def merge(self, values: Any, source: str) -> None:
        """Put ``values`` over what is there."""
        if not isinstance(values, Mapping):
            raise UserError(f"{source}: must be a mapping of sections, not {values!r}")
        self._merge(self.values, values, source, "")

    def put_over(self, other: _Layers) -> None:
        """Put ``other`` over what is there, keeping its sources."""
        self.merge(other.values, "")
        self.sources.update(other.sources)

    def _merge(self, target: dict[str, Any], values: Mapping[str, Any], source: str, where: str) -> None:
        for key, value in values.items():
            key, dotted = str(key), f"{where}{key}"
            if isinstance(value, Mapping):
                if not isinstance(target.get(key), dict):
                    target[key] = {}
                    self.sources[dotted] = source
                self._merge(target[key], value, source, f"{dotted}.")
            else:
                target[key] = value
                self.sources[dotted] = source


def dataset_config(name: str, configs: Path = CONFIGS) -> DatasetConfig:
    """Return the data set part of ``datasets/NAME.yaml`` alone."""
    _known(name, _names(configs, "datasets"), "data set", name)
    layers = _Layers()
    layers.merge(*_read(configs, "datasets", name))
    return build(DatasetConfig, layers.values.get("dataset", {}), layers.sources, "dataset")


def _known(name: str, valid: Iterable[str], kind: str, asked: str) -> None:
    valid = list(valid)
    if name not in valid:
        near = difflib.get_close_matches(name, valid, n=1, cutoff=0.0)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{asked}: unknown {kind} {name!r}{hint} (known: {', '.join(valid)})")


def _names(configs: Path, kind: str) -> list[str]:
    return sorted(path.stem for path in (configs / kind).glob("*.yaml"))


def _read(configs: Path, kind: str, name: str) -> tuple[Any, str]:
    path = configs / kind / f"{name}.yaml"
    source = str(Path(configs.name) / kind / path.name)
    return read_yaml(path, source), source
