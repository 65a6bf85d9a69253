"""What ``predict`` reads: pictures, folders and videos; and the files that it writes for each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from common.command_line import as_user_error, user_path
from common.errors import UserError
from common.images.picture import SUFFIXES, PixelLimit, is_picture_name, read_rgb
from common.images.picture_rows import PictureRows, WholePicture, is_tiff, open_rows
from common.segmenting.video import CODECS, Frames, Source, is_live, is_video

AHEAD = 2
"""Pictures or frames that are read while the network is busy, and results that wait to be written."""

Item = TypeVar("Item")
END = object()


@dataclass(frozen=True)
class Read:
    """One picture or frame: what it is called, and its rows or what is wrong with it."""

    name: Source
    rows: PictureRows | UserError

    @property
    def whole(self) -> np.ndarray | None:
        """The picture, uint8 ``[H,W,3]``, where it is in memory."""
        return self.rows.picture if isinstance(self.rows, WholePicture) else None


def source(text: str) -> Source:
    """Return a path, or a camera or stream as it is; for ``type=`` of argparse."""
    return text if is_live(text) else user_path(text)


def find_sources(named: Sequence[Source]) -> tuple[list[Path], list[Source]]:
    """Return the pictures and the videos among what is named; of a folder the pictures directly in it, sorted by name.

    Raises :class:`UserError` when a path does not exist or there is nothing at all.
    """
    pictures: list[Path] = []
    videos: list[Source] = []
    for item in named:
        if is_live(item):
            videos.append(item)
        elif item.is_dir():
            pictures += sorted(path for path in item.iterdir() if is_picture_name(path) and path.is_file())
        elif item.is_file():
            (videos if is_video(item) else pictures).append(item)
        else:
            raise UserError(f"{item}: there is no such picture, video or folder; check the path")
    if not pictures and not videos:
        raise UserError(f"no picture in {', '.join(map(str, named))}; looked for {', '.join(SUFFIXES)}")
    return list(dict.fromkeys(pictures)), list(dict.fromkeys(videos))


@dataclass(frozen=True)
class Targets:
    """Where results go: a picture's class ids and overlay; a video's folder of class ids and overlay. None: not written.

    ``large`` is the overlay of a picture that is read in parts.
    """

    ids: Path | None
    overlay: Path | None
    large: Path | None = None


def output_paths(pictures: Sequence[Path], videos: Sequence[Source], out: Path, alpha: float) -> dict[Source, Targets]:
    """Return where each picture and video is written, in the folder ``out``, or to the video ``out``.

    ``alpha`` 0 leaves overlays out. Raises :class:`UserError` when a result would overwrite another one or a source, or a
    video ``out`` does not go with the sources.
    """
    if out.suffix.lower() in CODECS and not out.is_dir():
        if pictures or len(videos) != 1:
            raise UserError(
                f"--out {out} is for one video, camera or stream; name a folder for pictures and for several"
            )
        if not alpha:
            raise UserError(
                f"--out {out} is the overlay, which --overlay 0 leaves out; name a folder for class ids alone"
            )
        targets = {videos[0]: Targets(None, out)}
    else:
        targets = {
            path: Targets(
                out / f"{path.stem}.png",
                out / f"{path.stem}_overlay.jpg",
                out / f"{path.stem}_overlay.tif" if is_tiff(path) else None,
            )
            for path in pictures
        }
        for video in videos:
            name = Path(video).stem if isinstance(video, Path) else "".join(c if c.isalnum() else "_" for c in video)
            targets[video] = Targets(out / name, out / f"{name}_overlay.mp4")
    sources = {path.resolve(): path for path in targets if isinstance(path, Path)}
    taken: dict[Path, Source] = {}
    for name, made in targets.items():
        for target in filter(None, (made.ids, made.overlay, made.large)):
            if target.resolve() in sources:
                raise UserError(f"the result of {name} would overwrite {target}; choose another --out")
            if target in taken:
                raise UserError(
                    f"{taken[target]} and {name} would both be written to {target}; rename one or use two folders"
                )
            taken[target] = name
    return targets if alpha else {name: Targets(made.ids, None) for name, made in targets.items()}


def picture_items(paths: Sequence[Path], limit: PixelLimit, sliding: bool) -> Iterator[Read]:
    """Yield every picture, or what is wrong with it; with ``sliding`` by rows, where the file allows that."""
    for path in paths:
        try:
            yield Read(path, open_rows(path, limit) if sliding else WholePicture(read_rgb(path, limit=limit)))
        except Exception as error:
            yield Read(path, as_user_error(error))


def frame_items(frames: Frames, most: int | None) -> Iterator[Read]:
    """Yield the first ``most`` frames of a video (None: all)."""
    for index, frame in enumerate(frames):
        if index == most:
            return
        yield Read(f"{frames.source}, frame {index}", WholePicture(frame))


def read_ahead(pool: ThreadPoolExecutor, items: Iterator[Item]) -> Iterator[Item]:
    """Yield ``items`` in order while ``pool``, of one thread, gets the next ones."""
    running = deque(pool.submit(next, items, END) for _ in range(AHEAD))
    while (item := running.popleft().result()) is not END:
        running.append(pool.submit(next, items, END))
        yield item


def of_one_size(items: Iterable[Read], batch: int) -> Iterator[list[Read]]:
    """Yield the items in order, up to ``batch`` pictures of one size that follow one another at a time."""
    group: list[Read] = []
    for item in items:
        fits = group and item.whole is not None and group[0].whole is not None
        if group and (len(group) == batch or not fits or item.whole.shape != group[0].whole.shape):
            yield group
            group = []
        group.append(item)
    if group:
        yield group
