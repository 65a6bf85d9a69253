"""The one reader of picture files: data sets, prediction and every tool see the same upright pixels.

A picture becomes uint8 RGB ``[H,W,3]``, a label image whole numbers ``[H,W]``, never through colours. Both are turned as
their orientation tag says. Every message names the file and what it is.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from common.errors import UserError
from common.files import require_ordinary

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""Ends of the names of pictures, in lower case."""
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
"""Formats that are decoded when the bytes come from somebody else; some others hand them to programs of their own."""
LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".pgm")
"""Those of formats that keep every value of a label."""

ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What makes the pixels of each tag upright; from 5 on width and height change places."""

TURNED = "carry an orientation tag and are read upright"
"""What :func:`remarks` says of a file with such a tag."""

PNG_SIGNATURE, PNG_FRAME, PNG_DEPTH = 8, 12, 24
"""Bytes before the first chunk, bytes of a chunk without its data, and the place of the number of bits per channel."""

COLOUR_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
SIXTEEN_BIT_FORMATS = ("PNG", "PPM", "JPEG2000")
"""Formats whose pixels of mode I have 16 bits, because they cannot have more."""
ALPHA_MODES = ("LA", "PA", "RGBA")
NO_RANGE = {"F": "floating-point numbers", "I": "32-bit whole numbers"}
"""Modes that do not say which value is white."""

# Pillow's own limit is one for the whole process and its message names no way out; the limit below takes its place.
Image.MAX_IMAGE_PIXELS = None
# What Pillow remarks on a file (damaged tags, transparency of palettes) is no line for the user.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@dataclass(frozen=True)
class PixelLimit:
    """The most pixels a picture may have, and the option that changes it.

    A damaged or hostile header can claim any size; the default is what Pillow refuses.
    """

    pixels: int = 178_956_970
    option: str = "--max-pixels"


class PictureBytes(io.BytesIO):
    """A picture file in memory, as it came over a network; messages call it ``name``."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name

    def __str__(self) -> str:
        return self.name


Source = Path | PictureBytes


class TooManyPixels(UserError):
    """A picture is larger than the limit; nothing of it was decoded."""


def is_picture_name(path: Path) -> bool:
    """Whether a file of a folder is one of its pictures by its name; ``._NAME`` is what macOS leaves beside NAME."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._")


def read_rgb(path: Source, what: str = "picture", limit: PixelLimit | None = None) -> np.ndarray:
    """Return a picture as uint8 RGB ``[H,W,3]``, upright.

    Grey becomes three equal channels, a palette its colours, alpha is left out, and 16 bits become 8 by v >> 8. Raises
    :class:`UserError`, which calls the file ``what``, for one that cannot be decoded whole, has more pixels than
    ``limit``, or whose numbers do not say which is white.
    """
    with _opened(path, what, limit) as file:
        if file.mode not in (*COLOUR_MODES, *SIXTEEN_BITS) and not _has_sixteen_bits(file):
            kind = NO_RANGE.get(file.mode, f"pixels of type {file.mode}")
            raise UserError(
                f"{what} {path} has {kind}, which do not say what is white; save it with 8 or 16 bits per channel"
            )
        pixels = _plain_png(file, path)
        if pixels is not None:
            return pixels
        picture = _upright(file)
        if _has_sixteen_bits(file):
            grey = (np.asarray(picture).astype(np.int64) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, 2)
        return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def read_indices(path: Path, what: str = "label", limit: PixelLimit | None = None) -> np.ndarray:
    """Return the values of a label image as whole numbers or bool ``[H,W]``, upright.

    A palette image gives its indices. Grey with full alpha, three equal channels and floating-point whole numbers are
    read because that is exact. Raises :class:`UserError`, see :func:`read_rgb`, for any other kind of file.
    """
    with _opened(path, what, limit) as file:
        mode, values = file.mode, np.array(_upright(file))
    if mode in INDEX_MODES:
        return values
    if mode == "F":
        return _whole_numbers(values, what, path)
    if mode in ALPHA_MODES:
        if (values[..., -1] != 255).any():
            raise UserError(f"{what} {path} has transparent pixels ({mode}); save the class ids without transparency")
        values = values[..., :-1]
    if mode in ("LA", "PA") or (mode in ("RGB", "RGBA") and (values == values[..., :1]).all()):
        return np.ascontiguousarray(values[..., 0])
    raise UserError(f"{what} {path} is a colour image ({mode}); labels are one channel of class ids")


def upright_size(path: Path, what: str = "picture", limit: PixelLimit | None = None) -> tuple[int, int]:
    """Return height and width of a picture as :func:`read_rgb` gives it, mostly without decoding it."""
    with _opened(path, what, limit) as file:
        picture = file if orientation_of(file) < 5 else _upright(file)
        return picture.height, picture.width


def remarks(path: Path) -> tuple[str, ...]:
    """Return what is worth knowing of how a picture is read: nothing of an ordinary one, or one that cannot be opened."""
    try:
        with _opened(path, "picture", None) as file:
            said = {
                TURNED: orientation_of(file) > 1,
                "have 16 bits and are read as v >> 8": _has_sixteen_bits(file),
                "have an alpha channel, which is left out": file.mode in ALPHA_MODES or "transparency" in file.info,
            }
    except UserError:
        return ()
    return tuple(text for text, holds in said.items() if holds)


def palette_of(path: Path) -> np.ndarray | None:
    """Return the colours of a palette image, uint8 ``[n,3]``; None for any other file."""
    try:
        with _opened(path, "label", None) as file:
            colours = file.getpalette("RGB") if file.mode in ("P", "PA") else None
    except UserError:
        return None
    return None if colours is None else np.array(colours, np.uint8).reshape(-1, 3)


def orientation_of(picture: Image.Image) -> int:
    """Return the orientation tag, 1 (upright) to 8; 1 for a file without one or with a damaged one."""
    try:
        # The method of PNG files decodes all pixels to look for a tag behind them, where hardly anything writes it.
        value = Image.Image.getexif(picture).get(ORIENTATION)
    # Tags can be damaged in nearly every way; the pixels are not theirs to spoil.
    except Exception:
        return 1
    return value if value in TURNS else 1


def _upright(file: Image.Image) -> Image.Image:
    """The whole picture, turned as its tag says."""
    # Pillow turns TIFF files by itself while it loads them.
    orientation = 1 if file.format == "TIFF" else orientation_of(file)
    file.load()
    return file.transpose(TURNS[orientation]) if orientation > 1 else file


def _plain_png(file: Image.Image, source: Source) -> np.ndarray | None:
    """The pixels of an undamaged, upright PNG file of 8-bit RGB by OpenCV, which is faster; None for any other file."""
    if file.format != "PNG" or file.mode != "RGB" or orientation_of(file) > 1:
        return None
    content = source.getvalue() if isinstance(source, PictureBytes) else Path(source).read_bytes()
    if content[PNG_DEPTH] != 8 or not _whole_png(content):
        return None
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # larger than OpenCV's own limit
        return None
    return None if pixels is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def _whole_png(content: bytes) -> bool:
    """Whether all chunks of a PNG file are there and as their checksums say; OpenCV's decoder prints what it misses."""
    position, view = PNG_SIGNATURE, memoryview(content)
    while position + PNG_FRAME <= len(content):
        end = position + PNG_FRAME + int.from_bytes(view[position : position + 4], "big")
        kind = view[position + 4 : position + 8]
        if end > len(content) or zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            return False
        if kind == b"IEND":
            return True
        position = end
    return False


