"""The one picture reader: upright, never clipped in silence, labels exactly or not at all, one line for every bad file."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.images.picture import (
    TURNED,
    PictureBytes,
    PixelLimit,
    TooManyPixels,
    _plain_png,
    is_picture_name,
    read_indices,
    read_rgb,
    remarks,
    upright_size,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
LABEL = np.array([[0, 1, 2, 255, 7, 1]] * 4, dtype=np.uint8)
UPRIGHT = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}  # fmt: skip
"""What each orientation tag means (EXIF 2.3, tag 274)."""


def tagged(path, array, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(array).save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {}))
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_every_orientation_is_read_upright(tmp_path, suffix, orientation):
    path = tagged(tmp_path / f"a{suffix}", PIXELS, orientation)
    expected = UPRIGHT[orientation](PIXELS)
    np.testing.assert_array_equal(read_rgb(path), expected)
    assert upright_size(path) == expected.shape[:2]
    assert remarks(path) == ((TURNED,) if orientation > 1 else ())


def test_jpeg_and_labels_are_turned_alike(tmp_path):
    for orientation in UPRIGHT:
        path = tagged(tmp_path / "a.jpg", PIXELS, orientation)
        stored = np.asarray(Image.open(path))
        np.testing.assert_array_equal(read_rgb(path), UPRIGHT[orientation](stored))
        label = tagged(tmp_path / "a.png", LABEL, orientation)
        np.testing.assert_array_equal(read_indices(label), UPRIGHT[orientation](LABEL))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_a_tag_without_meaning_turns_nothing(tmp_path, value):
    np.testing.assert_array_equal(read_rgb(tagged(tmp_path / "a.png", PIXELS, value)), PIXELS)


def test_damaged_tags_do_not_spoil_the_pixels(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(40))
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), PIXELS)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_become_eight_by_their_high_byte(tmp_path, name):
    values = np.array([[0, 255, 256, 32767, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    pixels = read_rgb(tmp_path / name)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.repeat((values >> 8)[..., None], 3, 2))
    assert any("v >> 8" in text for text in remarks(tmp_path / name))


@pytest.mark.parametrize(
    ("dtype", "kind"), [(np.float32, "floating-point numbers"), (np.int32, "32-bit whole numbers")]
)
def test_pictures_without_a_defined_white_are_refused(tmp_path, dtype, kind):
    Image.fromarray(np.full((3, 3), 1, dtype)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=f"picture .*a.tif has {kind}, which do not say what is white; save it with 8"):
        read_rgb(tmp_path / "a.tif")


def test_palettes_give_their_colours_and_alpha_is_left_out(tmp_path):
    palette = Image.fromarray(LABEL % 8, mode="P")
    colours = np.random.default_rng(1).integers(0, 256, (8, 3), dtype=np.uint8)
    palette.putpalette(colours.ravel().tolist())
    palette.save(tmp_path / "p.png", transparency=0)
    np.testing.assert_array_equal(read_rgb(tmp_path / "p.png"), colours[LABEL % 8])
    clear = Image.fromarray(PIXELS)
    clear.putalpha(0)
    clear.save(tmp_path / "c.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "c.png"), PIXELS)
    assert all("alpha channel" in remarks(tmp_path / name)[0] for name in ("p.png", "c.png"))


def exact_forms() -> dict[str, Image.Image]:
    """One label in every form that holds its values exactly."""
    grey = Image.fromarray(LABEL)
    full = Image.fromarray(np.full_like(LABEL, 255))
    palette = Image.fromarray(LABEL, mode="P")
    palette.putpalette(np.random.default_rng(2).integers(0, 256, 768).tolist())
    return {
        "grey.png": grey,
        "palette.png": palette,
        "sixteen.png": Image.fromarray(LABEL.astype(np.uint16)),
        "long.tif": Image.fromarray(LABEL.astype(np.int32)),
        "float.tif": Image.fromarray(LABEL.astype(np.float32)),
        "alpha.png": Image.merge("LA", (grey, full)),
        "three.png": Image.merge("RGB", (grey, grey, grey)),
        "four.png": Image.merge("RGBA", (grey, grey, grey, full)),
    }


@pytest.mark.parametrize("name", exact_forms())
def test_labels_are_read_where_that_is_exact(tmp_path, name):
    exact_forms()[name].save(tmp_path / name)
    np.testing.assert_array_equal(read_indices(tmp_path / name), LABEL)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "fraction.tif",
            np.array([[1.0, 0.5]], np.float32),
            "floating-point numbers that are no class ids, 0.5 at row 0",
        ),
        ("nothing.tif", np.array([[1.0, np.nan]], np.float32), "no class ids, nan at row 0, column 1"),
        ("huge.tif", np.array([[1e20]], np.float32), "no class ids, 1.0.*20 at row 0"),
        ("colour.png", PIXELS, r"is a colour image \(RGB\)"),
        ("clear.png", np.dstack([LABEL, LABEL]), r"has transparent pixels \(LA\)"),
    ],
)
def test_labels_that_are_none_say_what_they_are(tmp_path, name, array, message):
    Image.fromarray(array).save(tmp_path / name)
    with pytest.raises(UserError, match=f"label .*{name} .*{message}"):
        read_indices(tmp_path / name)


def test_the_pixel_limit_names_the_option(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    limit = PixelLimit(23, "dataset.max_pixels")
    for read in (read_rgb, read_indices, upright_size):
        with pytest.raises(UserError, match="a.png has 6x4 pixels, more than dataset.max_pixels = 23; raise that"):
            read(tmp_path / "a.png", "image", limit)
    assert read_rgb(tmp_path / "a.png", limit=PixelLimit(24)).shape == (4, 6, 3)


def test_pillow_s_own_limit_does_not_come_first(tmp_path):
    image = Image.new("1", (16384, 16384))
    image.save(tmp_path / "large.png")
    with pytest.raises(UserError, match="large.png has 16384x16384 pixels, more than --max-pixels = 178956970"):
        read_rgb(tmp_path / "large.png")
    assert upright_size(tmp_path / "large.png", limit=PixelLimit(2**28)) == (16384, 16384)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.png", None, "does not exist"),
        ("empty.png", b"", "is empty; replace it"),
        ("text.png", b"<html>404</html>", "is not an image; replace it"),
        ("._a.png", b"\x00\x05\x16\x07\x00\x02", "is not an image but a companion file of macOS; remove it"),
        ("head.png", b"\x89PNG\r\n\x1a\n" + bytes(20), "cannot be decoded|is not an image"),
        ("folder.png", "folder", "cannot be read: Is a directory"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, name, content, message):
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"picture .*{name} ({message})") as caught:
        read_rgb(path)
    assert "\n" not in str(caught.value)
    assert remarks(path) == ()


def test_memory_that_runs_out_is_one_line(tmp_path, monkeypatch):
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "a.png")

    def fail(*_arguments):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(UserError, match="picture .*a.png does not fit into memory"):
        read_rgb(tmp_path / "a.png")


@pytest.mark.parametrize("options", [{}, {"compress_level": 0}, {"dpi": (72, 72)}, {"icc_profile": b"none"}])
def test_plain_png_files_give_pillows_pixels(tmp_path, options):
    pixels = np.random.default_rng(1).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path, **options)
    with Image.open(path) as file:
        assert _plain_png(file, path) is not None
    decoded = read_rgb(path)
    np.testing.assert_array_equal(decoded, pixels)
    assert decoded.flags.writeable and decoded.flags.c_contiguous


@pytest.mark.parametrize("kind", ["grey", "palette", "alpha", "turned", "sixteen bits"])
def test_other_png_files_are_pillows(tmp_path, kind):
    path, picture = tmp_path / "a.png", Image.fromarray(PIXELS)
    forms = {
        "grey": lambda: picture.convert("L"),
        "palette": lambda: picture.convert("P"),
        "alpha": lambda: picture.convert("RGBA"),
    }
    if kind == "turned":
        tagged(path, PIXELS, 6)
    elif kind == "sixteen bits":
        path.write_bytes(cv2.imencode(".png", PIXELS.astype(np.uint16) * 257)[1].tobytes())
    else:
        forms[kind]().save(path)
    with Image.open(path) as file:
        assert _plain_png(file, path) is None
    expected = UPRIGHT[6](PIXELS) if kind == "turned" else np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(read_rgb(path), expected)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no end"])
def test_a_damaged_png_says_one_line_only(tmp_path, capfd, damage):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (37, 53, 3), dtype=np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 255
    path.write_bytes(content[: {"cut": 1000, "flipped": len(content), "no end": -12}[damage]])
    if damage == "no end":  # all pixels are there
        assert read_rgb(path).shape == (37, 53, 3)
    else:
        with pytest.raises(UserError, match="cannot be decoded"):
            read_rgb(path)
    assert capfd.readouterr() == ("", "")


def test_companions_are_no_pictures(tmp_path):
    names = ["a.jpg", "b.PNG", "c.TiFF", "d.webp", "._a.jpg", "e.txt", "f"]
    assert [name for name in names if is_picture_name(tmp_path / name)] == ["a.jpg", "b.PNG", "c.TiFF", "d.webp"]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_bytes_are_read_as_their_file(tmp_path, name):
    path = tagged(tmp_path / name, PIXELS, 6)
    np.testing.assert_array_equal(read_rgb(PictureBytes(path.read_bytes(), "sent")), read_rgb(path))


def test_bytes_from_elsewhere_that_are_refused(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.gif")
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    with pytest.raises(UserError, match="picture sent is none of JPEG, PNG.*; send one"):
        read_rgb(PictureBytes((tmp_path / "a.gif").read_bytes(), "sent"))
    with pytest.raises(UserError, match="picture sent is none of"):
        read_rgb(PictureBytes(b"", "sent"))
    with pytest.raises(UserError, match="picture sent cannot be decoded .*; send it again"):
        read_rgb(PictureBytes(whole[:60], "sent"))
    with pytest.raises(TooManyPixels, match="picture sent has 6x4 pixels, more than the limit = 23"):
        read_rgb(PictureBytes(whole, "sent"), limit=PixelLimit(23, "the limit"))
