"""Where the project, the data and the weights lie; two environment variables move the latter."""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import UserError

PROJECT = Path(__file__).resolve().parent.parent
CONFIGS = PROJECT / "configs"


def at_home(path: str | os.PathLike) -> Path:
    """Return a path, ``~`` being a user's home; raises :class:`UserError` for a user that this machine does not know."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: ~ is no home that is known here; write the whole path") from None


def data_root() -> Path:
    """Where relative data set roots start: ``DATA_ROOT`` of the environment, else ``data/`` of the project."""
    return at_home(os.environ.get("DATA_ROOT") or PROJECT / "data")


def weights_path(name: str | os.PathLike) -> Path:
    """Where the weights file ``name`` is expected.

    An absolute name stays as it is; a name that exists relative to the working folder is that file; otherwise it lies
    in ``WEIGHTS_ROOT`` of the environment, else in ``weights/`` of the project. The file need not exist.
    """
    path = at_home(name)
    if path.is_absolute():
        return path
    if path.exists():
        return path.resolve()
    return at_home(os.environ.get("WEIGHTS_ROOT") or PROJECT / "weights") / path
