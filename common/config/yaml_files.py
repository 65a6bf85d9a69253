"""YAML the way a reader expects it: ``1e-4`` is a number, ``1_8`` and ``no`` are text, a key given twice is an error."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError
from common.files import read_bytes

SCALARS = (
    ("tag:yaml.org,2002:null", r"(?:~|null|)", ["~", "n", ""]),
    ("tag:yaml.org,2002:bool", r"(?:true|false)", list("tf")),
    ("tag:yaml.org,2002:int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf)|\.nan",
        list("-+.0123456789"),
    ),
)
"""Tag, pattern and first characters of everything that is not text: the core of YAML 1.2 without hexadecimal and octal."""

MOST_ITEMS = 100_000
"""Entries of all mappings and lists of a file together, what is referred to counted each time; ours have a few hundred."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} is given twice", problem_mark=node.value[index][0].start_mark
                )
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})\\Z"), _first)


def parse_yaml(text: str, source: str) -> Any:
    """Return the value of one YAML document; raises :class:`UserError` naming ``source`` and the line."""
    try:
        return copy.deepcopy(_parsed(text, source))
    except RecursionError:
        raise UserError(f"{source}: not valid YAML: it is nested too deeply") from None


@functools.lru_cache(maxsize=64)
def _parsed(text: str, source: str) -> Any:
    """Parse a text once: experiments are composed of the same few files again and again."""
    try:
        value = yaml.load(text, Loader=_Loader)
        _check_size(value)
        return value
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}, line {mark.line + 1}" if mark else source
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{where}: not valid YAML: {problem}") from None
    # What a tag such as !!int makes of a text that is none fails in nearly every way that Python knows.
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{source}: not valid YAML: {error}") from None


def _check_size(value: Any) -> None:
    """Raise ValueError for what is too much written out: a few lines of references can stand for more than any memory holds."""
    waiting, items = [value], 0
    while waiting:
        part = waiting.pop()
        if isinstance(part, (dict, list, tuple, set)):
            items += len(part)
            waiting += [*part, *part.values()] if isinstance(part, dict) else part
        if items > MOST_ITEMS:
            raise ValueError(f"its references stand for more than {MOST_ITEMS} values")


def read_yaml(path: Path, name: str | None = None) -> Any:
    """Return the value of a YAML file, which messages call ``name`` (default: its path)."""
    try:
        return parse_yaml(read_bytes(path).decode("utf-8"), name or str(path))
    except FileNotFoundError:
        raise UserError(f"{name or path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name or path}: cannot be read: {error}") from None


def format_yaml(value: Any) -> str:
    """Return ``value`` (mappings, lists, scalars) as YAML that :func:`parse_yaml` turns back into it."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
