"""Settings and host-side draws of every method; ``SETTINGS`` maps a method's name to its dataclass.

No list names the methods. Every settings class below that has a default for ``name`` is one, and the method itself is the class
of the same name, without ``Settings``, in the file of the same place in ``torch_impl/methods`` and ``mindspore_impl/methods``.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from importlib import import_module

from common.methods.interface import MethodSettings


def implementation(name: str) -> tuple[str, str]:
    """Return where a framework has the method ``name``: file and class below its ``methods``, as ``u2pl.u2pl``, ``U2PL``."""
    settings = SETTINGS[name]
    return settings.__module__.removeprefix(f"{__name__}."), settings.__name__.removesuffix("Settings")


def _settings() -> dict[str, type[MethodSettings]]:
    modules = [import_module(module.name) for module in pkgutil.walk_packages(__path__, f"{__name__}.")]
    candidates = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    classes = [value for value in candidates if issubclass(value, MethodSettings)]
    names = {cls.__dataclass_fields__["name"].default: cls for cls in classes}
    return {name: names[name] for name in sorted(names.keys() - {dataclasses.MISSING})}


SETTINGS = _settings()
