"""A picture in parts gives the answer of the whole; what is read, in which order, and where results go."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from common.config.schema import Normalisation
from common.errors import UserError
from common.images.picture_rows import WholePicture
from common.prediction.predictor import UsedRuntime
from common.segmenting.command import segmented
from common.segmenting.segmenter import PALETTE, Segmenter, palette_of
from common.segmenting.sources import AHEAD, Read, find_sources, of_one_size, output_paths, read_ahead, source


class Colours:
    """A predictor whose logits are the planes themselves, moved by one pixel: borders of windows show."""

    classes, runtime = 3, UsedRuntime(name="none", version="1", device="cpu")

    def __init__(self) -> None:
        self.batches: list[int] = []

    def logits(self, images, size):
        self.batches.append(len(images))
        return np.roll(images, 1, axis=3)

    def class_ids(self, images, size):
        return self.logits(images, size).argmax(1).astype(np.uint8)


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(Colours(), ("red", "green", "blue"), Normalisation())


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def read(name: str, pixels) -> Read:
    return Read(Path(name), pixels if isinstance(pixels, UserError) else WholePicture(pixels))


def test_pictures_are_normalised_and_answered_at_their_size(segmenter):
    image = picture(5, 7)
    class_ids = segmenter.segment(image)
    values = (image - np.float32(Normalisation().mean)) / np.float32(Normalisation().std)
    np.testing.assert_array_equal(class_ids, np.roll(values, 1, axis=1).argmax(2))
    assert class_ids.dtype == np.uint8


@pytest.mark.parametrize("batch", [1, 3, 100])
@pytest.mark.parametrize(("size", "window", "stride"), [((40, 50), 16, 10), ((9, 50), 16, None), ((9, 7), 16, 16)])
def test_windows_cover_the_picture_in_batches(segmenter, size, window, stride, batch):
    image = picture(*size)
    class_ids = segmenter.segment(image, window, stride, batch)
    np.testing.assert_array_equal(class_ids, segmenter.segment(image, window, stride))
    assert class_ids.shape == size and max(segmenter.predictor.batches) <= batch
    whole = segmenter.segment(image)
    assert (class_ids != whole).mean() < 0.3, "only borders of windows may differ from the whole"


def test_rows_are_asked_for_from_top_to_bottom(segmenter):
    asked = []

    class Rows(WholePicture):
        def read(self, top, bottom, columns):
            asked.append((top, bottom, columns.stop - columns.start))
            return super().read(top, bottom, columns)

    segmenter.slide(Rows(picture(66, 40)), 16, 12)
    assert [top for top, *_ in asked] == sorted(top for top, *_ in asked)
    assert max(bottom - top for top, bottom, _ in asked[:-6]) == 16, "rows of windows, but for the last two"
    assert [read[:2] for read in asked[-6:]] == [(48, 64), (48, 64), (48, 66), (48, 64), (50, 66), (50, 66)]
    assert {columns for *_, columns in asked} == {16}


def test_a_group_that_fails_is_done_item_by_item(segmenter, monkeypatch):
    class_ids = segmenter.class_ids

    def fail(pictures):
        if len(pictures) > 1 or pictures.max() == 0:
            raise MemoryError("out of memory")
        return class_ids(pictures)

    monkeypatch.setattr(segmenter, "class_ids", fail)
    group = [
        read("a.png", picture(4, 4)),
        read("black.png", np.zeros((4, 4, 3), np.uint8)),
        read("c.png", picture(4, 4)),
    ]
    results = [result for _, result in segmented(segmenter, group, None, None, 1)]
    assert [isinstance(result, UserError) for result in results] == [False, True, False]
    assert "black.png: memory ran out" in str(results[1])


def test_pictures_of_one_size_go_together():
    kinds = {"a": np.zeros((2, 2, 3), np.uint8), "b": np.zeros((2, 3, 3), np.uint8), "!": UserError("broken")}
    items = [read(str(index), kinds[kind]) for index, kind in enumerate("aaab!!ab")]
    groups = [[int(item.name.name) for item in group] for group in of_one_size(iter(items), 2)]
    assert groups == [[0, 1], [2], [3], [4], [5], [6], [7]]
    assert [len(group) for group in of_one_size(iter(items), 9)] == [3, 1, 1, 1, 1, 1]


def test_no_more_is_read_ahead_than_said():
    taken = []

    def items():
        for index in range(10):
            taken.append(index)
            yield index

    with ThreadPoolExecutor(1) as pool:
        for index in read_ahead(pool, items()):
            pool.submit(int).result()  # what was asked for before has been read now
            assert len(taken) <= index + 1 + AHEAD
    assert taken == list(range(10))


def test_sources_are_found_in_order_and_once(tmp_path):
    for name in ("b.png", "a.BMP", "clip.mp4", "notes.txt", "._a.png"):
        (tmp_path / name).touch()
    pictures, videos = find_sources([tmp_path, tmp_path / "b.png", tmp_path / "clip.mp4", "camera:0", "rtsp://host/x"])
    assert [path.name for path in pictures] == ["a.BMP", "b.png"]
    assert videos == [tmp_path / "clip.mp4", "camera:0", "rtsp://host/x"]
    assert [source(text) for text in ("camera:1", "http://h/v.mp4", "a/b.png")] == [
        "camera:1",
        "http://h/v.mp4",
        Path("a/b.png"),
    ]
    with pytest.raises(UserError, match="no such picture, video or folder"):
        find_sources([tmp_path / "none.mp4"])


def test_results_lie_in_the_folder_or_are_one_video(tmp_path):
    picture, clip = tmp_path / "a.tif", tmp_path / "clip.mkv"
    targets = output_paths([picture], [clip, "camera:0"], tmp_path / "out", 0.5)
    assert {path.relative_to(tmp_path / "out").as_posix() for made in targets.values() for path in vars(made).values() if path} == {
        "a.png", "a_overlay.jpg", "a_overlay.tif", "clip", "clip_overlay.mp4", "camera_0", "camera_0_overlay.mp4",
    }  # fmt: skip
    assert output_paths([], [clip], tmp_path / "o.avi", 0.5)[clip].overlay == tmp_path / "o.avi"
    assert output_paths([picture], [], tmp_path, 0)[picture].overlay is None


@pytest.mark.parametrize(
    ("pictures", "videos", "out", "alpha", "message"),
    [
        (["a.png", "a_overlay.jpg"], [], "", 0.5, "would overwrite"),
        (["a.tif", "a_overlay.tif"], [], "", 0.5, "would overwrite"),
        (["a.png", "b/a.png"], [], "out", 0.5, "would both be written"),
        ([], ["clip.mp4"], "clip.mp4", 0.5, "would overwrite"),
        (["a.png"], [], "o.mp4", 0.5, "is for one video"),
        ([], ["a.mp4", "b.mp4"], "o.mp4", 0.5, "is for one video"),
        ([], ["a.mp4"], "o.mp4", 0, "is the overlay, which --overlay 0 leaves out"),
    ],
)
def test_results_that_would_be_lost_are_refused(tmp_path, pictures, videos, out, alpha, message):
    with pytest.raises(UserError, match=message):
        output_paths(
            [tmp_path / name for name in pictures], [tmp_path / name for name in videos], tmp_path / out, alpha
        )


def test_colours_are_those_of_the_data_set(tmp_path):
    assert palette_of(tmp_path / "model.onnx", "camvid/1_8/suponly") == "camvid"
    assert palette_of(tmp_path / "model.onnx", "unknown/1/none") == palette_of(tmp_path / "model.onnx", "") == PALETTE
