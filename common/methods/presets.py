"""Presets: every switch of a method that is ``auto`` (or null) takes the value that the method's preset has for it.

``authors`` is what the released program computes, quirks included, and what the golden numbers hold; ``fixed`` is what the paper
says or what the specification recommends. Each switch can be set alone. ``released`` and ``clean`` are older words for the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Preset = Literal["authors", "fixed", "released", "clean"]

OLDER_WORDS = {"released": "authors", "clean": "fixed"}


def resolved(settings: Any) -> Any:
    """Return a method's settings with the value of every switch; those of a method without presets as they are.

    ``settings.presets`` has the values by preset, nested as the settings are; a function is called with the settings.
    """
    if not settings.presets:
        return settings
    preset = OLDER_WORDS.get(settings.preset, settings.preset)
    return dataclasses.replace(_filled(settings, settings.presets[preset], settings), preset=preset)


def _filled(part: Any, values: Mapping[str, Any], settings: Any) -> Any:
    changes = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            changes[name] = _filled(getattr(part, name), value, settings)
        elif getattr(part, name) in ("auto", None):
            changes[name] = value(settings) if callable(value) else value
    return dataclasses.replace(part, **changes)
