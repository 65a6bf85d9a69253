"""``predict`` is one command: one checkpoint gives the same files in every runtime, of pictures and of videos."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.checkpoints.checkpoint import Checkpoint, write
from common.checkpoints.meta import CheckpointMeta
from common.command_line import run_command
from common.experiment import compose
from common.reports.palettes import colours
from common.reports.pictures import overlay
from common.segmenting.video import Frames, VideoFile
from tests.onnx.conftest import fill
from tests.places import PROJECT
from tests.processes import PATIENCE

pytest.importorskip("torch")
RUNTIMES = ["torch", "mindspore", pytest.param("onnx", marks=pytest.mark.onnx)]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 ``[H,W,3]``: coloured squares of 8 pixels."""
    small = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return small.repeat(8, 0).repeat(8, 1)[:height, :width]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A checkpoint of the tiny network."""
    from torch_impl.checkpoint import network_tensors
    from torch_impl.networks import build_network

    config = compose("shapes/12/suponly")
    network = build_network(config.network, len(config.dataset.classes)).eval()
    fill(network, config)
    path = tmp_path_factory.mktemp("checkpoint") / "best.safetensors"
    meta = CheckpointMeta.from_experiment(config, role="student")
    write(path, Checkpoint(meta=meta, networks={"model": network_tensors(network)}))
    return path


@pytest.fixture(scope="module")
def models(checkpoint, tmp_path_factory) -> dict[str, Path]:
    """What each runtime is given; the exported graph only where it is asked for."""

    class Models(dict):
        def __missing__(self, runtime: str) -> Path:
            pytest.importorskip("onnxscript")
            from converters.export_onnx import export

            self[runtime] = tmp_path_factory.mktemp("exported") / "model.onnx"
            export(checkpoint, self[runtime])
            return self[runtime]

    return Models(torch=checkpoint, mindspore=checkpoint)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Two pictures and a video of five frames, its square moving to the right."""
    folder = tmp_path_factory.mktemp("sources")
    Image.fromarray(picture(40, 56, 1)).save(folder / "a.png")
    Image.fromarray(picture(40, 56, 2)).save(folder / "b.png")
    film = VideoFile(folder / "clip.mkv", 10)
    for index in range(5):
        frame = picture(48, 64, 3)
        frame[8:24, 8 * index : 8 * index + 16] = (220, 200, 40)
        film.write(frame)
    film.close()
    return folder


@pytest.fixture(scope="module")
def expected(checkpoint):
    """PyTorch's class ids of a picture."""
    from torch_impl.segmenter import open_segmenter

    return open_segmenter(checkpoint, "cpu").segment


def predict(runtime: str, *arguments: object) -> int:
    pytest.importorskip({"onnx": "onnxruntime"}.get(runtime, runtime))
    return run_command(
        importlib.import_module(f"{runtime}_impl.predict").main, [*map(str, arguments), "--threads", "1"]
    )


def ids_in(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_pictures(runtime, models, sources, expected, tmp_path, capsys):
    assert predict(runtime, models[runtime], sources, "--out", tmp_path, "--batch", 2) == 0
    assert "2 of 2 pictures" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a_overlay.jpg", "b.png", "b_overlay.jpg"]
    for name, seed in (("a", 1), ("b", 2)):
        wanted = expected(picture(40, 56, seed))
        assert (ids_in(tmp_path / f"{name}.png") != wanted).mean() <= 1 / wanted.size and len(np.unique(wanted)) > 1


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_windows(runtime, models, sources, checkpoint, tmp_path):
    from torch_impl.segmenter import open_segmenter

    options = ["--window", 32, "--stride", 20, "--batch", 3, "--overlay", 0]
    assert predict(runtime, models[runtime], sources / "a.png", "--out", tmp_path, *options) == 0
    wanted = open_segmenter(checkpoint, "cpu").segment(picture(40, 56, 1), 32, 20)
    assert (ids_in(tmp_path / "a.png") != wanted).mean() <= 2 / wanted.size


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_video(runtime, models, sources, expected, tmp_path, capsys):
    clip = sources / "clip.mkv"
    frames = list(Frames(clip))
    assert predict(runtime, models[runtime], clip, "--out", tmp_path, "--batch", 2) == 0
    assert "5 frames written" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "clip").iterdir()) == [f"{index:06}.png" for index in range(5)]
    for index, frame in enumerate(frames):
        wanted = expected(frame)
        assert (ids_in(tmp_path / "clip" / f"{index:06}.png") != wanted).mean() <= 1 / wanted.size
    made = Frames(tmp_path / "clip_overlay.mp4")
    assert made.count == 5 and made.rate == pytest.approx(10)
    assert next(iter(made)).shape == frames[0].shape


