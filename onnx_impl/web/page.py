"""What the page in the browser shows of a model, as the file ``page.json`` beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FILES = Path(__file__).parent / "static"
"""The page itself: plain files, no build step."""


def describe_page(
    name: str, classes: Sequence[str], palette: np.ndarray, size: tuple[int, int] | None
) -> dict[str, Any]:
    """Return the part of ``page.json`` that every form of the page has.

    ``palette`` is uint8 ``[256,3]``; ``size`` is the graph's height and width, None where free. ``models`` are the files that
    run in the browser, ``runtime`` the folder of onnxruntime-web, ``server`` the network behind the page: none so far.
    """
    return {
        "name": name,
        "classes": list(classes),
        "colours": palette[: len(classes)].tolist(),
        "size": list(size) if size else None,
        "models": [],
        "runtime": None,
        "server": None,
    }
