"""Options that nothing reads: a mistake where somebody asks for them, left over where a later layer has chosen otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from common.config.layers import Layers
from common.config.strict import unknown_key
from common.errors import UserError


def _is(name: Any) -> Callable[[Any], bool]:
    return lambda value: value == name


def _is_not(name: Any) -> Callable[[Any], bool]:
    return lambda value: value != name


def _given(value: Any) -> bool:
    """Whether an option asks for something: none of null, false, 0 and a list of such."""
    return any(value) if isinstance(value, (list, tuple)) else bool(value)


READ_WITH: tuple[tuple[str, Callable[[Any], bool], tuple[str, ...]], ...] = (
    ("criterion.type", _is("ohem"), ("criterion.thresh", "criterion.min_kept", "criterion.min_kept_per_image")),
    ("network.auxiliary", _given, ("criterion.aux_weight",)),
    ("network.prototypes", _given, ("network.prototype_norm", "network.prototype_temperature")),
    (
        "network.encoder", _is_not("tiny"),
        ("network.stem", "network.stem_pool", "network.stages", "network.multi_grid", "network.backbone_weights"),
    ),
    (
        "network.aspp", _is_not("sum"),
        ("network.aspp_pool_position", "network.aspp_merge_kernel", "network.aspp_dropout", "network.aspp_dropout_kind"),
    ),
    ("network.aspp_dropout", _given, ("network.aspp_dropout_kind",)),
    ("network.head_dropout", _given, ("network.head_dropout_kind",)),
    ("method.cutmix", _is(False), ("method.memory",)),
    ("loader.samples", _given, ("loader.tail", "loader.truncate_unlabelled")),
    ("optimizer.lr_counter", _is("authors"), ("optimizer.counted_steps",)),
    ("optimizer.lr_counter", _is_not("authors"), ("optimizer.warmup", "optimizer.poly_lag")),
    ("trainer.snapshot_every", _given, ("trainer.snapshot_after_part",)),
)  # fmt: skip
"""An option, what it must be (None: it is not set), and the options that are read only then."""


@dataclass(frozen=True)
class Section:
    """A section of which a choice decides what is read: the class chosen, all classes, and the option that chose.

    ``empty`` are options of the chosen class that may be set only to what asks for nothing, such as 0.
    """

    chosen: type
    classes: tuple[type, ...] = ()
    decided_by: str = ""
    empty: tuple[str, ...] = ()

    def unread(self, values: Mapping[str, Any]) -> list[str]:
        """Return the keys of ``values`` that another class reads, but not the chosen one."""
        elsewhere = {name for each in self.classes for name in option_names(each)} - set(option_names(self.chosen))
        return [key for key in values if key in elsewhere or (key in self.empty and _given(values[key]))]


def option_names(cls: type) -> list[str]:
    """Return the options of a configuration class."""
    return [field.name for field in dataclasses.fields(cls)]


def unread(values: Mapping[str, Any], sections: Mapping[str, Section]) -> dict[str, str]:
    """Return every option of ``values`` (sections by name) that nothing reads, with the option that decides so.

    Names that no class knows are not among them; :func:`common.config.strict.build` refuses those.
    """
    idle = {option: decided_by for option, decided_by in _idle(values).items() if _has(values, option)}
    for name, section in sections.items():
        idle |= {f"{name}.{key}": section.decided_by for key in section.unread(_section(values, name))}
    return idle


def settle(layers: Layers, sections: Mapping[str, Section], old: bool = False) -> None:
    """Drop what a later layer's choice has left unread; raise :class:`UserError` for every other option that nothing reads.

    ``old``: the first layer is a file of a time when every method accepted every option; what nobody reads there is dropped.
    """
    idle = _idle(layers.values)
    for dotted, decided_by in unread(layers.values, sections).items():
        number = layers.number(dotted)
        if number < layers.number(decided_by) or (old and number == 0):
            layers.drop(dotted)
            continue
        name, _, key = dotted.partition(".")
        section, value = sections[name], _value(layers.values, decided_by)
        read = [other for other in option_names(section.chosen) if f"{name}.{other}" not in idle]
        valid = [other for other in read if other not in section.empty]
        raise UserError(unknown_key(dotted, key, valid, layers.sources, f" where {decided_by} is {_text(value)}"))


def _idle(values: Mapping[str, Any]) -> dict[str, str]:
    """All options that ``READ_WITH`` calls unread beside ``values``, with the option that decides so."""
    return {
        option: decided_by
        for decided_by, reads, options in READ_WITH
        if not reads(_value(values, decided_by))
        for option in options
    }


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = values.get(name)
    return section if isinstance(section, Mapping) else {}


def _has(values: Mapping[str, Any], dotted: str) -> bool:
    name, _, key = dotted.partition(".")
    return key in _section(values, name)


def _value(values: Mapping[str, Any], dotted: str) -> Any:
    name, _, key = dotted.partition(".")
    return _section(values, name).get(key)


def _text(value: Any) -> str:
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
