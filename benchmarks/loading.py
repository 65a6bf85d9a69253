"""``python -m benchmarks.loading --against COMMIT``: training samples of every recipe, beside another commit's.

Images as large as VOC's and Cityscapes' are drawn; each form makes samples without workers. Those of both sides must be equal to the bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.drawn_trees import draw_cityscapes, draw_voc
from benchmarks.harness import WORKER, Form, measure, options, summary, worktree
from benchmarks.machine import command_of, save
from common.command_line import positive, run_command
from common.errors import CheckFailed

RECIPES = {
    "U2PL VOC 513 labelled": ("voc/366/u2pl", "labelled", 513),
    "U2PL VOC 513 unlabelled": ("voc/366/u2pl", "unlabelled", 513),
    "UniMatch VOC 321 labelled": ("voc/366/unimatch", "labelled", 321),
    "UniMatch VOC 321 unlabelled": ("voc/366/unimatch", "unlabelled", 321),
    "CPCL VOC 512 labelled": ("voc/366/cpcl", "labelled", 512),
    "CPCL VOC 512 unlabelled": ("voc/366/cpcl", "unlabelled", 512),
    "USRN VOC 320 labelled": ("voc/366/usrn_baseline", "labelled", 320),
    "USRN VOC 320 unlabelled": ("voc/366/usrn", "unlabelled", 320),
    "U2PL Cityscapes 769 labelled": ("cityscapes/186/u2pl", "labelled", 769),
    "U2PL Cityscapes 769 unlabelled": ("cityscapes/186/u2pl", "unlabelled", 769),
    "UniMatch Cityscapes 801 labelled": ("cityscapes/186/unimatch", "labelled", 801),
    "UniMatch Cityscapes 801 unlabelled": ("cityscapes/186/unimatch", "unlabelled", 801),
    "CPCL Cityscapes 800 labelled": ("cityscapes/186/cpcl", "labelled", 800),
    "USRN Cityscapes 720 labelled": ("cityscapes/186/usrn_baseline", "labelled", 720),
    "USRN Cityscapes 720 unlabelled": ("cityscapes/186/usrn", "unlabelled", 720),
}
"""Experiment, stream and crop of the recipes that the authors' programs were timed with, and of their other rows."""
IDS = {
    "voc": [f"2007_{index:06}" for index in range(60)],
    "cityscapes": [f"drawn_{index:06}_000000" for index in range(12)],
}
DRAWS = {"voc": draw_voc, "cityscapes": draw_cityscapes}


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = options("loading", __doc__.splitlines()[0].partition(": ")[2].capitalize(), turns=4)
    parser.add_argument("--against", default="HEAD", metavar="COMMIT", help="the other side (default: HEAD)")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="recipes whose name has this in it; nothing is saved"
    )
    parser.add_argument("--samples", type=positive, help="samples of a turn (default: 60 of VOC, 12 of Cityscapes)")
    parsed = parser.parse_args(arguments)
    chosen = {name: recipe for name, recipe in RECIPES.items() if parsed.only in name}
    if not chosen:
        raise CheckFailed(f"--only {parsed.only} is in no recipe's name: {', '.join(RECIPES)}")
    figures = {}
    datasets = {experiment.split("/")[0] for experiment, *_ in chosen.values()}
    with _drawn(datasets) as roots, worktree(parsed.against) as other:
        for name, recipe in chosen.items():
            command = _command(*recipe, roots, parsed.samples)
            forms = {"this": Form(command), parsed.against: Form(command, other)}
            figures[name] = measure(forms, parsed.turns, parsed.threads)
            print(f"{name}: {summary(figures[name])}", flush=True)
    if not parsed.only:
        save("loading", command_of("loading", arguments), figures)


def _command(experiment: str, stream: str, crop: int, roots: dict[str, Path], count: int | None) -> list[str]:
    """Return the command line of a form's process."""
    dataset = experiment.split("/")[0]
    ids = IDS[dataset]
    batch = ["loader.batch_labelled=1"] + ["loader.batch_unlabelled=1"] * ("usrn_baseline" not in experiment)
    settings = [f"dataset.root={roots[dataset]}", f"augment.crop={crop}", *batch]
    return [*WORKER, "samples", experiment, stream, str(count or len(ids)), ",".join(ids), *settings]


@contextmanager
def _drawn(datasets: set[str]) -> Iterator[dict[str, Path]]:
    """Draw these data sets; yield their folders."""
    with tempfile.TemporaryDirectory() as folder:
        for dataset in datasets:
            DRAWS[dataset](Path(folder) / dataset, len(IDS[dataset]))
        yield {dataset: Path(folder) / dataset for dataset in datasets}


if __name__ == "__main__":
    raise SystemExit(run_command(main))
