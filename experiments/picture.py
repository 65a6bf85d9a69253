"""``python -m experiments.picture``: what the demo's networks see, as one picture: a row per validation image.

Image, ground truth, the supervised-only network, and the semi-supervised one in PyTorch, MindSpore and ONNX Runtime, from the
folder that ``python -m experiments.demo`` has filled. The images are the first ones of the validation list.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.command_line import number, positive, run_command, run_module, user_path
from common.datasets.file_dataset import open_dataset
from common.errors import UserError
from common.experiment import load
from common.paths import PROJECT
from common.reports.palettes import colours
from common.reports.pictures import side_by_side, write_png
from experiments.demo import SEEDS, run_folder

RUNTIMES = {"torch": "PyTorch", "mindspore": "MindSpore", "onnx": "ONNX Runtime"}
HEAD = 22
"""Rows of pixels above the pictures, for the titles of the columns."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    semi, baseline = (run_folder(options.demo, method, options.seed) for method in ("u2pl", "suponly"))
    for folder in (semi, baseline):
        if not folder.best(".pth").is_file():
            raise UserError(
                f"{folder.path} holds no trained network; run make demo first, or name its folder with --demo"
            )
    config = load(semi.config)
    dataset = open_dataset(config.dataset)
    palette = colours(config.dataset.palette, len(dataset.classes))
    with tempfile.TemporaryDirectory() as out:
        run_module(
            "torch_impl.eval",
            str(baseline.path),
            "--checkpoint",
            str(baseline.best(".pth")),
            "--out",
            out,
            "--dump",
            out,
        )
        columns = {"supervised only": Path(out)}
        columns |= {f"U2PL, {title}": options.demo / "parity" / name for name, title in RUNTIMES.items()}
        rows = []
        for image_id in dataset.val_ids[: options.images]:
            panels = [dataset.image(image_id), palette[dataset.label(image_id)]]
            panels += [palette[_class_ids(folder, image_id)] for folder in columns.values()]
            rows.append(side_by_side([_enlarged(panel, options.times) for panel in panels], gap=8))
    titles = ["image", "ground truth", *columns]
    write_png(options.out, _with_titles(np.concatenate(rows), titles, len(rows[0][0]) / len(titles)))
    print(f"written {options.out}")


def _class_ids(folder: Path, image_id: str) -> np.ndarray:
    with Image.open(folder / "ids" / f"{image_id}.png") as image:
        return np.array(image)


def _enlarged(panel: np.ndarray, times: int) -> np.ndarray:
    return np.pad(panel.repeat(times, 0).repeat(times, 1), [(0, 8), (0, 0), (0, 0)], constant_values=255)


def _with_titles(picture: np.ndarray, titles: list[str], width: float) -> np.ndarray:
    """Put ``titles`` above a picture uint8 ``[H,W,3]``, each in the middle of a column of ``width`` pixels."""
    page = Image.fromarray(np.pad(picture, [(HEAD, 0), (0, 0), (0, 0)], constant_values=255))
    draw = ImageDraw.Draw(page)
    for place, title in enumerate(titles):
        draw.text(((place + 0.5) * width, HEAD / 2), title, "black", ImageFont.load_default(12), anchor="mm")
    return np.array(page)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.picture", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--demo",
        type=user_path,
        default=PROJECT / "runs" / "demo",
        metavar="DIR",
        help="the demo's folder (default: runs/demo)",
    )
    parser.add_argument(
        "--out", type=user_path, default=PROJECT / "docs" / "pictures" / "shapes.png", metavar="FILE.png"
    )
    parser.add_argument(
        "--seed", type=number(0, kind=int), default=SEEDS[0], help="of the demo's first seed (default: 1)"
    )
    parser.add_argument("--images", type=positive, default=3, metavar="N", help="rows (default: 3)")
    parser.add_argument("--times", type=positive, default=2, metavar="N", help="pixels per pixel (default: 2)")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
