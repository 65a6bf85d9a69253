"""What the negative controls of every method share: rules to break, and which quantities of a file then differ."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.goldens.frameworks import FRAMEWORKS, Framework
from tests.goldens.golden import Golden
from tests.goldens.kinds import file_name, find_kind, kinds_of

EACH = [pytest.param(name, marks=[pytest.mark.slow] * (name == "mindspore")) for name in FRAMEWORKS]
"""The frameworks in which a rule is broken: MindSpore, which compiles for every rule, is left to ``make test-slow``."""


def differing(path: Path, framework: Framework | None, method: str) -> list[str]:
    """Return the quantities of a file of ``method`` that do not agree."""
    checks = find_kind(file_name(path, method), kinds_of(method)).check(Golden(path), framework)
    return [check.quantity for check in checks if not check.passed]


def forget_graphs() -> None:
    """Let MindSpore compile anew: a graph keeps the functions that it was compiled with, whatever takes their place."""
    if "mindspore" in sys.modules:
        sys.modules["mindspore"].ms_memory_recycle()


def save_changed(source: Path, path: Path, quantity: str | None) -> Path:
    """Write a copy of ``source`` to ``path`` with the middle entry of ``quantity`` one larger (None: a true copy)."""
    arrays = dict(Golden(source).arrays)
    if quantity is not None:
        changed = arrays[quantity].copy()
        changed.flat[changed.size // 2] += changed.dtype.type(1)
        arrays[quantity] = changed
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def other_batch_norm_momentum(framework: Framework, monkeypatch) -> None:
    """The share of the old running statistics taken for that of the new ones."""
    if framework.name == "torch":
        from torch.nn import BatchNorm2d

        momentum = 0.9
    else:
        from mindspore.nn import BatchNorm2d

        momentum = 0.1
    monkeypatch.setattr(framework.module("networks.layers"), "batch_norm", partial(BatchNorm2d, momentum=momentum))


def everywhere(framework: Framework, monkeypatch, name: str, changed: Callable) -> None:
    """Put ``changed(original)`` in the place of the function ``name`` wherever a file of the framework's code uses it."""
    modules = [module for place, module in list(sys.modules.items()) if place.startswith(f"{framework.name}_impl.")]
    using = [module for module in modules if callable(vars(module).get(name))]
    assert using, f"no file of {framework.name}_impl has {name}"
    for module in using:
        monkeypatch.setattr(module, name, changed(vars(module)[name]))


def half_pixel_resize(module: str) -> Callable:
    """Resizing without aligned corners in ``module``."""

    def broken(framework: Framework, monkeypatch) -> None:
        if framework.name == "torch":
            from torch.nn.functional import interpolate
        else:
            from mindspore.ops import interpolate

        def resize(x, size):
            return interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)

        monkeypatch.setattr(framework.module(module), "resize", resize)

    return broken


def ohem_below_threshold(framework: Framework, monkeypatch) -> None:
    """Pixels at the threshold itself go: one kept pixel less where the threshold is a pixel's probability."""
    losses = framework.module("losses")
    ohem_labels = losses.ohem_labels
    monkeypatch.setattr(losses, "ohem_labels", lambda s, labels, thresh, kept: ohem_labels(s, labels, thresh, kept - 1))
