"""From a name like ``voc/366/u2pl`` to a resolved configuration, and to a file and back.

``DATASET/SPLIT/METHOD`` is put together from files under ``configs/``, each later one over the earlier ones:

1. ``datasets/DATASET.yaml``: sections of :class:`~common.config.schema.ExperimentConfig`, above all ``dataset`` and ``evaluation``;
2. ``networks/PRESET.yaml``: the keys of ``network``; the method file (or an override) names it as ``network.preset``;
3. ``methods/METHOD.yaml``: sections again (``method`` holds the method's own settings), then what the same file has under
   ``datasets: {DATASET: ...}``, then under ``splits: {DATASET/SPLIT: ...}``;
4. overrides ``a.b=c`` of the command line, the value read as YAML; ``branch=2`` stands for ``evaluation.branch=2``.

A method file with ``base: OTHER`` is another setting of the method OTHER: its sections are merged over those of that file,
its ``splits`` and ``split_lists`` take their place.

Mappings are merged key by key, everything else is replaced. An option that nothing reads is an error, unless a later layer has
chosen what makes it unread: another protocol, say (``common/config/unread.py``). ``split_lists: {DATASET: {SPLIT: ID}}`` of a
method file lists the splits its paper reports (or that make sense here) and the id in ``configs/splits.yaml`` each stands for, because
papers use different lists of the same size; any other id of the registry, ``all``, and lists in the user's ``splits/`` work too.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from common.config.layers import Layers, check_name, file_names, read_file
from common.config.schema import ExperimentConfig, Layout, NetworkConfig
from common.config.strict import build, member, to_plain
from common.config.unread import Section, settle, unread
from common.config.yaml_files import format_yaml, parse_yaml, read_yaml
from common.errors import UserError
from common.methods import SETTINGS
from common.methods.presets import resolved
from common.paths import CONFIGS
from common.prediction.protocols import PROTOCOLS
from common.splits.registry import LABELLED_FILE, known_splits, list_folder

COMMAND_LINE = "command line"
OPTIONAL_SECTIONS = ("augment", "loader", "optimizer", "criterion", "trainer", "evaluation", "reference")
METHOD_SECTIONS = ("augment", "loader", "optimizer")
"""Sections whose classes the method's settings name."""
PLAIN_SECTIONS = {
    name: cls
    for name, cls in get_type_hints(ExperimentConfig).items()
    if dataclasses.is_dataclass(cls) and not hasattr(cls, "chosen_by")
}
METHOD_FILE_KEYS = ("datasets", "splits", "split_lists", "base")
REPLACED_SECTIONS = ("splits", "split_lists")
FORMAT = 2
"""Version of ``config.yaml``; in files of version 1, which have no number, any method could have any option."""
SHORT_FORMS = {"branch": "evaluation.branch"}
"""Overrides without a section, and what they stand for."""


def compose(name: str, overrides: Sequence[str] = (), configs: Path = CONFIGS) -> ExperimentConfig:
    """Return the configuration of experiment ``DATASET/SPLIT/METHOD`` with ``overrides`` like ``trainer.epochs=2``.

    Raises :class:`UserError` (one line with the nearest valid name) for anything that does not exist or does not fit.
    """
    dataset, split, method = _parts(name, configs)
    method_source, method_file = _read_method(method, configs)
    aliases = _section(method_file, "split_lists", dataset, method_source)
    identity = {
        "name": name,
        "split": {"id": aliases.get(split, split)},
        "method": {"name": _method_name(method_file, method)},
    }
    method_layer = [(identity, method_source), *_method_parts(method_file, method_source, dataset, split)]
    override_layer = [(_override(text), COMMAND_LINE) for text in overrides]
    dataset_layer = [read_file(configs, "datasets", dataset)]
    network_layer = [_network(method_layer + override_layer, method_source, configs)]
    layers = Layers()
    for values, source in dataset_layer + network_layer + method_layer + override_layer:
        layers.merge(values, source)
    layers.drop("network.preset")
    config = _build(layers)
    _check_split(config, dataset, split, aliases, configs)
    return config


