"""``python -m onnx_impl.predict MODEL.onnx IMAGES --out DIR``: segment pictures with ONNX Runtime and nothing else.

For every picture, ``NAME.png`` holds the class ids as a palette image, ``NAME_overlay.jpg`` the colours on the picture.
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.arrays import Box, Size
from common.command_line import as_user_error, positive, run_command, user_path
from common.errors import UserError
from common.experiment import load
from common.files import atomic_path
from common.images.normalise import planes
from common.images.picture import SUFFIXES, PixelLimit, is_picture_name, read_rgb
from common.models.model_folder import CONFIG, is_model_folder, model_file
from common.prediction.sliding import class_id_strips, windows
from common.reports.palettes import colours, write_label_png
from common.reports.pictures import overlay
from onnx_impl.providers import add_provider_options, provider_options

if TYPE_CHECKING:
    from onnx_impl.predictor import OnnxPredictor


AHEAD = 2
"""Pictures that are read while the network is busy, and results that wait to be written."""

Read = tuple[Path, np.ndarray | UserError]
"""A picture's path with its pixels, uint8 ``[H,W,3]``, or with what is wrong with it."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    if options.stride is not None and (options.window is None or options.stride > options.window):
        raise UserError(f"--stride {options.stride} needs a --window of at least that size")
    pictures = find_pictures(options.images)
    targets = output_paths(pictures, options.out)

    from onnx_impl.predictor import OnnxPredictor

    predictor = OnnxPredictor(model_file(options.model, "onnx"), provider_options(options, options.threads))
    if options.window is not None and predictor.metadata.output != "logits":
        raise UserError(f"{options.model}: --window needs a model with logits; export with --output logits")
    table = colours(options.palette or _palette(options.model), predictor.classes)
    failures = []

    def leave_out(error: UserError) -> None:
        failures.append(str(error))
        tqdm.write(f"left out: {error}", file=sys.stderr)

    def write(path: Path, image: np.ndarray, ids: np.ndarray) -> UserError | None:
        labels, blended = targets[path]
        try:
            write_label_png(labels, ids, table)
            if options.overlay > 0:
                write_overlay(blended, overlay(image, ids, table, options.overlay))
        except Exception as error:
            return as_user_error(error)

    def finish(written: Future) -> None:
        if (error := written.result()) is not None:
            leave_out(error)

    progress = tqdm(total=len(pictures), desc="segment", unit="picture", leave=False, disable=not sys.stderr.isatty())
    with progress, ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        waiting: deque[Future] = deque()
        read = read_ahead(reader, pictures, PixelLimit(options.max_pixels))
        for group in of_one_size(read, options.batch if options.window is None else 1):
            for path, image, ids in segmented(predictor, group, options):
                progress.update()
                if isinstance(ids, UserError):
                    leave_out(ids)
                    continue
                waiting.append(writer.submit(write, path, image, ids))
                while len(waiting) > AHEAD:
                    finish(waiting.popleft())
        for written in waiting:
            finish(written)
    done = len(pictures) - len(failures)
    print(f"{done} of {len(pictures)} pictures written to {options.out} on {predictor.runtime.device}")
    if failures:
        raise UserError(f"{len(failures)} of {len(pictures)} pictures could not be segmented; the first: {failures[0]}")


def read_ahead(pool: ThreadPoolExecutor, pictures: Sequence[Path], limit: PixelLimit) -> Iterator[Read]:
    """Yield every picture in order, or what is wrong with it, while ``pool`` reads the next ones."""

    def read(path: Path) -> Read:
        try:
            return path, read_rgb(path, limit=limit)
        except Exception as error:
            return path, as_user_error(error)

    left = iter(pictures)
    running = deque(pool.submit(read, path) for path in islice(left, AHEAD))
    while running:
        item = running.popleft().result()
        running.extend(pool.submit(read, path) for path in islice(left, 1))
        yield item


def of_one_size(items: Iterable[Read], batch: int) -> Iterator[list[Read]]:
    """Yield the items in order, up to ``batch`` pictures of one size that follow one another at a time."""
    group: list[Read] = []
    for path, image in items:
        fits = group and not isinstance(image, UserError) and not isinstance(group[0][1], UserError)
        if group and (len(group) == batch or not fits or image.shape != group[0][1].shape):
            yield group
            group = []
        group.append((path, image))
    if group:
        yield group


def segmented(
    predictor: OnnxPredictor, group: list[Read], options: argparse.Namespace
) -> Iterator[tuple[Path, Any, Any]]:
    """Yield path, picture and class ids of every picture of a group; what went wrong stands in place of the ids.

    A group that fails, most likely because memory ran out, is done again picture by picture.
    """
    paths, images = zip(*group)
    try:
        if isinstance(images[0], UserError):
            raise images[0]
        if options.window is None:
            results = predictor.picture_class_ids(np.stack(images))
        else:
            results = [segment(predictor, image, options.window, options.stride, options.batch) for image in images]
    except Exception as error:
        reason = as_user_error(error)
        if len(group) > 1:
            for item in group:
                yield from segmented(predictor, [item], options)
            return
        named = reason if str(paths[0]) in str(reason) else UserError(f"{paths[0]}: {reason}")
        results = [named]
    yield from zip(paths, images, results)


