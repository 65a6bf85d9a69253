"""Typed, strict construction of dataclasses from plain mappings: every mistake is one line with file, key and a way out."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from common.errors import UserError

Sources = Mapping[str, str]
"""Where a dotted key came from (a file name or ``command line``), for messages."""


def ranged(default: Any = dataclasses.MISSING, *, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field whose number must lie in ``low..high`` (both included)."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high})


def build(cls: Any, values: Mapping[str, Any], sources: Sources, where: str = "") -> Any:
    """Return ``cls(**values)`` after checking every key, type and range; nested dataclasses are built alike.

    ``cls`` is a dataclass or a union of some (:func:`member`); a value that is already built stays as it is. Raises
    :class:`UserError` naming the file, the dotted key and the nearest valid key.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{origin(where, sources)}: {where or 'the document'} must be a mapping, not {values!r}")
    cls = member(cls, values, sources, where)
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise UserError(unknown_key(_join(where, key), key, fields, sources))
    built = {}
    for name, field in fields.items():
        key = _join(where, name)
        if name in values:
            built[name] = _convert(hints[name], values[name], key, sources)
            _check_range(field, built[name], key, sources)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"{origin(where, sources)}: {key} is missing and has no default; set it")
    try:
        return cls(**built)
    except ValueError as error:
        chosen_by = getattr(cls, "chosen_by", None)
        place = origin(_join(where, chosen_by) if chosen_by in values else where, sources)
        raise UserError(f"{place}: {where + ': ' if where else ''}{error}") from None


def member(cls: Any, values: Mapping[str, Any], sources: Sources, where: str = "") -> type:
    """Return the dataclass of a union (or tuple) that ``values`` name in its field ``chosen_by``; without it the first.

    Every member has that field as a ``Literal`` of its own. Raises :class:`UserError` for a name of no member.
    """
    members = cls if isinstance(cls, tuple) else get_args(cls) or (cls,)
    if len(members) == 1:
        return members[0]
    key = members[0].chosen_by
    names = {name: each for each in members for name in get_args(typing.get_type_hints(each)[key])}
    if key not in values:
        return members[0]
    return names[_literal(values[key], tuple(names), _join(where, key), sources)]


def unknown_key(dotted: str, key: str, valid: Iterable[str], sources: Sources, reason: str = "") -> str:
    """The message for a key that does not exist, or not for this ``reason``, with the nearest valid one."""
    valid = list(valid)
    near = difflib.get_close_matches(str(key), valid, n=1, cutoff=0.0)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(sorted(valid))
    return f"{origin(dotted, sources)}: unknown key {dotted!r}{reason}{hint} (valid: {listed})"


def to_plain(value: Any) -> Any:
    """The mapping, lists and scalars that :func:`build` turns back into ``value``."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    return value


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)


def origin(dotted: str, sources: Sources) -> str:
    """The file or command line that a dotted key comes from, or what lies above or below it."""
    while dotted:
        if dotted in sources:
            return sources[dotted]
        below = [source for key, source in sources.items() if key.startswith(dotted + ".")]
        if below:
            return below[-1]
        dotted = dotted.rpartition(".")[0]
    return sources.get("", "configuration")


def _check_range(field: dataclasses.Field, value: Any, key: str, sources: Sources) -> None:
    low, high = field.metadata.get("low"), field.metadata.get("high")
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        if not math.isfinite(number) or (low is not None and number < low) or (high is not None and number > high):
            span = f"{'' if low is None else low} .. {'' if high is None else high}"
            raise UserError(f"{origin(key, sources)}: {key} = {number} is out of range ({span.strip()})")


def _convert(hint: Any, value: Any, key: str, sources: Sources) -> Any:
    kind, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, sources, key)
    if kind in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        options = tuple(option for option in arguments if option is not type(None))
        if all(map(dataclasses.is_dataclass, options)):
            return value if isinstance(value, options) else build(options, value, sources, key)
        if len(options) > 1:
            raise TypeError(f"{key}: a union of several types is not supported")
        return _convert(options[0], value, key, sources)
    if kind is Literal:
        return _literal(value, arguments, key, sources)
    if kind is tuple:
        if not isinstance(value, (list, tuple)):
            raise _wrong_type(key, value, "a list", sources)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(arguments[0], item, key, sources) for item in value)
        if len(value) != len(arguments):
            raise _wrong_type(key, value, f"a list of {len(arguments)}", sources)
        return tuple(_convert(each, item, key, sources) for each, item in zip(arguments, value))
    if kind is dict:
        if not isinstance(value, Mapping):
            raise _wrong_type(key, value, "a mapping", sources)
        return {str(k): _convert(arguments[1], item, _join(key, str(k)), sources) for k, item in value.items()}
    if hint is Any:
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise _wrong_type(
        key, value, {int: "an integer", float: "a number", bool: "true or false", str: "text"}[hint], sources
    )


def _literal(value: Any, names: tuple, key: str, sources: Sources) -> Any:
    if value in names and type(value) in {type(name) for name in names}:
        return value
    near = difflib.get_close_matches(str(value), [str(name) for name in names], n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"{origin(key, sources)}: {key} = {value!r} is not one of {', '.join(map(str, names))}{hint}")


def _wrong_type(key: str, value: Any, wanted: str, sources: Sources) -> UserError:
    return UserError(f"{origin(key, sources)}: {key} = {value!r} must be {wanted}")