def dump(config: ExperimentConfig) -> str:
    """Return the resolved configuration as YAML: every option that is read, defaults written out."""
    values = to_plain(config)
    for option in unread(values, _sections(values, type(config.method), {})):
        section, _, key = option.partition(".")
        del values[section][key]
    return format_yaml({"format": FORMAT, **values})


def load(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read a configuration that :func:`dump` wrote (``config.yaml`` of a run folder), with ``overrides`` over it."""
    layers = Layers()
    layers.merge(read_yaml(Path(path)), str(path))
    version = layers.values.pop("format", 1)
    _take_over_groups(layers.values)
    if version not in (1, FORMAT):
        raise UserError(f"{path}: format {version}, but this program reads 1 and {FORMAT}; use a newer program")
    for override in overrides:
        layers.merge(_override(override), COMMAND_LINE)
    if version == FORMAT and layers.number("method.preset") > 0:
        raise UserError(
            f"{COMMAND_LINE}: {path} states every switch that method.preset stands for; set the switches themselves"
        )
    return _build(layers, old=version == 1)


def _take_over_groups(values: dict[str, Any]) -> None:
    """Make what files of a time without ``trainer.groups`` say of processes into groups; their runs had one process."""
    method = values.get("method") if isinstance(values.get("method"), dict) else {}
    contrastive = method.get("contrastive") if isinstance(method.get("contrastive"), dict) else {}
    named = [part.pop("processes") for part in (method, contrastive) if "processes" in part]
    trainer = values.setdefault("trainer", {})
    if isinstance(trainer, dict):
        trainer.setdefault("groups", named[0] if named else 1)


def known_experiments(configs: Path = CONFIGS) -> list[str]:
    """Return the names of all experiments the method files list, sorted by data set, then method, in their files' order."""
    names = []
    for dataset in file_names(configs, "datasets"):
        for method in file_names(configs, "methods"):
            source, values = _read_method(method, configs)
            names += [f"{dataset}/{split}/{method}" for split in _section(values, "split_lists", dataset, source)]
    return names


def _build(layers: Layers, old: bool = False) -> ExperimentConfig:
    for section in OPTIONAL_SECTIONS:
        layers.values.setdefault(section, {})
    method = layers.values.get("method")
    name = method.get("name") if isinstance(method, Mapping) else None
    if name not in SETTINGS:
        source = layers.sources.get("method.name") or next(iter(layers.sources.values()), "configuration")
        raise UserError(f"{source}: method.name = {name!r} is not one of {', '.join(sorted(SETTINGS))}")
    sections = _sections(layers.values, SETTINGS[name], layers.sources)
    settle(layers, sections, old)
    built = {"method": resolved(build(SETTINGS[name], method, layers.sources, "method"))}
    for section in ("dataset", "evaluation", *METHOD_SECTIONS):
        if section in layers.values:
            built[section] = build(sections[section].chosen, layers.values[section], layers.sources, section)
    return build(ExperimentConfig, {**layers.values, **built}, layers.sources)


def _sections(values: Mapping[str, Any], settings: type, sources: Mapping[str, str]) -> dict[str, Section]:
    """The class of every section but ``method``, as data set, protocol and the method's ``settings`` choose."""
    sections = {name: Section(cls) for name, cls in PLAIN_SECTIONS.items()}
    untrained = tuple(head for head in NetworkConfig.heads if head not in settings.heads)
    sections["network"] = Section(NetworkConfig, decided_by="method.name", empty=untrained)
    for name in METHOD_SECTIONS:
        classes = tuple(getattr(each, name) for each in SETTINGS.values())
        sections[name] = Section(getattr(settings, name), classes, "method.name")
    for name, union in (("dataset", Layout), ("evaluation", PROTOCOLS)):
        part = values.get(name)
        chosen = member(union, part if isinstance(part, Mapping) else {}, sources, name)
        sections[name] = Section(chosen, get_args(union), f"{name}.{chosen.chosen_by}")
    return sections


def _parts(name: str, configs: Path) -> tuple[str, str, str]:
    parts = name.split("/")
    if len(parts) != 3 or not all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", part) for part in parts):
        raise UserError(f"experiment {name!r}: expected DATASET/SPLIT/METHOD, for example voc/366/u2pl")
    dataset, split, method = parts
    check_name(dataset, file_names(configs, "datasets"), "data set", name)
    check_name(method, file_names(configs, "methods"), "method", name)
    return dataset, split, method


def _check_split(config: ExperimentConfig, dataset: str, split: str, aliases: Mapping, configs: Path) -> None:
    registered = known_splits(config.dataset.name, configs)
    labelled_list = list_folder(config.dataset.name, config.split) / LABELLED_FILE
    if config.split.id in registered or labelled_list.is_file():
        return
    check_name(split, dict.fromkeys([*aliases, *registered]), f"split of {dataset}", config.name)


def _read_method(name: str, configs: Path) -> tuple[str, Mapping[str, Any]]:
    values, source = read_file(configs, "methods", name)
    if not isinstance(values, Mapping):
        raise UserError(f"{source}: must be a mapping of sections, not {values!r}")
    base = values.get("base")
    if base is None:
        return source, values
    check_name(str(base), file_names(configs, "methods"), "method", source)
    layers = Layers()
    below = _read_method(str(base), configs)[1]
    layers.merge({key: value for key, value in below.items() if key not in values or key not in REPLACED_SECTIONS}, "")
    layers.merge({**values, "base": _method_name(below, str(base))}, "")
    return source, layers.values


def _method_name(values: Mapping[str, Any], file: str) -> str:
    """The method that the file ``file`` configures."""
    return values.get("base") or file


def _section(values: Mapping[str, Any], kind: str, key: str, source: str) -> dict[str, Any]:
    """The mapping ``values[kind][key]`` with text keys; empty when absent."""
    entries = values.get(kind) or {}
    part = entries.get(key) if isinstance(entries, Mapping) else entries
    if not isinstance(entries, Mapping) or not isinstance(part or {}, Mapping):
        raise UserError(f"{source}: {kind}.{key} must be a mapping, not {part!r}")
    part = {str(name): value for name, value in (part or {}).items()}
    return {name: str(value) for name, value in part.items()} if kind == "split_lists" else part


def _override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    parts = SHORT_FORMS.get(key.strip(), key.strip()).split(".")
    if not equals or not all(part.isidentifier() for part in parts):
        raise UserError(
            f"{COMMAND_LINE}: override {text!r} is not of the form section.key=value, e.g. trainer.epochs=2"
        )
    nested: Any = parse_yaml(value, f"{COMMAND_LINE}, {key}")
    for part in reversed(parts):
        nested = {part: nested}
    return nested


def _method_parts(
    method_file: Mapping[str, Any], source: str, dataset: str, split: str
) -> list[tuple[Mapping[str, Any], str]]:
    """What a method's file says for this data set and split, the later over the earlier, with the source of each part."""
    parts = [({key: value for key, value in method_file.items() if key not in METHOD_FILE_KEYS}, source)]
    for kind, key in (("datasets", dataset), ("splits", f"{dataset}/{split}")):
        parts.append((_section(method_file, kind, key, source), f"{source} ({kind}: {key})"))
    return parts


def _network(
    upper: Sequence[tuple[Mapping[str, Any], str]], method_source: str, configs: Path
) -> tuple[dict[str, Any], str]:
    """The network that the last of the layers above names as ``network.preset``."""
    preset, preset_source = None, method_source
    for values, source in upper:
        network = values.get("network")
        if isinstance(network, Mapping) and "preset" in network:
            preset, preset_source = network["preset"], source
    if preset is None:
        raise UserError(f"{preset_source}: network.preset is missing; it names a file of {configs.name}/networks")
    check_name(str(preset), file_names(configs, "networks"), "network preset", preset_source)
    values, source = read_file(configs, "networks", str(preset))
    return {"network": values}, source
