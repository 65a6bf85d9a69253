"""Choosing and describing the device, and what MindSpore needs before its first operator; PyTorch's file mirrors this one.

A NumPy that MindSpore works with and a fast instruction set: ``networks/layers.py`` calls :func:`prepare` when it is
imported, so every network of this package is covered.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from common.errors import UserError


def describe_device(device: str) -> str:
    """Return ``CPU`` or ``Ascend:N``, the one device of this process; raises UserError if it is not ``device``."""
    import mindspore as ms

    target, index = ms.get_current_device()
    if target.lower() != device.lower():
        raise UserError(f"MindSpore runs on {target} in this process, not on {device}; call start() first")
    return f"{target}:{index}" if target == "Ascend" else target


def choose_device(name: str) -> str:
    """Select and return the device for ``auto`` (an Ascend if there is one), ``cpu``, ``ascend`` or ``ascend:N``."""
    return start(name)


ONEDNN_CAP = "MINDSPORE_ONEDNN_CAP"
"""Environment variable; ``off`` leaves MindSpore's oneDNN the instruction set that it chooses itself."""


LAUNCHED = "MS_ROLE"
"""Environment variable that MindSpore's launcher sets in the processes that it starts."""


_AVX2 = 0x7


def start(device: str = "auto") -> str:
    """Prepare MindSpore, select the device and return its name (``CPU`` or ``Ascend``).

    ``auto`` is an Ascend processor where MindSpore finds one, else the CPU; ``cpu``, ``ascend`` and ``ascend:N`` ask for
    one. Raises :class:`UserError` for ``cuda`` (MindSpore 2.10 has no GPU build) and for a device that is not there.
    """
    name, _, index = device.lower().partition(":")
    if name in ("cuda", "gpu"):
        raise UserError(
            f"trainer.device={device}: MindSpore 2.10 has no GPU build; use cpu, ascend or auto, or PyTorch"
        )
    if name not in ("auto", "cpu", "ascend") or (index and (name != "ascend" or not index.isdecimal())):
        raise UserError(f"trainer.device={device} is not a device of MindSpore; use auto, cpu, ascend or ascend:N")
    prepare()
    import mindspore as ms

    present = name != "cpu" and ms.device_context.ascend.is_available()
    if name == "ascend" and not present:
        raise UserError(f"trainer.device={device}: MindSpore {ms.__version__} finds no Ascend here; use cpu or auto")
    wanted = ("Ascend" if present else "CPU", int(index or 0))
    if LAUNCHED in os.environ:  # the launcher has given this process its number, which is its device's, too
        wanted = wanted[:1]
    if ms.get_current_device()[: len(wanted)] != wanted:
        try:
            ms.set_device(*wanted)
        except RuntimeError:
            raise UserError(
                f"trainer.device={device}: this process already uses another device; start a new one"
            ) from None
    # Without a result fetched before it, a first ms.runtime.synchronize() crashes about every second process.
    ms.ops.ones(1).asnumpy()
    return wanted[0]


@functools.cache
def prepare() -> None:
    """Check that MindSpore is there and NumPy fits it, then cap oneDNN; later calls do nothing.

    Raises :class:`UserError` without MindSpore or with NumPy 2.
    """
    if importlib.util.find_spec("mindspore") is None:
        raise UserError("MindSpore is not installed here: pip install 'mindspore==2.10.0' 'numpy<2'")
    check_numpy(np.__version__)
    if os.environ.get(ONEDNN_CAP, "").lower() != "off":
        cap_onednn()


def check_numpy(version: str) -> None:
    """Raise :class:`UserError` unless MindSpore 2.10 works with this version of NumPy (below 2)."""
    if int(version.split(".")[0]) >= 2:
        raise UserError(f"MindSpore 2.10 does not work with NumPy {version}; install 'numpy>=1.26,<2'")


def cap_onednn() -> bool:
    """Keep MindSpore's own copy of oneDNN to AVX2 and return whether that succeeded; call before the first convolution.

    With AVX-512 that library falls to its reference loop for MindSpore's memory layout: about 50 times slower. Only this
    copy is touched, so PyTorch in the same process keeps its speed.
    """
    try:
        package = Path(importlib.util.find_spec("mindspore").origin).parent
        return ctypes.CDLL(str(package / "lib" / "libdnnl.so.3")).dnnl_set_max_cpu_isa(_AVX2) == 0
    except (OSError, AttributeError):  # another platform or build: no such library, or without this function
        return False


@contextmanager
def processors(threads: int | None) -> Iterator[None]:
    """Let what is started inside count ``threads`` processors (None: all that this process may use).

    Afterwards its threads may run on all of them: processes that count one each would else share the first.
    """
    if threads is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed, before = os.sched_getaffinity(0), _threads()
    os.sched_setaffinity(0, sorted(allowed)[:threads])
    try:
        yield
    finally:
        for thread in {0} | _threads() - before:
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(thread, allowed)


def _threads() -> set[int]:
    """Return the ids of this process's threads, where the system lists them."""
    with suppress(OSError):
        return {int(name) for name in os.listdir("/proc/self/task")}
    return set()
