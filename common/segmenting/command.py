"""The body of ``python -m torch_impl.predict``, ``mindspore_impl.predict`` and ``onnx_impl.predict``: one command for all.

For every picture ``NAME.png`` holds the class ids as a palette image, ``NAME_overlay.jpg`` the colours on the picture; of a
picture that is read in parts ``NAME_overlay.tif`` does. A video becomes a video of overlays, and with a folder for ``--out``
also the class ids of every frame. Reading and writing go on beside the network.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.command_line import as_user_error, number, positive, user_path
from common.errors import UserError
from common.files import atomic_path
from common.images.picture import PixelLimit
from common.images.picture_rows import PictureRows, open_rows
from common.reports.palettes import colours, write_label_png
from common.reports.pictures import overlay
from common.runtimes import RUNTIMES
from common.segmenting.segmenter import Segmenter
from common.segmenting.sources import (
    AHEAD,
    Read,
    Targets,
    find_sources,
    frame_items,
    of_one_size,
    output_paths,
    picture_items,
    read_ahead,
    source,
)
from common.segmenting.video import CODECS, Frames, Source, VideoFile, is_live

OpenSegmenter = Callable[[Path, argparse.Namespace], Segmenter]
"""Opens a model in one runtime, with that runtime's own options."""

AddOptions = Callable[[argparse.ArgumentParser], None]

Sink = Callable[[Read, np.ndarray], None]
"""Writes what was found in a picture or frame: class ids, uint8 ``[H,W]``."""

TILE = 256
"""Side of the tiles of an overlay that is written in parts."""


def run(runtime: str, arguments: list[str] | None, open_segmenter: OpenSegmenter, add_options: AddOptions) -> None:
    """Segment pictures and videos and write the results.

    ``runtime`` is ``torch``, ``mindspore`` or ``onnx``; ``add_options`` adds what only that runtime knows.
    """
    options = _parser(runtime, add_options).parse_args(arguments)
    if options.stride is not None and (options.window is None or options.stride > options.window):
        raise UserError(f"--stride {options.stride} needs a --window of at least that size")
    pictures, videos = find_sources(options.images)
    if options.frames is not None and not videos:
        raise UserError("--frames is for videos, cameras and streams, and none is named; leave it out")
    targets = output_paths(pictures, videos, options.out, options.overlay)
    segmenter = open_segmenter(options.model, options)
    if options.window is not None:
        segmenter.check_windows()
    table = colours(options.palette or segmenter.palette, len(segmenter.classes))
    failures: list[UserError] = []
    if pictures:
        failures += _segment_pictures(segmenter, pictures, targets, table, options)
        done = len(pictures) - len(failures)
        print(f"{done} of {len(pictures)} pictures written to {options.out} on {segmenter.predictor.runtime.device}")
    for video in videos:
        try:
            _segment_video(segmenter, video, targets[video], table, options)
        except Exception as error:
            failures.append(_named(video, as_user_error(error)))
            tqdm.write(f"left out: {failures[-1]}", file=sys.stderr)
    if failures:
        what = f"{len(failures)} of {len(pictures) + len(videos)} {'inputs' if videos else 'pictures'}"
        raise UserError(f"{what} could not be segmented; the first: {failures[0]}")


def _segment_pictures(
    segmenter: Segmenter,
    paths: list[Path],
    targets: dict[Source, Targets],
    table: np.ndarray,
    options: argparse.Namespace,
) -> list[UserError]:
    """Write the results of every picture; return what went wrong, which is said and does not stop the others."""
    failures: list[UserError] = []

    def write(item: Read, ids: np.ndarray) -> None:
        made = targets[item.name]
        write_label_png(made.ids, ids, table)
        if made.overlay is not None and item.whole is not None:
            _write_jpeg(made.overlay, overlay(item.whole, ids, table, options.overlay))
        elif made.overlay is not None:
            # Rows are read from top to bottom, and the network has done so already.
            again = open_rows(item.name, PixelLimit(options.max_pixels))
            _write_tiff(made.large, again, ids, table, options.overlay)

    def leave_out(error: UserError) -> None:
        failures.append(error)
        tqdm.write(f"left out: {error}", file=sys.stderr)

    items = picture_items(paths, PixelLimit(options.max_pixels), sliding=options.window is not None)
    with _progress(len(paths), "picture") as progress:
        for _ in _through(segmenter, items, write, options, leave_out):
            progress.update()
    return failures


def _segment_video(
    segmenter: Segmenter, video: Source, made: Targets, table: np.ndarray, options: argparse.Namespace
) -> None:
    """Write the results of a video, camera or stream; what comes without an end is ended by Ctrl-C and is whole then."""
    frames = Frames(video)
    started = time.perf_counter()
    with ExitStack() as stack:
        film = None
        if made.overlay is not None:
            film = VideoFile(stack.enter_context(atomic_path(made.overlay)), frames.rate)

        def write(item: Read, ids: np.ndarray) -> None:
            nonlocal count
            if made.ids is not None:
                write_label_png(made.ids / f"{count:06}.png", ids, table)
            if film is not None:
                film.write(overlay(item.whole, ids, table, options.overlay))
            count += 1

        def stop(error: UserError) -> None:
            raise error

        count, total = 0, min(filter(None, (frames.count, options.frames)), default=None)
        items = frame_items(frames, options.frames)
        with _progress(total, "frame") as progress:
            try:
                for _ in _through(segmenter, items, write, options, stop):
                    progress.update()
            except KeyboardInterrupt:
                if not is_live(video) or not count:
                    raise
        if film is not None:
            film.close()
    rate = count / (time.perf_counter() - started)
    places = ", ".join(str(path) for path in (made.ids, made.overlay) if path is not None)
    print(f"{video}: {count} frames written to {places} on {segmenter.predictor.runtime.device}, {rate:.1f} a second")
    if total is not None and count < total:
        print(f"note: {video} names {total} frames, but ends after {count}", file=sys.stderr)


