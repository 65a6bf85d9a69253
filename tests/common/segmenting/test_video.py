"""Frames come out as they went in, in order and upright in time; damaged videos end in one line."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import UserError
from common.segmenting.video import RATE, Frames, VideoFile, is_live, is_video


def drawn(count: int = 6, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 ``[N,H,W,3]``: a bright square that moves to the right over a coloured ground."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[...] = (30, 90, 160)
    for index, frame in enumerate(frames):
        frame[8:24, 8 * index : 8 * index + 16] = (220, 200, 40)
    return frames


def write(path, frames, rate=12.5) -> None:
    film = VideoFile(path, rate)
    for frame in frames:
        film.write(frame)
    film.close()


def test_a_lossless_video_gives_back_its_frames(tmp_path):
    frames = drawn()
    write(tmp_path / "a.mkv", frames)
    video = Frames(tmp_path / "a.mkv")
    decoded = np.stack(list(video))
    assert video.rate == pytest.approx(12.5) and decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).max() <= 3, "FFV1 in OpenCV stores YUV"


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".avi"])
def test_other_videos_keep_order_and_number(tmp_path, suffix):
    frames = drawn()
    write(tmp_path / f"a{suffix}", frames)
    video = Frames(tmp_path / f"a{suffix}")
    decoded = np.stack(list(video)).astype(int)
    assert video.count == len(decoded) == len(frames)
    for index, frame in enumerate(decoded):
        assert np.abs(frames.astype(int) - frame).mean((1, 2, 3)).argmin() == index


def test_odd_sides_lose_no_pixel(tmp_path):
    frames = drawn(2, 47, 65)
    write(tmp_path / "a.mkv", frames)
    decoded = np.stack(list(Frames(tmp_path / "a.mkv")))
    assert decoded.shape[1:3] == (48, 66)
    assert np.abs(decoded[:, :46, :64].astype(int) - frames[:, :46, :64]).mean() < 3


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    for source in (tmp_path / "a.mp4", tmp_path / "none.mp4", "camera:97"):
        with pytest.raises(UserError, match="cannot be opened as a video"):
            Frames(source)
    film = VideoFile(tmp_path / "b.mkv", RATE)
    film.write(drawn(1)[0])
    with pytest.raises(UserError, match="frame 1 has the size"):
        film.write(drawn(1, 40)[0])


def test_a_video_that_was_not_written_whole_is_noticed(tmp_path):
    film = VideoFile(tmp_path / "a.mkv", RATE)
    film.write(drawn(1)[0])
    film.frames = 5
    with pytest.raises(OSError, match="only 1 of 5 frames"):
        film.close()


def test_sources_are_told_apart(tmp_path):
    assert is_live("camera:0") and is_live("rtsp://host/x") and not is_live("camera:x") and not is_live("a.mp4")
    assert is_video(tmp_path / "A.MP4") and not is_video(tmp_path / "a.png")
