"""``python -m onnx_impl.predict MODEL.onnx IMAGES --out DIR``: segment pictures with ONNX Runtime and nothing else.

For every picture, ``NAME.png`` holds the class ids as a palette image, ``NAME_overlay.jpg`` the colours on the picture.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.command_line import positive, run_command
from common.config.schema import Normalisation
from common.errors import UserError
from common.experiment import load
from common.files import atomic_path
from common.images.geometry import pad_to
from common.images.normalise import normalise
from common.images.picture import SUFFIXES, PixelLimit, is_picture_name, read_rgb
from common.models.model_folder import CONFIG, is_model_folder, model_file
from common.prediction.predictor import Predictor
from common.prediction.sliding import windows
from common.reports.palettes import colours, write_label_png
from common.reports.pictures import overlay


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    if options.stride is not None and (options.window is None or options.stride > options.window):
        raise UserError(f"--stride {options.stride} needs a --window of at least that size")
    pictures = find_pictures(options.images)
    targets = output_paths(pictures, options.out)

    from onnx_impl.predictor import OnnxPredictor

    predictor = OnnxPredictor(model_file(options.model, "onnx"), options.provider, options.threads)
    if options.window is not None and predictor.metadata.output != "logits":
        raise UserError(f"{options.model}: --window needs a model with logits; export with --output logits")
    table = colours(options.palette or _palette(options.model), predictor.classes)
    failures = []
    for picture in tqdm(pictures, desc="segment", unit="picture", leave=False, disable=not sys.stderr.isatty()):
        try:
            image = read_rgb(picture, limit=PixelLimit(options.max_pixels))
            ids = segment(predictor, image, options.window, options.stride)
        except UserError as error:
            failures.append(str(error))
            tqdm.write(f"left out: {error}", file=sys.stderr)
            continue
        labels, blended = targets[picture]
        write_label_png(labels, ids, table)
        if options.overlay > 0:
            write_overlay(blended, overlay(image, ids, table, options.overlay))
    done = len(pictures) - len(failures)
    print(f"{done} of {len(pictures)} pictures written to {options.out} on {predictor.runtime.device}")
    if failures:
        raise UserError(f"{len(failures)} of {len(pictures)} pictures could not be segmented; the first: {failures[0]}")


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


def segment(predictor: Predictor, image: np.ndarray, window: int | None, stride: int | None) -> np.ndarray:
    """Return uint8 ``[H,W]`` class ids of a picture uint8 ``[H,W,3]``.

    ``window`` None: the picture as a whole; else overlapping squares of that side every ``stride`` pixels (None: two
    thirds of the side), logits averaged, smaller pictures padded with the mean colour.
    """
    metadata = predictor.metadata
    normalised = normalise(image, Normalisation(mean=metadata.mean, std=metadata.std))
    height, width = image.shape[:2]
    if window is None:
        return predictor.class_ids(normalised.transpose(2, 0, 1)[None], (height, width))[0]
    padded = pad_to(normalised, window, 0)
    top, left = (padded.shape[0] - height) // 2, (padded.shape[1] - width) // 2
    layout = windows(*padded.shape[:2], window, stride or max(2 * window // 3, 1), "shift_back")
    ids = predictor.sliding_class_ids(padded.transpose(2, 0, 1)[None], layout, "mean_logits")
    return ids[top : top + height, left : left + width]


def write_overlay(path: Path, picture: np.ndarray) -> None:
    """Write a picture, uint8 RGB ``[H,W,3]``, as JPEG, whole or not at all."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="JPEG", quality=92)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m onnx_impl.predict", description="Segment pictures with an exported model."
    )
    parser.add_argument("model", type=Path, help="a .onnx file of converters.export_onnx, or a packaged model's folder")
    parser.add_argument("images", type=Path, nargs="+", help="pictures, or folders of pictures")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    parser.add_argument(
        "--provider", choices=("cpu", "cuda", "tensorrt"), default="cpu", help="what must run it (default: cpu)"
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all)")
    parser.add_argument(
        "--window", type=positive, metavar="N", help="slide a window of N x N pixels, for large pictures"
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
