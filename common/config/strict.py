"""Typed, strict construction of dataclasses from plain mappings: every mistake is one line with file, key and a way out."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from common.errors import UserError

Sources = Mapping[str, str]
"""Where a dotted key came from (a file name or ``command line``), for messages."""


def ranged(default: Any = dataclasses.MISSING, *, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field whose number must lie in ``low..high`` (both included)."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high})


def build(cls: type, values: Mapping[str, Any], sources: Sources, where: str = "") -> Any:
    """Return ``cls(**values)`` after checking every key, type and range; nested dataclasses are built alike.

    Raises :class:`UserError` naming the file, the dotted key and the nearest valid key.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{_origin(where, sources)}: {where or 'the document'} must be a mapping, not {values!r}")
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
            raise UserError(f"{_origin(where, sources)}: {key} is missing and has no default; set it")
    try:
        return cls(**built)
    except ValueError as error:
        raise UserError(f"{_origin(where, sources)}: {where + ': ' if where else ''}{error}") from None


def unknown_key(dotted: str, key: str, valid: Any, sources: Sources) -> str:
    """The message for a key that does not exist, with the nearest valid one."""
    near = difflib.get_close_matches(str(key), list(valid), n=1, cutoff=0.0)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{_origin(dotted, sources)}: unknown key {dotted!r}{hint} (valid: {', '.join(sorted(valid))})"


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


def _origin(dotted: str, sources: Sources) -> str:
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
            raise UserError(f"{_origin(key, sources)}: {key} = {number} is out of range ({span.strip()})")


def _convert(hint: Any, value: Any, key: str, sources: Sources) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, sources, key)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        options = [option for option in arguments if option is not type(None)]
        if len(options) > 1:
            raise TypeError(f"{key}: a union of several types is not supported")
        return _convert(options[0], value, key, sources)
    if origin is Literal:
        if value in arguments and type(value) in {type(a) for a in arguments}:
            return value
        near = difflib.get_close_matches(str(value), [str(a) for a in arguments], n=1, cutoff=0.4)
        hint_text = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"{_origin(key, sources)}: {key} = {value!r} is not one of {', '.join(map(str, arguments))}{hint_text}"
        )
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise _wrong_type(key, value, "a list", sources)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(arguments[0], item, key, sources) for item in value)
        if len(value) != len(arguments):
            raise _wrong_type(key, value, f"a list of {len(arguments)}", sources)
        return tuple(_convert(kind, item, key, sources) for kind, item in zip(arguments, value))
    if origin is dict:
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


def _wrong_type(key: str, value: Any, wanted: str, sources: Sources) -> UserError:
    return UserError(f"{_origin(key, sources)}: {key} = {value!r} must be {wanted}")
