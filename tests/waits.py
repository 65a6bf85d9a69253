"""Counting, on a CPU, the operations of PyTorch that would make the host wait for a GPU."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from common.paths import PROJECT

SIZED = (
    "nonzero",
    "masked_select",
    "_unique",
    "unique_",
    "bincount",
    "repeat_interleave.Tensor",
    "_local_scalar_dense",
)
"""Operators whose result, or its size, the host must know: values as Python numbers, truth in an ``if``, positions."""
INDEXED = ("index.Tensor", "index_put", "_index_put_impl", "_unsafe_index")
"""Operators that wait if an index is a mask."""
COPIES = ("cpu", "tolist", "new_tensor")
"""Methods of a tensor that copy between host and device and wait for it."""


class Waits(TorchDispatchMode):
    """Collects where the project waits; ``places`` are lines ``file:line operation``."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []
        self._inside = False

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        """Run an operator and note it if it waits."""
        name = function.name().removeprefix("aten::")
        masks = [index for index in _indices(arguments) if index.dtype in (torch.bool, torch.uint8)]
        if not self._inside and (name.startswith(SIZED) or (name.startswith(INDEXED) and masks)):
            self.note(name)
        return function(*arguments, **(options or {}))

    def noting(self, name: str, original: Callable, waits: Callable[[dict], bool]) -> Callable:
        """Return ``original`` that is noted where it ``waits``, once, whatever it calls itself."""

        def call(*arguments, **options):
            outermost, self._inside = not self._inside, True
            if outermost and waits(options):
                self.note(name)
            try:
                return original(*arguments, **options)
            finally:
                self._inside = not outermost

        return call

    def note(self, name: str) -> None:
        """Add the line of the project that is being run."""
        frames = [frame for frame in traceback.extract_stack() if f"{PROJECT}/torch_impl" in frame.filename]
        where = f"{frames[-1].filename.removeprefix(f'{PROJECT}/')}:{frames[-1].lineno}" if frames else "elsewhere"
        self.places.append(f"{where} {name}")


def _indices(arguments: tuple) -> list[torch.Tensor]:
    if len(arguments) < 2 or not isinstance(arguments[1], (list, tuple)):
        return []
    return [index for index in arguments[1] if isinstance(index, torch.Tensor)]


@contextmanager
def counted() -> Iterator[Waits]:
    """Collect the waits of what runs inside."""
    waits = Waits()
    patches = [
        mock.patch.object(torch.Tensor, name, waits.noting(name, getattr(torch.Tensor, name), lambda _: True))
        for name in COPIES
    ]
    to_device = waits.noting("tensor", torch.tensor, lambda options: options.get("device") is not None)
    patches.append(mock.patch.object(torch, "tensor", to_device))
    for patch in patches:
        patch.start()
    try:
        with waits:
            yield waits
    finally:
        for patch in patches:
            patch.stop()
