"""Pictures of predictions."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from common.arrays import IGNORE
from common.files import atomic_path

RIGHT, WRONG, IGNORED = (214, 232, 214), (200, 30, 30), (255, 255, 255)
"""Colours of :func:`difference_map`."""


ROWS_AT_ONCE = 256
"""Rows of a picture for which the numbers between two bytes are held at a time: they take eight times the room."""


def overlay(image: np.ndarray, ids: np.ndarray, colours: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """Blend the class colours into an image; ignored pixels stay as they are.

    ``image`` uint8 RGB ``[H,W,3]``, ``ids`` uint8 ``[H,W]``, ``colours`` uint8 ``[256,3]``; ``alpha`` 0 shows only the
    image, 1 only the colours. Returns uint8 ``[H,W,3]``.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha = {alpha} must lie in 0..1")
    blended = np.array(image)
    for top in range(0, len(image), ROWS_AT_ONCE):
        rows, shown = blended[top : top + ROWS_AT_ONCE], ids[top : top + ROWS_AT_ONCE]
        mixed = np.rint((1 - alpha) * rows + alpha * colours[shown].astype(np.float32)).astype(np.uint8)
        np.copyto(rows, mixed, where=(shown != IGNORE)[..., None])
    return blended


def difference_map(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Show where the prediction is right (pale green), wrong (red) and not judged (white).

    Both uint8 ``[H,W]``; returns uint8 RGB ``[H,W,3]``.
    """
    kinds = np.where(label == IGNORE, 2, label != prediction)
    return np.array([RIGHT, WRONG, IGNORED], dtype=np.uint8)[kinds]


def side_by_side(panels: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Put pictures, uint8 ``[h,w,3]``, next to each other on white, ``gap`` pixels apart, tops aligned."""
    height = max(panel.shape[0] for panel in panels)
    width = sum(panel.shape[1] for panel in panels) + gap * (len(panels) - 1)
    strip = np.full((height, width, 3), 255, dtype=np.uint8)
    left = 0
    for panel in panels:
        strip[: panel.shape[0], left : left + panel.shape[1]] = panel
        left += panel.shape[1] + gap
    return strip


def comparison(image: np.ndarray, label: np.ndarray, prediction: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return one strip: image, label, prediction over the image, difference; arguments as in :func:`overlay`."""
    panels = [image, colours[label], overlay(image, prediction, colours), difference_map(label, prediction)]
    return side_by_side(panels)


def write_png(path: str | os.PathLike, picture: np.ndarray) -> None:
    """Write a picture, uint8 RGB ``[H,W,3]``, whole or not at all."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def png_data_uri(picture: np.ndarray) -> str:
    """Return a picture, uint8 ``[H,W,3]`` or ``[H,W]``, as a ``data:`` address that an HTML page can embed."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def jpeg_data_uri(picture: np.ndarray, width: int) -> str:
    """Return a picture, uint8 ``[H,W,3]``, as a ``data:`` address of a JPEG at most ``width`` pixels wide."""
    image = Image.fromarray(picture)
    image.thumbnail((width, image.height), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
