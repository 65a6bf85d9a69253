"""A large TIFF takes a fraction of the memory of a picture that is read as a whole, and gives the same answer."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.processes import python

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("onnxruntime")

PREDICT = """
from common.command_line import run_command
from common.machine import peak_memory
from onnx_impl.predict import main
arguments = ["{model}", "{picture}", "--out", "{out}", "--window", "96", "--threads", "1", "--overlay", "{overlay}"]
assert run_command(main, arguments) == 0
print("peak", peak_memory())
"""


@pytest.mark.slow
@pytest.mark.parametrize("overlay", ["0", "0.5"])
def test_memory_follows_the_rows_and_not_the_picture(exported, tmp_path, overlay):
    squares = np.random.default_rng(0).integers(0, 256, (375, 125, 3), np.uint8)
    picture = squares.repeat(16, 0).repeat(16, 1)
    Image.fromarray(picture[:96]).save(tmp_path / "control.png")
    Image.fromarray(picture).save(tmp_path / "whole.png", compress_level=1)
    tifffile.imwrite(tmp_path / "tiled.tif", picture, photometric="rgb", tile=(128, 128), compression="zlib")

    def peak(name: str) -> float:
        names = {"model": exported.model, "picture": tmp_path / name, "out": tmp_path / "out", "overlay": overlay}
        return float(python(PREDICT.format(**names)).split("peak ")[1])

    control, whole, tiled = (peak(name) for name in ("control.png", "whole.png", "tiled.tif"))
    assert 0 <= tiled - control < 0.5 * (whole - control)
    with Image.open(tmp_path / "out/whole.png") as one, Image.open(tmp_path / "out/tiled.png") as other:
        np.testing.assert_array_equal(np.array(one), np.array(other))