def test_a_video_into_a_video(models, sources, tmp_path, capsys):
    arguments = [models["torch"], sources / "clip.mkv", "--out", tmp_path / "out.mkv"]
    assert predict("torch", *arguments, "--frames", 3, "--overlay", 1) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.mkv"] and len(list(Frames(tmp_path / "out.mkv"))) == 3
    assert predict("torch", models["torch"], sources / "a.png", "--out", tmp_path, "--frames", 3) == 2
    assert "--frames is for videos" in capsys.readouterr().err


def test_a_tiff_is_read_in_parts(models, expected, tmp_path, monkeypatch, capsys):
    tifffile = pytest.importorskip("tifffile")
    from common.images.picture_rows import TiffRows

    image = picture(150, 100, 5)
    tifffile.imwrite(tmp_path / "map.tif", image, photometric="rgb", tile=(32, 32), compression="zlib")
    Image.fromarray(image).save(tmp_path / "whole.png")
    asked, read = [], TiffRows.read
    monkeypatch.setattr(TiffRows, "read", lambda *arguments: asked.append(arguments[1:]) or read(*arguments))
    options = ["--out", tmp_path / "out", "--window", 48]
    assert predict("torch", models["torch"], tmp_path / "map.tif", tmp_path / "whole.png", *options) == 0
    assert asked and max(bottom - top for top, bottom, *_ in asked) <= 256
    np.testing.assert_array_equal(ids_in(tmp_path / "out/map.png"), ids_in(tmp_path / "out/whole.png"))
    shown = overlay(image, ids_in(tmp_path / "out/map.png"), colours("voc", 6), 0.5)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out/map_overlay.tif"), shown)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "map.png", "map_overlay.tif", "whole.png", "whole_overlay.jpg",
    ]  # fmt: skip


def test_what_fails_is_left_out_and_nothing_is_half_written(models, sources, tmp_path, monkeypatch, capsys):
    (tmp_path / "no.mp4").write_bytes(b"no video")
    arguments = [
        models["torch"],
        tmp_path / "no.mp4",
        sources / "a.png",
        sources / "clip.mkv",
        "--out",
        tmp_path / "out",
    ]
    assert predict("torch", *arguments) == 2
    said = capsys.readouterr()
    assert "no.mp4 cannot be opened as a video" in said.err and said.err.splitlines()[-1].startswith(
        "error: 1 of 3 inputs"
    )
    assert (tmp_path / "out/a.png").is_file() and len(list(Frames(tmp_path / "out/clip_overlay.mp4"))) == 5
    written = VideoFile.write

    def fail(self, frame):
        if self.frames == 2:
            raise OSError(28, "No space left on device")
        written(self, frame)

    monkeypatch.setattr(VideoFile, "write", fail)
    assert predict("torch", models["torch"], sources / "clip.mkv", "--out", tmp_path / "second.mp4") == 2
    assert "no space left" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["no.mp4", "out"]


def test_a_stream_that_is_stopped_leaves_a_whole_video(models, sources, tmp_path, monkeypatch, capsys):
    from common.segmenting import command

    class Endless(Frames):
        """The clip over and over, as a camera gives frames."""

        def __init__(self, source):
            super().__init__(sources / "clip.mkv")
            self.source, self.count = source, None

        def __iter__(self):
            frames = list(super().__iter__())
            for index in range(10**6):
                if index == 7:
                    os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
                yield frames[index % 5]

    monkeypatch.setattr(command, "Frames", Endless)
    assert predict("torch", models["torch"], "camera:0", "--out", tmp_path / "out.mp4") == 0
    count = int(capsys.readouterr().out.split(" frames written")[0].split()[-1])
    assert count == len(list(Frames(tmp_path / "out.mp4"))) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_checkpoints_need_no_onnxruntime(models, sources, tmp_path):
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name in ("mindspore", "onnx", "onnxruntime", "tifffile"):
        (stubs / f"{name}.py").write_text(f"raise ImportError('{name} is blocked')\n")
    command = [
        sys.executable,
        "-m",
        "torch_impl.predict",
        models["torch"],
        sources / "a.png",
        "--out",
        tmp_path / "out",
    ]
    environment = {**os.environ, "PYTHONPATH": f"{stubs}{os.pathsep}{PROJECT}"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
