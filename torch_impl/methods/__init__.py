"""Training methods; ``common/methods`` says which there are."""

from __future__ import annotations

from importlib import import_module

from common.methods import implementation
from torch_impl.methods.base import Method


def method_class(name: str) -> type[Method]:
    """Return the class of the method ``name``."""
    file, cls = implementation(name)
    return getattr(import_module(f"{__name__}.{file}"), cls)
