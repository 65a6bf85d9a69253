"""The three runtimes: how they are called, which of them train, and the files that each writes and reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One runtime; its commands are in the package ``NAME_impl``, its runs in ``runs/NAME``.

    ``writes`` is the suffix of its own files; ``reads`` those of the files that it evaluates, in the order in which a run
    folder is searched for them.
    """

    name: str
    title: str
    trains: bool
    writes: str
    reads: tuple[str, ...]


RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime(name="torch", title="PyTorch", trains=True, writes=".pth", reads=(".pth", ".ckpt")),
        Runtime(name="mindspore", title="MindSpore", trains=True, writes=".ckpt", reads=(".ckpt", ".pth")),
        Runtime(name="onnx", title="ONNX Runtime", trains=False, writes=".onnx", reads=(".onnx", ".pth", ".ckpt")),
    )
}
"""By name, the reference of every comparison first."""

FRAMEWORKS = {name: runtime for name, runtime in RUNTIMES.items() if runtime.trains}
"""Those that train."""

TRAINED = tuple(runtime.writes for runtime in FRAMEWORKS.values())
"""Suffixes of the checkpoints of a run."""
