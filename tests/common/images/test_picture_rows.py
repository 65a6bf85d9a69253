"""Rows of a TIFF are those of the whole picture, however it is stored; only what is asked for is decoded."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.images.picture import PixelLimit, read_rgb
from common.images.picture_rows import TiffRows, WholePicture, open_rows

tifffile = pytest.importorskip("tifffile")

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (150, 90, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (150, 90, 3)).astype(np.uint16)
OPAQUE = np.full((150, 90, 1), 255, np.uint8)


def kinds() -> dict[str, tuple[np.ndarray, dict]]:
    tiles = {"tile": (32, 48)}
    return {
        "tiles": (COLOUR, {"photometric": "rgb", **tiles}),
        "strips": (COLOUR, {"photometric": "rgb", "rowsperstrip": 7}),
        "deflate": (COLOUR, {"photometric": "rgb", "compression": "zlib", **tiles}),
        "grey": (COLOUR[..., 0], {"photometric": "minisblack", **tiles}),
        "grey of 16 bits": (DEEP[..., 0], {"photometric": "minisblack", **tiles}),
        "16 bits": (DEEP, {"photometric": "rgb", "compression": "zlib", **tiles}),
        "16 bits, other end first": (DEEP, {"photometric": "rgb", "byteorder": ">", "rowsperstrip": 20}),
        "alpha": (np.concatenate([COLOUR, OPAQUE], 2), {"photometric": "rgb", "extrasamples": ["unassalpha"], **tiles}),
    }


@pytest.mark.parametrize("kind", list(kinds()))
def test_rows_are_those_of_the_whole_picture(tmp_path, kind):
    values, options = kinds()[kind]
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    whole, rows = read_rgb(tmp_path / "a.tif"), open_rows(tmp_path / "a.tif")
    assert isinstance(rows, TiffRows) and rows.size == (150, 90)
    for top, bottom in ((0, 40), (13, 64), (63, 65), (64, 150), (149, 150)):
        np.testing.assert_array_equal(rows.read(top, bottom), whole[top:bottom])
        np.testing.assert_array_equal(rows.read(top, bottom, slice(40, 77)), whole[top:bottom, 40:77])


@pytest.mark.parametrize("compression", ["lzw", "jpeg", "packbits"])
def test_rows_of_other_codecs(tmp_path, compression):
    pytest.importorskip("imagecodecs")
    smooth = np.add.outer(np.arange(150), np.arange(90))[..., None].repeat(3, 2).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", smooth, photometric="rgb", tile=(32, 48), compression=compression)
    rows = open_rows(tmp_path / "a.tif")
    assert isinstance(rows, TiffRows)
    difference = rows.read(0, 150).astype(int) - read_rgb(tmp_path / "a.tif")
    assert np.abs(difference).max() <= (2 if compression == "jpeg" else 0), "decoders of JPEG may round differently"


def test_only_what_is_asked_for_is_decoded(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", COLOUR, photometric="rgb", tile=(32, 48))
    decoded, segment = [], TiffRows._segment

    def count(self, number):
        decoded.append(number)
        return segment(self, number)

    monkeypatch.setattr(TiffRows, "_segment", count)
    rows = open_rows(tmp_path / "a.tif")
    rows.read(40, 60)
    assert decoded == [2, 3]
    rows.read(50, 90)
    assert decoded == [2, 3, 4, 5], "rows that are still there are not decoded again"
    assert set(rows._kept) == {1, 2}


def test_other_pictures_are_read_as_a_whole(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "one_strip.tif", COLOUR, photometric="rgb", rowsperstrip=150)
    tifffile.imwrite(tmp_path / "planes.tif", COLOUR.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    turned = {"photometric": "rgb", "rowsperstrip": 9, "extratags": [(274, "H", 1, 6, True)]}
    tifffile.imwrite(tmp_path / "turned.tif", COLOUR, **turned)
    for name in ("a.png", "one_strip.tif", "planes.tif", "turned.tif"):
        rows = open_rows(tmp_path / name)
        assert isinstance(rows, WholePicture), name
        np.testing.assert_array_equal(rows.read(3, 70), read_rgb(tmp_path / name)[3:70])
    assert open_rows(tmp_path / "turned.tif").size == (90, 150)


def test_damage_and_size_are_named(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOUR, photometric="rgb", tile=(32, 48), compression="zlib")
    with pytest.raises(UserError, match="more than --max-pixels = 100"):
        open_rows(path, PixelLimit(100))
    data = bytearray(path.read_bytes())
    page = tifffile.TiffFile(path).pages[0]
    start = page.dataoffsets[6]
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    rows = open_rows(path)
    rows.read(0, 90)
    with pytest.raises(UserError, match="a.tif cannot be decoded"):
        rows.read(90, 150)
    path.write_bytes(b"II*\0 nothing")
    with pytest.raises(UserError, match="a.tif"):
        open_rows(path)
