"""Running a session on buffers that are made once per shape and used again; the same lines on CPU and GPU."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

KEPT_SHAPES = 4
"""Shapes whose buffers are kept; the longest unused ones go first. A data set of photographs has hundreds."""


@dataclass(frozen=True)
class Bound:
    """The buffers of one shape and output: what is bound, the input that is overwritten, and the run's options."""

    binding: Any
    image: Any
    options: Any


class Buffers:
    """Runs ``session`` on arrays of any shape. ``device`` is ``cpu`` or ``cuda``, ``device_id`` its number.

    With ``graphs`` the kernels of every shape are recorded at its first run and replayed at the next ones: that needs
    the same addresses, which these buffers have, and an id that belongs to one shape for ever, because ONNX Runtime does
    not look whether it does. Every thread has buffers of its own.
    """

    def __init__(self, ort: Any, session: Any, device: str, device_id: int, graphs: bool = False) -> None:
        self.ort, self.session = ort, session
        self.device, self.device_id, self.graphs = device, device_id, graphs
        self._of_thread = threading.local()
        self._ids: dict[tuple, int] = {}
        self._lock = threading.Lock()

    def run(self, name: str, images: np.ndarray, output: str) -> np.ndarray:
        """Return the output ``output`` for the input ``name``; no other output leaves the device."""
        bound = self._bound(name, images, output)
        self.session.run_with_iobinding(bound.binding, bound.options)
        return bound.binding.copy_outputs_to_cpu()[0]

    def _bound(self, name: str, images: np.ndarray, output: str) -> Bound:
        kept = self._of_thread.__dict__.setdefault("kept", OrderedDict())
        key = (name, images.shape, output)
        if key in kept:
            kept.move_to_end(key)
            kept[key].image.update_inplace(images)
            return kept[key]
        # On the CPU a value is a view of its array, which must not be the caller's.
        held = images.copy() if self.device == "cpu" else images
        image = self.ort.OrtValue.ortvalue_from_numpy(held, self.device, self.device_id)
        binding = self.session.io_binding()
        binding.bind_ortvalue_input(name, image)
        shape, kind = self._output(output)
        if all(isinstance(length, int) for length in shape):
            result = self.ort.OrtValue.ortvalue_from_shape_and_type(shape, kind, self.device, self.device_id)
            binding.bind_ortvalue_output(output, result)
        else:
            binding.bind_output(output, self.device, self.device_id)
        kept[key] = Bound(binding, image, self._run_options(key))
        # Recorded kernels write to the buffers of their shape for ever: those must stay.
        while len(kept) > KEPT_SHAPES and not self.graphs:
            kept.popitem(last=False)
        return kept[key]

    def _output(self, name: str) -> tuple[list[int | str], type]:
        described = next(item for item in self.session.get_outputs() if item.name == name)
        return described.shape, np.uint8 if described.type == "tensor(uint8)" else np.float32

    def _run_options(self, key: tuple) -> Any:
        if not self.graphs:
            return None
        options = self.ort.RunOptions()
        with self._lock:
            number = self._ids.setdefault((threading.get_ident(), *key), len(self._ids) + 1)  # 0 is reserved
        options.add_run_config_entry("gpu_graph_id", str(number))
        return options
