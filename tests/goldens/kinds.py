"""Which check a golden file gets: one table of kinds per method, ``METHOD/kinds.py``.

A method's module has ``KINDS``: file name prefix -> :class:`Kind`. A file belongs to the longest prefix that ends its
name or is followed by ``_``; the name of a file in a subfolder begins with that folder's (``step/voc.npz``: ``step_voc``). A file of
no kind fails, as does every file of a method without a table.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.goldens.frameworks import FRAMEWORKS, Framework, load_framework
from tests.goldens.golden import Check, Golden

NEUTRAL = ("common",)
"""For kinds of which no framework is part."""

CheckFunction = Callable[[Golden, Framework | None], list[Check]]


@dataclass(frozen=True)
class Kind:
    """``check`` runs our code on a file's inputs, in each of ``frameworks``; ``pending`` says why there is none yet.

    ``deep``: it runs a network of the depth of the papers, which is left to ``make test-slow``.
    """

    check: CheckFunction | None = None
    frameworks: tuple[str, ...] = FRAMEWORKS
    deep: bool = False
    pending: str = ""


@dataclass(frozen=True)
class Case:
    """One file in one framework; ``kind`` None: nobody knows this file. ``first``: of the files of its kind."""

    method: str
    path: Path
    kind: Kind | None
    framework: str
    first: bool = True

    @property
    def id(self) -> str:
        """``METHOD/NAME[FRAMEWORK]``."""
        return f"{self.method}/{file_name(self.path, self.method)}[{self.framework}]"

    @property
    def marks(self) -> list[pytest.MarkDecorator]:
        """What the test of this file needs. MindSpore compiles for every file, so one of a kind is enough for ``make test``."""
        deep = self.kind is not None and self.kind.deep
        slow = deep or (self.framework == "mindspore" and not self.first)
        return [pytest.mark.deep] * deep + [pytest.mark.slow] * slow

    def run(self) -> list[Check]:
        """Return all comparisons of this file."""
        framework = None if self.framework in NEUTRAL else load_framework(self.framework)
        return self.kind.check(Golden(self.path), framework)


def cases(folder: Path) -> list[Case]:
    """Return the cases of all method folders in ``folder``; raises :class:`FileNotFoundError` where there are none."""
    methods = [path for path in sorted(folder.glob("*")) if path.is_dir() and path.name[0] not in "._"]
    if not methods:
        raise FileNotFoundError(f"{folder} holds no folder of golden files (one per method, e.g. {folder / 'u2pl'})")
    collected = []
    for method in methods:
        kinds, seen = kinds_of(method.name), []
        for path in sorted(method.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and not ignored(path):
                kind = find_kind(file_name(path, method.name), kinds)
                frameworks = kind.frameworks if kind else ("unknown kind",)
                collected += [Case(method.name, path, kind, name, kind not in seen) for name in frameworks]
                seen.append(kind)
    return collected


def ignored(path: Path) -> bool:
    """Whether ``path`` is a description (text, or a reference program) or hidden, not a golden file."""
    return path.suffix in (".md", ".py") or path.name.startswith(("README", "."))


def kinds_of(method: str) -> Mapping[str, Kind]:
    """Return the table of ``method``, empty where there is none."""
    name = f"tests.goldens.{method}.kinds"
    return importlib.import_module(name).KINDS if (Path(__file__).parent / method / "kinds.py").is_file() else {}


def file_name(path: Path, method: str) -> str:
    """Return the name of a file by which its kind is found: its place below the folder ``method``, without suffix."""
    folders = path.parent.parts
    if method in folders:
        folders = folders[len(folders) - folders[::-1].index(method) :]
        return "_".join((*folders, path.stem))
    return path.stem


def find_kind(name: str, kinds: Mapping[str, Kind]) -> Kind | None:
    """Return the kind of the file ``name`` (without suffix), or None."""
    fitting = [prefix for prefix in kinds if name == prefix or name.startswith(f"{prefix}_")]
    return kinds[max(fitting, key=len)] if fitting else None
