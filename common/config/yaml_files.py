"""YAML the way a reader expects it: ``1e-4`` is a number, ``1_8`` and ``no`` are text, a key given twice is an error."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError

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
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}, line {mark.line + 1}" if mark else source
        raise UserError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None


def read_yaml(path: Path, name: str | None = None) -> Any:
    """Return the value of a YAML file, which messages call ``name`` (default: its path)."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), name or str(path))
    except FileNotFoundError:
        raise UserError(f"{name or path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name or path}: cannot be read: {error}") from None


def format_yaml(value: Any) -> str:
    """Return ``value`` (mappings, lists, scalars) as YAML that :func:`parse_yaml` turns back into it."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
