"""Choosing and describing the device; the MindSpore file of the same name mirrors this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.methods.interface import Batch


@contextmanager
def exact() -> Iterator[None]:
    """Compute without gradient and, on a GPU, without TF32, whose rounding exceeds the gates between runtimes."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def describe_device(device: torch.device) -> str:
    """Return ``cpu`` or the GPU's index and name."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def choose_device(name: str) -> torch.device:
    """Return the device for ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"trainer.device={name}: PyTorch {torch.__version__} sees no GPU here; use cpu or auto")
    try:
        return torch.device(name)
    except RuntimeError:
        raise UserError(f"trainer.device={name} is not a device; use auto, cpu, cuda or cuda:N") from None


class CopyToDevice:
    """Copies batches to a GPU through pinned memory, on a stream of its own, so that neither host nor device waits for a copy."""

    def __init__(self, device: torch.device, on_host: Sequence[str] = ()) -> None:
        self._device, self._on_host = device, on_host
        self._stream = torch.cuda.Stream(device)

    def __call__(self, batch: Batch) -> Callable[[], Batch]:
        """Begin the copy of all arrays but those of the streams ``on_host``; what is returned gives the batch to the current stream."""
        with torch.cuda.stream(self._stream):
            moved = {
                name: part if name in self._on_host else {key: self._moved(value) for key, value in part.items()}
                for name, part in batch.items()
            }
            done = self._stream.record_event()

        def finish() -> Batch:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(done)
            for part in moved.values():
                for value in part.values():
                    if isinstance(value, Tensor):
                        value.record_stream(current)  # its memory is not used again before the step is done with it
            return moved

        return finish

    def _moved(self, value: np.ndarray | list[str]) -> Tensor | list[str]:
        if isinstance(value, list):
            return value
        array = torch.from_numpy(value)
        return (
            torch.empty(array.shape, dtype=array.dtype, pin_memory=True)
            .copy_(array)
            .to(self._device, non_blocking=True)
        )
