"""Videos, cameras and streams as frames, and frames as a video, through OpenCV."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from common.errors import UserError

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
"""Ends of the names of videos, in lower case."""
CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "FFV1"}
"""How a video is written, by the end of its name: MPEG-4, Motion JPEG, or FFV1, which loses no more than the step to YUV."""

CAMERA = re.compile(r"camera:(\d+)")
STREAM = re.compile(r"(rtsp|rtmp|http|https|udp|tcp)://.+")
RATE = 25.0
"""Frames per second of a source that does not say, as cameras do."""

Source = Path | str
"""A video's file, ``camera:N``, or the address of a stream."""


def is_video(source: Source) -> bool:
    """Whether this is a video by its name, a camera or a stream."""
    return is_live(source) or Path(source).suffix.lower() in SUFFIXES


def is_live(source: Source) -> bool:
    """Whether this is a camera or a stream: it has no end of its own."""
    return isinstance(source, str) and bool(CAMERA.fullmatch(source) or STREAM.fullmatch(source))


class Frames:
    """The frames of a video, camera or stream, uint8 RGB ``[H,W,3]``, turned as the file says.

    ``rate`` is frames per second, ``count`` how many there are as far as the file knows (None: it does not). Raises
    :class:`UserError` for what cannot be opened.
    """

    def __init__(self, source: Source) -> None:
        _silence()
        self.source = source
        camera = CAMERA.fullmatch(str(source))
        self._capture = cv2.VideoCapture(int(camera[1]) if camera else str(source))
        if not self._capture.isOpened():
            hint = "check its number and that no other program uses it" if camera else "check the file or the address"
            raise UserError(f"{source} cannot be opened as a video; {hint}")
        rate, count = (self._capture.get(key) for key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.rate = rate if math.isfinite(rate) and 0 < rate <= 1000 else RATE
        self.count = int(count) if not is_live(source) and math.isfinite(count) and count > 0 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        read = 0
        try:
            while True:
                decoded, frame = self._capture.read()
                if not decoded:
                    break
                read += 1
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            self._capture.release()
        if not read:
            raise UserError(f"{self.source} has no frame that can be decoded; replace it")


class VideoFile:
    """A video that is being written, from frames uint8 RGB ``[H,W,3]`` of one size; :meth:`close` ends and checks it.

    Codecs want even sides: an odd one is filled up with its last row or column.
    """

    def __init__(self, path: Path, rate: float) -> None:
        _silence()
        self.path, self.rate = path, rate
        self.frames = 0
        self._size: tuple[int, ...] | None = None
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray) -> None:
        """Append a frame. Raises :class:`UserError` when its size is not that of the first one."""
        if self._writer is None:
            self._size = frame.shape
            height, width = (side + side % 2 for side in frame.shape[:2])
            codec = cv2.VideoWriter_fourcc(*CODECS[self.path.suffix.lower()])
            self._writer = cv2.VideoWriter(str(self.path), codec, self.rate, (width, height))
            if not self._writer.isOpened():
                raise UserError(f"this OpenCV cannot write videos {self.path.suffix}; use one of {', '.join(CODECS)}")
        if frame.shape != self._size:
            raise UserError(f"frame {self.frames} has the size {frame.shape[:2]}, those before {self._size[:2]}")
        below, beside = (side % 2 for side in frame.shape[:2])
        whole = np.pad(frame, ((0, below), (0, beside), (0, 0)), "edge") if below or beside else frame
        self._writer.write(cv2.cvtColor(whole, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def close(self) -> None:
        """End the file; raises :class:`OSError` when not every frame is in it, as on a full disk: OpenCV does not say."""
        if self._writer is not None:
            self._writer.release()
            capture = cv2.VideoCapture(str(self.path))
            written = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
            capture.release()
            if written < self.frames:
                raise OSError(None, f"only {written} of {self.frames} frames could be written", str(self.path))


def _silence() -> None:
    """Keep OpenCV and its decoders from printing: what is wrong with a file is said in one line."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.setLogLevel(0)
