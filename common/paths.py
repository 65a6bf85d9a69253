"""Where the project, the data and the weights lie; two environment variables move the latter."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
CONFIGS = PROJECT / "configs"


def data_root() -> Path:
    """Where relative data set roots start: ``DATA_ROOT`` of the environment, else ``data/`` of the project."""
    return Path(os.environ.get("DATA_ROOT") or PROJECT / "data").expanduser()


def weights_path(name: str | os.PathLike) -> Path:
    """Where the weights file ``name`` is expected.

    An absolute name stays as it is; a name that exists relative to the working folder is that file; otherwise it lies
    in ``WEIGHTS_ROOT`` of the environment, else in ``weights/`` of the project. The file need not exist.
    """
    path = Path(name).expanduser()
    if path.is_absolute():
        return path
    if path.exists():
        return path.resolve()
    return Path(os.environ.get("WEIGHTS_ROOT") or PROJECT / "weights").expanduser() / path