@contextmanager
def _opened(path: Source, what: str, limit: PixelLimit | None) -> Iterator[Image.Image]:
    """The file, recognised and small enough; whatever goes wrong with it is one line."""
    limit = limit or PixelLimit()
    try:
        if not isinstance(path, PictureBytes):
            require_ordinary(path)
        with Image.open(path, formats=FORMATS if isinstance(path, PictureBytes) else None) as file:
            if file.width * file.height > limit.pixels:
                raise TooManyPixels(
                    f"{what} {path} has {file.width}x{file.height} pixels, more than {limit.option} = {limit.pixels}; "
                    "raise that if the picture really is so large, or cut it into parts"
                )
            yield file
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist; check the path") from None
    except MemoryError:
        raise UserError(f"{what} {path} does not fit into memory; close other programs, or cut it into parts") from None
    # Decoders of damaged files fail in nearly every way that Python knows.
    except Exception as error:
        raise UserError(f"{what} {path} {_reason(path, error)}") from None


def _reason(path: Source, error: Exception) -> str:
    if isinstance(path, PictureBytes):
        unknown = isinstance(error, UnidentifiedImageError)
        return (
            f"is none of {', '.join(FORMATS)}; send one" if unknown else f"cannot be decoded ({error}); send it again"
        )
    if getattr(error, "errno", None) is not None:
        return f"cannot be read: {error.strerror}; check the path"
    if Path(path).is_file() and Path(path).stat().st_size == 0:
        return "is empty; replace it"
    if not isinstance(error, UnidentifiedImageError):
        return f"cannot be decoded ({error}); replace it"
    if Path(path).name.startswith("._"):
        return "is not an image but a companion file of macOS; remove it"
    return "is not an image; replace it"


def _has_sixteen_bits(picture: Image.Image) -> bool:
    return picture.mode in SIXTEEN_BITS or (picture.mode == "I" and picture.format in SIXTEEN_BIT_FORMATS)


def _whole_numbers(values: np.ndarray, what: str, path: Path) -> np.ndarray:
    bad = ~np.isfinite(values) | (values != np.rint(values)) | (np.abs(values) > 2**31 - 256)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UserError(
            f"{what} {path} holds floating-point numbers that are no class ids, {values[row, column]} at row {row}, "
            f"column {column}; save whole numbers"
        )
    return values.astype(np.int32)
