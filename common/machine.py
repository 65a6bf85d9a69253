"""What machine and which package versions a figure was measured with."""

from __future__ import annotations

import ctypes
import datetime
import importlib.metadata
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "mindspore", "onnxruntime", "onnxruntime-openvino", "numpy")

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Options of ``mallopt`` (glibc's ``malloc.h``)."""
_LARGEST_IN_HEAP = 32 << 20
"""Larger blocks get pages of their own, which go back when they are freed; glibc allows no larger value."""


def describe() -> dict[str, Any]:
    """Return processor, cores this process may use, memory in GiB, system, Python and package versions, and today's date."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def peak_memory() -> float:
    """Return the most memory that this process has held so far, in MiB.

    On Linux ``getrusage`` counts what the parent held before this program was started, too; the kernel's own note does not.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii", errors="replace").splitlines() if status.exists() else []
    held = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    if held:
        return held[0] / 1024
    import resource

    unit = 1 << 20 if platform.system() == "Darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next allocation: steps of a training use the same memory again and again.

    By default glibc gives the top of its heap back whenever that is free, and every page of the next step's tensors is faulted
    in and cleared anew. The peak stays what it is. Without effect in other C libraries and where the user has set ``MALLOC_...``.
    """
    if platform.system() != "Linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        if hasattr(library, "gnu_get_libc_version"):
            for option, value in ((_MMAP_THRESHOLD, _LARGEST_IN_HEAP), (_TRIM_THRESHOLD, -1)):
                library.mallopt(option, value)


def _processor() -> str:
    """The processor's name, which ``platform`` does not know on Linux."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8", errors="replace").splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
