"""Check the data of an experiment before training on it: its lists, and every image and label, opened once.

Every problem is one line with file and list line; then come the number of images and how often each class occurs, and a
page with class histogram and samples. Exit code 0: no problem, 1: problems, 2: nothing could be checked.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from common.check_data.checks import check_classes, check_files, check_lists, parts
from common.check_data.findings import Histogram, Problems
from common.check_data.page import write_page
from common.command_line import experiment_arguments, positive, run_command, user_path
from common.datasets.file_dataset import Dataset, FileDataset, open_dataset
from common.errors import CheckFailed
from common.experiment import compose
from common.paths import PROJECT
from common.splits.registry import LABELLED_FILE, UNLABELLED_FILE, list_folder
from common.splits.resolve import resolve


def table_lines(dataset: Dataset, histograms: dict[str, Histogram]) -> Iterator[str]:
    """Yield share of the pixels and number of images of every class, list by list, as lines of a table."""
    names = [*dataset.classes, "(ignored)"]
    width = max(map(len, names))
    yield "class".ljust(width) + "".join(f"  {part + ' pixels':>19}  {'images':>6}" for part in histograms)
    for place, name in enumerate(names):
        line = name.ljust(width)
        for histogram in histograms.values():
            share = 100 * histogram.pixels[place] / max(sum(histogram.pixels), 1)
            line += f"  {f'{share:.2f} %':>19}  {histogram.images[place]:>6}"
        yield line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m common.check_data", description=__doc__.partition("\n")[0])
    experiment_arguments(parser, settings="settings over the experiment's, e.g. dataset.root=DIR")
    parser.add_argument(
        "--page",
        type=user_path,
        metavar="FILE.html",
        help="where the page goes (default: runs/check/DATASET_SPLIT.html)",
    )
    parser.add_argument("--samples", type=positive, default=12, metavar="N", help="pictures on the page (default: 12)")
    parser.add_argument("--workers", type=positive, default=4, metavar="N", help="images read at once (default: 4)")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command; raises :class:`CheckFailed` when there are problems."""
    options = _parser().parse_intermixed_args(arguments)
    config = compose(options.experiment, options.overrides)
    dataset = open_dataset(config.dataset)
    if isinstance(dataset, FileDataset):
        dataset.require_root()
        folder = list_folder(dataset.name, config.split)
        dataset.more_lists = (folder / LABELLED_FILE, folder / UNLABELLED_FILE)
    problems = Problems()
    split = problems.attempt(resolve, dataset, config.split)
    check_lists(dataset, split, problems)
    histograms = check_files(dataset, split, problems, options.workers)
    check_classes(dataset, histograms, problems)
    lists = parts(dataset, split)
    print(f"{dataset.name}: " + ", ".join(f"{len(ids)} {part}" for part, ids in lists.items()))
    print("\n".join(table_lines(dataset, histograms)))
    page = options.page or PROJECT / "runs" / "check" / f"{config.dataset.name}_{config.split.id}.html"
    write_page(page, dataset, split, lists, histograms, problems, options.samples)
    print(f"page: {page}")
    if problems.lines:
        raise CheckFailed(f"{len(problems.lines)} problem(s) in the data of {options.experiment}, listed above")
    print("no problem found")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
