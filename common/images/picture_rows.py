"""Rows of a picture of any size: a TIFF stored in strips or tiles is decoded as its rows are asked for, others as a whole.

What the rows hold is what :func:`common.images.picture.read_rgb` would return. Parts of a TIFF need the package tifffile
(extra ``tiff``); without it every picture is read as a whole.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from common.arrays import Size
from common.errors import UserError
from common.images.picture import ORIENTATION, PixelLimit, read_rgb, upright_size

SUFFIXES = (".tif", ".tiff")
GREY, RGB, YCBCR = 1, 2, 6
"""Values of the tag PhotometricInterpretation (TIFF 6.0); a decoder gives RGB for YCbCr."""
ALPHA = ((), (0,), (2,))
"""Values of the tag ExtraSamples with which colours are what they seem: not those multiplied by alpha."""
CHANNELS = {GREY: (1,), RGB: (3, 4), YCBCR: (3,)}
"""Samples per pixel; a fourth one is alpha, which is left out."""

ALL = slice(None)


class PictureRows(Protocol):
    """A picture of ``size`` (height, width), read from top to bottom."""

    size: Size

    def read(self, top: int, bottom: int, columns: slice = ALL) -> np.ndarray:
        """Return the rows ``top..bottom`` as uint8 RGB ``[rows,W,3]``; what lies above ``top`` may be forgotten.

        ``columns`` chooses among their columns.
        """


class WholePicture:
    """The rows of a picture in memory, uint8 RGB ``[H,W,3]``."""

    def __init__(self, picture: np.ndarray) -> None:
        self.picture = picture
        self.size = picture.shape[:2]

    def read(self, top: int, bottom: int, columns: slice = ALL) -> np.ndarray:
        """See :class:`PictureRows`."""
        return self.picture[top:bottom, columns]


class TiffRows:
    """The rows of a TIFF; memory holds the strips or rows of tiles that reach into those read last."""

    def __init__(self, path: Path, page: Any) -> None:
        self.path, self.page = path, page
        self.size = (page.imagelength, page.imagewidth)
        self._height, self._width = (
            (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        )
        self._kept: dict[int, np.ndarray] = {}

    def read(self, top: int, bottom: int, columns: slice = ALL) -> np.ndarray:
        """See :class:`PictureRows`. Raises :class:`UserError` where the file is damaged."""
        first, last = top // self._height, (bottom - 1) // self._height
        self._kept = {index: rows for index, rows in self._kept.items() if index >= first}
        for index in range(first, last + 1):
            if index not in self._kept:
                self._kept[index] = self._decoded(index)
        start = first * self._height
        rows = [self._kept[index][:, columns] for index in range(first, last + 1)]
        return (rows[0] if len(rows) == 1 else np.concatenate(rows))[top - start : bottom - start]

    def _decoded(self, index: int) -> np.ndarray:
        """The strip, or the row of tiles, of this number from the top."""
        height, width = self.size
        rows = np.zeros((min(self._height, height - index * self._height), width, 3), np.uint8)
        across = -(-width // self._width)
        for column in range(across):
            left = column * self._width
            part = rows[:, left : left + self._width]
            values = self._segment(index * across + column)
            if values is not None:
                part[:] = _eight_bits(values)[: part.shape[0], : part.shape[1]]
        return rows

    def _segment(self, number: int) -> np.ndarray | None:
        """One strip or tile as it is stored, ``[h,w,C]``; None for one that a sparse file leaves out."""
        page = self.page
        file = page.parent.filehandle
        try:
            file.seek(page.dataoffsets[number])
            data = file.read(page.databytecounts[number])
            if len(data) < page.databytecounts[number]:
                raise ValueError("it ends early")
            values = page.decode(data or None, number, jpegtables=page.jpegtables)[0]
        except MemoryError:
            raise
        # Every codec fails in its own way.
        except Exception as error:
            raise UserError(f"picture {self.path} cannot be decoded ({error}); replace it") from None
        return None if values is None else values[0]


def is_tiff(path: Path) -> bool:
    """Whether a picture is a TIFF by its name, the format whose rows can be read in parts."""
    return path.suffix.lower() in SUFFIXES


def open_rows(path: Path, limit: PixelLimit | None = None) -> PictureRows:
    """Return the rows of a picture; raises :class:`UserError` as :func:`common.images.picture.read_rgb` does."""
    if is_tiff(path) and importlib.util.find_spec("tifffile") is not None:
        size = upright_size(path, limit=limit)
        page = _page_in_parts(path)
        if page is not None and (page.imagelength, page.imagewidth) == size:
            return TiffRows(path, page)
    return WholePicture(read_rgb(path, limit=limit))


def _page_in_parts(path: Path) -> Any | None:
    """The first page of a TIFF that can be decoded part by part to the pixels of ``read_rgb``; None for any other."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        page = tifffile.TiffFile(path).pages[0]
        fits = (
            page.dtype in (np.uint8, np.uint16)
            and page.bitspersample in (8, 16)
            and page.samplesperpixel in CHANNELS.get(int(page.photometric), ())
            and page.planarconfig == 1
            and page.imagedepth == 1
            and tuple(page.extrasamples) in ALPHA
            and len(page.dataoffsets) > 1
            and (ORIENTATION not in page.tags or page.tags[ORIENTATION].value == 1)
        )
        if fits:
            page.decode(None, 0)  # fails where the codec is missing
    # Whatever this file is, the reader of whole pictures has the word.
    except Exception:
        return None
    return page if fits else None


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Samples ``[h,w,C]`` of 8 or 16 bits as uint8 ``[h,w,3]`` or ``[h,w,1]``: 16 bits by v >> 8, without alpha."""
    colours = values[..., :3] if values.shape[-1] >= 3 else values[..., :1]
    return (colours >> 8).astype(np.uint8) if colours.dtype == np.uint16 else colours
