"""Colours of the classes, and label images as palette PNG files."""

from __future__ import annotations

import io
import os

import numpy as np
from PIL import Image

from common.errors import UserError
from common.files import atomic_path

CITYSCAPES = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip
"""The 19 evaluated classes in train-id order."""

CAMVID = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
"""The 11 classes of the 480 x 360 form, sky first."""

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def voc_palette() -> np.ndarray:
    """Return the Pascal VOC colours of the ids 0..255 as uint8 ``[256,3]``: an id's bits go to the channels in turn."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for digit in range(8):
        for channel in range(3):
            bit = ids >> (3 * digit + channel) & 1
            palette[:, channel] |= (bit << (7 - digit)).astype(np.uint8)
    return palette


def colours(name: str, classes: int) -> np.ndarray:
    """Return uint8 ``[256,3]``: row c is the colour of class c, row 255 that of ignored pixels, the rest is black.

    ``name`` is ``voc`` (any number of classes, ignored white), ``cityscapes`` (up to 19, ignored black) or ``camvid``
    (up to 11, ignored black). Raises :class:`UserError` for another name or too many classes.
    """
    known = {"voc": (voc_palette()[:255], WHITE), "cityscapes": (CITYSCAPES, BLACK), "camvid": (CAMVID, BLACK)}
    if name not in known:
        raise UserError(f"unknown palette {name!r}; one of {', '.join(known)} is possible")
    rows, void = known[name]
    if classes > len(rows):
        raise UserError(f"palette {name} has {len(rows)} colours but there are {classes} classes; use palette voc")
    table = np.zeros((256, 3), dtype=np.uint8)
    table[:classes] = rows[:classes]
    table[255] = void
    return table


def write_label_png(path: str | os.PathLike, ids: np.ndarray, palette: np.ndarray) -> None:
    """Write class ids, uint8 ``[H,W]``, as a palette PNG: its pixel values are the ids, its colours ``palette``.

    ``palette`` is uint8 ``[256,3]`` from :func:`colours`. The file is written whole or not at all.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(label_png(ids, palette))


def label_png(ids: np.ndarray, palette: np.ndarray, level: int = 6) -> bytes:
    """Return the PNG file that :func:`write_label_png` writes; ``level`` is how much time zlib takes to make it small, 0..9."""
    if ids.dtype != np.uint8 or ids.ndim != 2:
        raise TypeError(f"class ids must be uint8 [H,W], not {ids.dtype} with {ids.ndim} axes")
    picture, file = Image.fromarray(ids, mode="P"), io.BytesIO()
    picture.putpalette(palette.tobytes())
    picture.save(file, format="PNG", compress_level=level)
    return file.getvalue()