def find_pictures(paths: Sequence[Path]) -> list[Path]:
    """Return the files named, and of every folder the pictures directly in it, sorted by name.

    Raises :class:`UserError` when a path does not exist or there is no picture at all.
    """
    found = []
    for path in paths:
        if path.is_dir():
            found += sorted(item for item in path.iterdir() if is_picture_name(item) and item.is_file())
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"{path}: there is no such picture or folder; check the path")
    if not found:
        raise UserError(f"no picture in {', '.join(map(str, paths))}; looked for {', '.join(SUFFIXES)}")
    return list(dict.fromkeys(found))


def output_paths(pictures: Sequence[Path], out: Path) -> dict[Path, tuple[Path, Path]]:
    """Return the two files in ``out`` that each picture is written to: class ids and overlay.

    Raises :class:`UserError` when a result would overwrite another one or one of the pictures.
    """
    sources = {path.resolve(): path for path in pictures}
    taken: dict[Path, Path] = {}
    targets = {}
    for path in pictures:
        targets[path] = (out / f"{path.stem}.png", out / f"{path.stem}_overlay.jpg")
        for target in targets[path]:
            if target.resolve() in sources:
                raise UserError(f"the result of {path} would overwrite the picture {target}; choose another --out")
            if target in taken:
                raise UserError(
                    f"{taken[target]} and {path} would both be written to {target}; rename one or use two folders"
                )
            taken[target] = path
    return targets


def segment(predictor: OnnxPredictor, image: np.ndarray, window: int, stride: int | None, batch: int = 1) -> np.ndarray:
    """Return uint8 ``[H,W]`` class ids of a picture uint8 ``[H,W,3]`` of any size from overlapping windows.

    Windows are squares of ``window`` pixels every ``stride`` pixels (None: two thirds of the side), ``batch`` at a time;
    their logits are averaged. Smaller pictures are padded with the mean colour. Beside the picture and its result, memory
    holds the logits of one row of windows.
    """
    (height, width), ids = image.shape[:2], np.empty(image.shape[:2], np.uint8)
    padded = (max(height, window), max(width, window))
    top, left = ((side - length) // 2 for side, length in zip(padded, (height, width)))
    layout = windows(*padded, window, stride or max(2 * window // 3, 1), "shift_back")
    values = window_logits(predictor, image, layout, (top, left), batch)
    for at, rows in class_id_strips(layout, values, predictor.classes, padded[1], mean=True):
        first, last = max(at, top), min(at + len(rows), top + height)
        ids[first - top : last - top] = rows[first - at : last - at, left : left + width]
    return ids


def window_logits(
    predictor: OnnxPredictor, image: np.ndarray, layout: Sequence[Box], margin: Size, batch: int
) -> Iterator[np.ndarray]:
    """Yield float32 ``[K,h,w]`` logits of every window of a picture that has ``margin`` (above, left) of the mean colour."""
    normalisation = predictor.metadata.normalisation
    size = (layout[0].bottom - layout[0].top, layout[0].right - layout[0].left)
    for start in range(0, len(layout), batch):
        boxes = layout[start : start + batch]
        images = np.zeros((len(boxes), 3, *size), np.float32)
        for box, plane in zip(boxes, images):
            shown = image[
                max(box.top - margin[0], 0) : box.bottom - margin[0],
                max(box.left - margin[1], 0) : box.right - margin[1],
            ]
            above, before = max(margin[0] - box.top, 0), max(margin[1] - box.left, 0)
            rows, columns = slice(above, above + shown.shape[0]), slice(before, before + shown.shape[1])
            plane[:, rows, columns] = planes(shown, normalisation)
        yield from predictor.logits(images, size)


def write_overlay(path: Path, picture: np.ndarray) -> None:
    """Write a picture, uint8 RGB ``[H,W,3]``, as JPEG, whole or not at all."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="JPEG", quality=92)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m onnx_impl.predict", description="Segment pictures with an exported model."
    )
    parser.add_argument(
        "model", type=user_path, help="a .onnx file of converters.export_onnx, or a packaged model's folder"
    )
    parser.add_argument("images", type=user_path, nargs="+", help="pictures, or folders of pictures")
    parser.add_argument("--out", type=user_path, required=True, metavar="DIR", help="where the results go")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all)")
    parser.add_argument(
        "--window", type=positive, metavar="N", help="slide a window of N x N pixels, for large pictures"
    )
    parser.add_argument(
        "--batch",
        type=positive,
        default=1,
        metavar="B",
        help="windows, or pictures of one size, at a time (default: 1)",
    )
    parser.add_argument("--stride", type=positive, metavar="N", help="step of the window (default: two thirds of it)")
    parser.add_argument(
        "--max-pixels",
        type=positive,
        default=PixelLimit().pixels,
        metavar="N",
        help="refuse larger pictures (default: %(default)s)",
    )
    parser.add_argument(
        "--overlay",
        type=_share,
        default=0.5,
        metavar="ALPHA",
        help="weight of the colours in 0..1; 0 writes none (default: 0.5)",
    )
    parser.add_argument(
        "--palette", choices=("voc", "cityscapes", "camvid"), help="colours (default: a packaged model's own, else voc)"
    )
    add_provider_options(parser)
    return parser


def _palette(model: Path) -> str:
    """The palette of the data set that a packaged model was trained on."""
    return load(model / CONFIG).dataset.palette if is_model_folder(model) else "voc"


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} does not lie in 0..1")
    return value


if __name__ == "__main__":
    raise SystemExit(run_command(main))
