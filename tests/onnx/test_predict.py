"""The command that segments pictures: right class ids, nothing overwritten, bad pictures named, ONNX Runtime enough."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.command_line import run_command
from common.config.schema import Normalisation
from common.images.geometry import pad_to
from common.images.normalise import normalise
from common.images.picture import read_rgb
from common.prediction.sliding import windows
from common.reports.palettes import colours
from onnx_impl.predict import main
from tests.places import PROJECT
from tests.processes import PATIENCE

pytest.importorskip("onnxruntime")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 ``[H,W,3]``: coloured squares of 8 pixels."""
    small = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return small.repeat(8, 0).repeat(8, 1)[:height, :width]


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder with three pictures and a file that is none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(picture(60, 80, 1)).save(folder / "b.png")
    Image.fromarray(picture(33, 47, 2)).save(folder / "a.BMP")
    Image.fromarray(picture(50, 40, 3)[..., 0]).save(folder / "grey.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def planes(image: np.ndarray) -> np.ndarray:
    return normalise(image, Normalisation()).transpose(2, 0, 1)[None]


def ids_in(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "P"
        assert image.getpalette()[:768] == colours("voc", 6).ravel().tolist()
        return np.array(image)


@pytest.fixture
def expected(exported):
    from torch_impl.predictor import TorchPredictor

    predictor = TorchPredictor(exported.network)
    return lambda image: predictor.class_ids(planes(image), image.shape[:2])[0]


def test_a_folder_is_segmented_as_by_pytorch(exported, pictures, expected, tmp_path, capsys):
    assert (
        run_command(main, [str(exported.model), str(pictures), "--out", str(tmp_path / "out"), "--threads", "1"]) == 0
    )
    names = ["a.png", "a_overlay.jpg", "b.png", "b_overlay.jpg", "grey.png", "grey_overlay.jpg"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    for name, image in (("a", picture(33, 47, 2)), ("b", picture(60, 80, 1))):
        ids = ids_in(tmp_path / "out" / f"{name}.png")
        np.testing.assert_array_equal(ids, expected(image))
        assert len(np.unique(ids)) > 1
    grey = np.repeat(picture(50, 40, 3)[..., :1], 3, axis=2)
    np.testing.assert_array_equal(ids_in(tmp_path / "out" / "grey.png"), expected(grey))
    with Image.open(tmp_path / "out" / "a_overlay.jpg") as overlay:
        assert overlay.size == (47, 33)
    assert "3 of 3 pictures" in capsys.readouterr().out


def test_a_class_id_model_gives_the_same_files(exported, pictures, tmp_path):
    for model, out in ((exported.model, "one"), (exported.ids_model, "two")):
        assert run_command(main, [str(model), str(pictures), "--out", str(tmp_path / out)]) == 0
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_the_overlay_can_be_left_out_and_weighted(exported, pictures, tmp_path):
    arguments = [str(exported.model), str(pictures / "b.png"), "--out"]
    assert run_command(main, [*arguments, str(tmp_path / "none"), "--overlay", "0"]) == 0
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["b.png"]
    assert run_command(main, [*arguments, str(tmp_path / "full"), "--overlay", "1"]) == 0
    ids = ids_in(tmp_path / "full" / "b.png")
    overlay = read_rgb(tmp_path / "full" / "b_overlay.jpg").astype(int)
    assert np.abs(overlay - colours("voc", 6)[ids]).mean() < 20
    assert np.abs(overlay - picture(60, 80, 1)).mean() > 40


def test_a_window_slides_over_large_pictures(exported, tmp_path):
    from torch_impl.predictor import TorchPredictor

    image = picture(70, 100, 4)
    Image.fromarray(image).save(tmp_path / "large.png")
    arguments = [str(exported.model), str(tmp_path / "large.png"), "--out", str(tmp_path / "out")]
    assert run_command(main, [*arguments, "--window", "48", "--stride", "20"]) == 0
    ids = ids_in(tmp_path / "out" / "large.png")
    layout = windows(70, 100, 48, 20, "shift_back")
    predictor = TorchPredictor(exported.network)
    np.testing.assert_array_equal(ids, predictor.sliding_class_ids(planes(image), layout, "mean_logits"))
    assert (ids != predictor.class_ids(planes(image), (70, 100))[0]).any()


def test_a_picture_smaller_than_the_window_is_padded_with_the_mean(exported, tmp_path):
    from torch_impl.predictor import TorchPredictor

    image = picture(31, 80, 5)
    Image.fromarray(image).save(tmp_path / "flat.png")
    arguments = [str(exported.model), str(tmp_path / "flat.png"), "--out", str(tmp_path / "out"), "--window", "64"]
    assert run_command(main, arguments) == 0
    padded = np.zeros((1, 3, 64, 80), np.float32)
    padded[:, :, 16:47] = planes(image)
    layout = windows(64, 80, 64, 42, "shift_back")
    ids = TorchPredictor(exported.network).sliding_class_ids(padded, layout, "mean_logits")
    np.testing.assert_array_equal(ids_in(tmp_path / "out" / "flat.png"), ids[16:47])


def test_bad_pictures_are_named_and_the_others_done(exported, pictures, tmp_path, capsys):
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff" + bytes(100))
    (pictures / "cut.png").write_bytes((pictures / "b.png").read_bytes()[:80])
    assert run_command(main, [str(exported.model), str(pictures), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert "3 of 5 pictures" in said.out
    assert "broken.jpg is not an image" in said.err and "cut.png cannot be decoded" in said.err
    assert said.err.splitlines()[-1].startswith("error: 2 of 5 pictures")
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.png")) == ["a", "b", "grey"]
    assert [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("error", "said"),
    [(OSError(errno.ENOSPC, "No space left on device"), "no space left"), (MemoryError(), "memory ran out")],
)
@pytest.mark.parametrize("where", ["write_label_png", "read_rgb"])
def test_one_picture_that_fails_does_not_stop_the_others(
    exported, pictures, tmp_path, monkeypatch, capsys, error, said, where
):
    from common.segmenting import command, sources

    module = command if where == "write_label_png" else sources
    whole = getattr(module, where)

    def fail(path, *arguments, **options):
        if path.stem == "b":
            raise error
        return whole(path, *arguments, **options)

    monkeypatch.setattr(module, where, fail)
    assert run_command(main, [str(exported.model), str(pictures), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr()
    assert "2 of 3 pictures" in told.out and said in told.err.splitlines()[-1]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["a.png", "grey.png"]


def test_a_group_without_memory_is_done_picture_by_picture(exported, tmp_path, monkeypatch, capsys):
    from onnx_impl.predictor import OnnxPredictor

    (tmp_path / "in").mkdir()
    for name in "abc":
        Image.fromarray(picture(24, 24, ord(name))).save(tmp_path / "in" / f"{name}.png")
    whole = OnnxPredictor.picture_class_ids

    def fail(self, images):
        if len(images) > 1:
            raise RuntimeError("Failed to allocate memory for requested buffer")
        return whole(self, images)

    monkeypatch.setattr(OnnxPredictor, "picture_class_ids", fail)
    arguments = [str(exported.model), str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--batch", "3"]
    assert run_command(main, arguments) == 0
    assert "3 of 3 pictures" in capsys.readouterr().out


def test_results_never_overwrite_each_other_or_a_picture(exported, pictures, tmp_path, capsys):
    before = {path: path.read_bytes() for path in pictures.iterdir()}
    assert run_command(main, [str(exported.model), str(pictures), "--out", str(pictures)]) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in pictures.iterdir()} == before
    Image.fromarray(picture(8, 8)).save(pictures / "b.jpg")
    assert run_command(main, [str(exported.model), str(pictures), "--out", str(tmp_path / "out")]) == 2
    assert "would both be written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jpg"], "nowhere.jpg: there is no such picture, video or folder"),
        (["."], "no picture in"),
        (["x.png", "--stride", "8"], "needs a --window"),
        (["x.png", "--stride", "80", "--window", "64"], "needs a --window of at least that size"),
        (["x.png", "--palette", "camvid", "--provider", "cuda"], "CUDAExecutionProvider"),
    ],
)
def test_bad_use_ends_in_one_line(exported, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    if "x.png" in arguments:
        Image.fromarray(picture(8, 8)).save("x.png")
    assert run_command(main, [str(exported.model), *arguments, "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert message in said and said.startswith("error: ") and said.count("\n") == 1
    assert not Path("out").exists()


def test_windows_need_logits(exported, pictures, tmp_path, capsys):
    arguments = [str(exported.ids_model), str(pictures), "--out", str(tmp_path / "out"), "--window", "32"]
    assert run_command(main, arguments) == 2
    assert "export with --output logits" in capsys.readouterr().err


def test_pictures_are_read_as_data_sets_read_them(exported, tmp_path, expected, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    eight = picture(24, 40, 6)[..., 0]
    Image.fromarray(eight).save(folder / "eight.png")
    Image.fromarray(eight.astype(np.uint16) << 8 | 77).save(folder / "sixteen.png")
    turned = Image.fromarray(picture(24, 40, 7))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "turned.png", exif=exif)
    (folder / "._eight.png").write_bytes(b"\x00\x05\x16\x07")
    assert run_command(main, [str(exported.model), str(folder), "--out", str(tmp_path / "out"), "--overlay", "0"]) == 0
    assert "3 of 3 pictures" in capsys.readouterr().out
    np.testing.assert_array_equal(ids_in(tmp_path / "out/sixteen.png"), ids_in(tmp_path / "out/eight.png"))
    np.testing.assert_array_equal(ids_in(tmp_path / "out/turned.png"), expected(np.rot90(picture(24, 40, 7), -1)))


def test_the_pixel_limit_is_named_and_can_be_raised(exported, pictures, tmp_path, capsys):
    arguments = [str(exported.model), str(pictures), "--out", str(tmp_path / "out"), "--max-pixels"]
    assert run_command(main, [*arguments, "2000"]) == 2
    assert "b.png has 80x60 pixels, more than --max-pixels = 2000" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["a.png", "grey.png"]
    assert run_command(main, [*arguments, "4800"]) == 0


def test_onnxruntime_alone_is_enough(exported, pictures, tmp_path):
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name in ("torch", "mindspore", "onnx", "onnxscript"):
        (stubs / f"{name}.py").write_text(f"raise ImportError('{name} is blocked')\n")
    command = [
        sys.executable,
        "-m",
        "onnx_impl.predict",
        str(exported.model),
        str(pictures),
        "--out",
        str(tmp_path / "out"),
    ]
    environment = {**os.environ, "PYTHONPATH": f"{stubs}{os.pathsep}{PROJECT}"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("size", "window", "stride"), [((70, 100), 48, 20), ((31, 80), 64, None), ((20, 21), 32, 32)])
def test_windows_in_strips_and_batches_give_the_answer_of_the_whole(exported, size, window, stride, batch):
    from common.prediction.sliding import join_windows
    from onnx_impl.segmenter import open_segmenter

    segmenter, image = open_segmenter(exported.model, threads=1), picture(*size, seed=6)
    padded = pad_to(normalise(image, Normalisation()), window, 0).transpose(2, 0, 1)[None]
    height, width = padded.shape[2:]
    layout = windows(height, width, window, stride or max(2 * window // 3, 1), "shift_back")

    def logits(box):
        return segmenter.predictor.logits(padded[:, :, box.rows, box.columns], (window, window))[0]

    total, visits = np.zeros((6, height, width), np.float32), np.zeros((height, width), np.float32)
    whole = join_windows(layout, logits, total, visits).argmax(0)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    class_ids = segmenter.segment(image, window, stride, batch)
    assert (class_ids != whole[top : top + size[0], left : left + size[1]]).mean() <= (0 if batch == 1 else 2e-4)


def test_batches_of_pictures_give_the_same_files(exported, pictures, tmp_path):
    for index in range(3):
        Image.fromarray(picture(60, 80, 10 + index)).save(pictures / f"more{index}.png")
    for batch in ("1", "4"):
        command = [
            str(exported.model),
            str(pictures),
            "--out",
            str(tmp_path / batch),
            "--batch",
            batch,
            "--overlay",
            "0",
        ]
        assert run_command(main, command) == 0
    for path in (tmp_path / "1").iterdir():
        with Image.open(path) as one, Image.open(tmp_path / "4" / path.name) as many:
            assert (np.array(one) != np.array(many)).mean() <= 2e-4
