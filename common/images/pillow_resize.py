"""What a window of a picture shows that Pillow has resized, mostly without resizing all of it; equal to the bit.

Where the height does not shrink, Pillow resizes along rows first, rounds to 8 bits and then resizes along columns. What the window
needs of the first is some rows only, of the second its own columns. Elsewhere the order depends on the sizes and on Pillow's
version. (``Image.resize`` with a ``box`` is faster still, but keeps the box in float32: up to one value in a hundred differs.)
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from common.arrays import Box, Size

SUPPORT = {Image.Resampling.BILINEAR: 1, Image.Resampling.BICUBIC: 2}
"""How many source pixels a filter reaches to either side when it enlarges."""


def resized_window(image: np.ndarray, size: Size, window: Box, resample: Image.Resampling) -> np.ndarray:
    """Return what ``window`` shows of ``image`` uint8 ``[H,W,3]`` resized to ``size``; it may reach beyond the edges, which cut it."""
    height = len(image)
    bottom, right = min(window.bottom, size[0]), min(window.right, size[1])
    if size[0] < height:
        resized = Image.fromarray(image).resize(size[::-1], resample)
        return np.asarray(resized.crop((window.left, window.top, right, bottom)))
    first, last = _source_rows(height, size[0], window.top, bottom, SUPPORT[resample])
    strip = Image.fromarray(image[first:last]).resize((size[1], last - first), resample)
    columns = Image.new(strip.mode, (right - window.left, height))
    columns.paste(strip.crop((window.left, 0, right, strip.height)), (0, first))
    resized = columns.resize((columns.width, size[0]), resample)
    return np.asarray(resized.crop((0, window.top, columns.width, bottom)))


def _source_rows(height: int, new_height: int, top: int, bottom: int, support: int) -> tuple[int, int]:
    """Return the first of ``height`` rows, and one past the last, that the rows ``top..bottom`` of ``new_height`` come from, enlarged."""
    scale, reach = height / new_height, support + 1
    return max(int((top + 0.5) * scale - reach), 0), min(int((bottom - 0.5) * scale + reach) + 1, height)


def nearest_rows(old: int, new: int) -> np.ndarray:
    """Return which of ``old`` rows (or columns) every one of ``new`` comes from in Pillow's nearest neighbour, int32 ``[new]``."""
    return np.asarray(Image.fromarray(np.arange(old, dtype=np.int32)[None]).resize((new, 1), Image.Resampling.NEAREST))[
        0
    ]