def _through(
    segmenter: Segmenter,
    items: Iterator[Read],
    write: Sink,
    options: argparse.Namespace,
    failed: Callable[[UserError], None],
) -> Iterator[None]:
    """Read, segment and write all items, each in a thread of its own; yields after each.

    ``failed`` is called with what is wrong with an item, or with writing it.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        waiting: deque[Future] = deque()

        def finish() -> None:
            try:
                waiting.popleft().result()
            except Exception as error:
                failed(as_user_error(error))

        for group in of_one_size(read_ahead(reader, items), options.batch if options.window is None else 1):
            for item, ids in segmented(segmenter, group, options.window, options.stride, options.batch):
                if isinstance(ids, UserError):
                    failed(ids)
                else:
                    waiting.append(writer.submit(write, item, ids))
                    while len(waiting) > AHEAD:
                        finish()
                yield
        while waiting:
            finish()


def segmented(
    segmenter: Segmenter, group: list[Read], window: int | None, stride: int | None, batch: int
) -> Iterator[tuple[Read, np.ndarray | UserError]]:
    """Yield every item of a group with its class ids, or with what went wrong.

    A group that fails, most likely because memory ran out, is done again picture by picture.
    """
    first = group[0]
    try:
        if isinstance(first.rows, UserError):
            raise first.rows
        if window is None:
            results = segmenter.class_ids(np.stack([item.whole for item in group]))
        else:
            results = [segmenter.slide(item.rows, window, stride, batch) for item in group]
    except Exception as error:
        reason = as_user_error(error)
        if len(group) > 1:
            for item in group:
                yield from segmented(segmenter, [item], window, stride, batch)
            return
        results = [_named(first.name, reason)]
    yield from zip(group, results)


def _named(name: Source, error: UserError) -> UserError:
    return error if str(name) in str(error) else UserError(f"{name}: {error}")


def _write_jpeg(path: Path, picture: np.ndarray) -> None:
    """Write a picture, uint8 RGB ``[H,W,3]``, as JPEG, whole or not at all."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="JPEG", quality=92)


def _write_tiff(path: Path, rows: PictureRows, ids: np.ndarray, table: np.ndarray, alpha: float) -> None:
    """Write an overlay as a tiled TIFF without having more than a row of tiles in memory, whole or not at all."""
    import tifffile

    height, width = rows.size

    def tiles() -> Iterator[np.ndarray]:
        for top in range(0, height, TILE):
            bottom = min(top + TILE, height)
            strip = overlay(rows.read(top, bottom), ids[top:bottom], table, alpha)
            strip = np.pad(strip, ((0, TILE - len(strip)), (0, -width % TILE), (0, 0)))
            for left in range(0, width, TILE):
                yield np.ascontiguousarray(strip[:, left : left + TILE])

    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary, tiles(), shape=(height, width, 3), dtype=np.uint8, tile=(TILE, TILE), photometric="rgb",
            compression="zlib", metadata=None,
        )  # fmt: skip


def _progress(total: int | None, unit: str) -> tqdm:
    return tqdm(total=total, desc="segment", unit=unit, leave=False, disable=not sys.stderr.isatty())


def _parser(runtime: str, add_options: AddOptions) -> argparse.ArgumentParser:
    title = RUNTIMES[runtime].title
    parser = argparse.ArgumentParser(
        prog=f"python -m {runtime}_impl.predict", description=f"Segment pictures and videos with a network in {title}."
    )
    kinds = (
        "a .onnx file of converters.export_onnx" if runtime == "onnx" else "a checkpoint: .pth, .ckpt or .safetensors"
    )
    parser.add_argument("model", type=user_path, help=f"{kinds}; or a packaged model's folder")
    parser.add_argument(
        "images", type=source, nargs="+", help="pictures, folders of pictures, videos, camera:N, addresses of streams"
    )
    parser.add_argument(
        "--out", type=user_path, required=True, metavar="DIR",
        help=f"where the results go; for one video also a file: {', '.join(CODECS)}",
    )  # fmt: skip
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all)")
    parser.add_argument(
        "--window", type=positive, metavar="N", help="slide a window of N x N pixels, for large pictures"
    )
    parser.add_argument(
        "--batch", type=positive, default=1, metavar="B",
        help="windows, or pictures or frames of one size, at a time (default: 1)",
    )  # fmt: skip
    parser.add_argument("--stride", type=positive, metavar="N", help="step of the window (default: two thirds of it)")
    parser.add_argument(
        "--max-pixels", type=positive, default=PixelLimit().pixels, metavar="N",
        help="refuse larger pictures (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--frames", type=positive, metavar="N", help="end videos, cameras and streams after N frames")
    parser.add_argument(
        "--overlay", type=number(0, 1), default=0.5, metavar="ALPHA",
        help="weight of the colours in 0..1; 0 writes none (default: 0.5)",
    )  # fmt: skip
    parser.add_argument(
        "--palette", choices=("voc", "cityscapes", "camvid"),
        help="colours (default: those of the data set that the model was trained on, else voc)",
    )  # fmt: skip
    add_options(parser)
    return parser
