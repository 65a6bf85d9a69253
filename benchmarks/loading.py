"""``python -m benchmarks.loading --against COMMIT``: CPU seconds of one training sample of every recipe, beside another commit's.

Images as large as VOC's and Cityscapes' are drawn; one process in this tree, one in a worktree of the other commit and a second
one in this tree make the same samples in turns, without workers. What the second one of this tree shows is noise. The samples of
both sides must be equal to the bit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.drawn_trees import draw_cityscapes, draw_voc
from benchmarks.harness import compared, worktree
from benchmarks.machine import save
from common.command_line import positive, run_command
from common.errors import CheckFailed
from common.paths import PROJECT

RECIPES = {
    "U2PL VOC 513 labelled": ("voc", "u2pl", "labelled", "augment.crop=513"),
    "U2PL VOC 513 unlabelled": ("voc", "u2pl", "unlabelled", "augment.crop=513"),
    "UniMatch VOC 321 labelled": ("voc", "unimatch", "labelled", "augment.crop=321"),
    "UniMatch VOC 321 unlabelled": ("voc", "unimatch", "unlabelled", "augment.crop=321"),
    "CPCL VOC 512 labelled": ("voc", "cpcl", "labelled", "augment.crop=512"),
    "CPCL VOC 512 unlabelled": ("voc", "cpcl", "unlabelled", "augment.crop=512"),
    "USRN VOC 320 labelled": ("voc", "usrn_baseline", "labelled", "augment.crop=320"),
    "USRN VOC 320 unlabelled": ("voc", "usrn", "unlabelled", "augment.crop=320"),
    "U2PL Cityscapes 769 labelled": ("cityscapes", "u2pl", "labelled", "augment.crop=769"),
    "U2PL Cityscapes 769 unlabelled": ("cityscapes", "u2pl", "unlabelled", "augment.crop=769"),
    "UniMatch Cityscapes 801 labelled": ("cityscapes", "unimatch", "labelled", "augment.crop=801"),
    "UniMatch Cityscapes 801 unlabelled": ("cityscapes", "unimatch", "unlabelled", "augment.crop=801"),
    "CPCL Cityscapes 800 labelled": ("cityscapes", "cpcl", "labelled", "augment.crop=800"),
    "USRN Cityscapes 720 labelled": ("cityscapes", "usrn_baseline", "labelled", "augment.crop=720"),
    "USRN Cityscapes 720 unlabelled": ("cityscapes", "usrn", "unlabelled", "augment.crop=720"),
}
"""Data set, method, stream and crop of the recipes that the authors' programs were timed with, and of their other rows."""
SPLITS = {"voc": "366", "cityscapes": "186"}
IMAGES = {"voc": 60, "cityscapes": 12}


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    chosen = [name for name in RECIPES if not options.only or options.only in name]
    if not chosen:
        raise CheckFailed(f"--only {options.only} is in no recipe's name: {', '.join(RECIPES)}")
    figures = {}
    with ExitStack() as stack:
        roots = _draw(Path(stack.enter_context(tempfile.TemporaryDirectory())), chosen)
        other = stack.enter_context(worktree(options.against))
        sides = {
            name: stack.enter_context(_side(tree))
            for name, tree in (("this", PROJECT), ("other", other), ("control", PROJECT))
        }
        for name in chosen:
            figures[name] = _timed(name, sides, roots, options)
            print(f"{name:36} {figures[name]['text']}", flush=True)
    command = f"python -m benchmarks.loading {' '.join(sys.argv[1:] if arguments is None else arguments)}"
    if not options.only:
        save("loading", command, {"against": options.against, "recipes": figures})


def _timed(name: str, sides: dict[str, subprocess.Popen], roots: dict[str, Path], options: argparse.Namespace) -> dict:
    dataset, method, stream, crop = RECIPES[name]
    ids = [f"2007_{index:06}" for index in range(IMAGES["voc"])]
    if dataset == "cityscapes":
        ids = [f"drawn_{index:06}_000000" for index in range(IMAGES["cityscapes"])]
    recipe = {
        "experiment": f"{dataset}/{SPLITS[dataset]}/{method}", "stream": stream, "overrides": [crop], "ids": ids,
        "root": str(roots[dataset]), "both": method != "usrn_baseline", "count": options.samples or IMAGES[dataset],
    }  # fmt: skip
    for side in sides.values():
        _ask(side, recipe | {"count": 2})
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(options.turns):
        order = list(sides) if turn % 2 == 0 else list(sides)[::-1]
        answers = {side: _ask(sides[side], recipe) for side in order}
        if len({answer["digest"] for answer in answers.values()}) > 1:
            raise CheckFailed(f"{name}: the samples of this tree and of {options.against} differ")
        for side, answer in answers.items():
            seconds[side].append(answer["seconds"])
    return compared(seconds)


def _ask(side: subprocess.Popen, recipe: dict) -> dict:
    side.stdin.write(json.dumps(recipe) + "\n")
    side.stdin.flush()
    answer = side.stdout.readline()
    if not answer:
        raise CheckFailed(f"{recipe['experiment']}: the process that makes samples ended; its message is above")
    return json.loads(answer)


@contextmanager
def _side(tree: Path) -> Iterator[subprocess.Popen]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    script = PROJECT / "benchmarks" / "loading_side.py"
    with subprocess.Popen(
        [sys.executable, str(script)], cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)} | threads,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.stdin.close()


def _draw(folder: Path, chosen: list[str]) -> dict[str, Path]:
    """Draw the data sets that are needed; return their folders."""
    draws = {"voc": draw_voc, "cityscapes": draw_cityscapes}
    roots = {dataset: folder / dataset for dataset in draws}
    for dataset in {RECIPES[name][0] for name in chosen}:
        draws[dataset](roots[dataset], IMAGES[dataset])
    return roots


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading", description=__doc__.splitlines()[0])
    parser.add_argument("--against", default="HEAD", metavar="COMMIT", help="the other side (default: HEAD)")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="recipes whose name has this in it; nothing is saved"
    )
    parser.add_argument("--samples", type=positive, help="samples of a turn (default: 60 of VOC, 12 of Cityscapes)")
    parser.add_argument("--turns", type=positive, default=4, help="default: 4")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
