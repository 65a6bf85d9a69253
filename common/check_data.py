"""Check the data of an experiment before training on it: its lists, and every image and label, opened once.

Every problem is one line with file and list line; then come the number of images and how often each class occurs, and a
page with class histogram and samples. Exit code 0: no problem, 1: problems, 2: nothing could be checked.
"""

from __future__ import annotations

import argparse
import collections
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from common.arguments import positive
from common.errors import CheckFailed, UserError, run_command
from common.paths import PROJECT

if TYPE_CHECKING:
    import numpy as np

    from common.data.datasets import Dataset
    from common.splits import Split

Result = TypeVar("Result")
LABELLED_PARTS = ("labelled", "validation")
"""The parts whose labels are read; those of unlabelled images need not exist."""
PLAIN_EVERY = 500
"""Images between two lines of progress where there is no terminal for a bar."""


class Problems:
    """The problems found so far, each once; they are printed when they are found. Remarks do not count as problems."""

    def __init__(self) -> None:
        self.found: dict[str, None] = {}
        self.remarks: dict[str, None] = {}

    def add(self, problem: str) -> None:
        """Take one problem, one line."""
        if problem not in self.found:
            self.found[problem] = None
            _say(f"problem: {problem}")

    def remark(self, text: str) -> None:
        """Take what is worth knowing but may be as it should."""
        self.remarks[text] = None
        _say(f"note: {text}")

    def attempt(self, read: Callable[..., Result], *arguments: object) -> Result | None:
        """Return ``read(*arguments)``; its :class:`UserError` becomes a problem and gives None."""
        try:
            return read(*arguments)
        except UserError as error:
            self.add(str(error))
            return None


class Histogram:
    """Pixels and images of every class over some labels; the last place counts ignored pixels."""

    def __init__(self, classes: int) -> None:
        self.pixels = [0] * (classes + 1)
        self.images = [0] * (classes + 1)

    def add(self, label: np.ndarray) -> None:
        """Count one label, uint8 ``[H,W]`` of class ids and 255."""
        self.merge(counts_of(label))

    def merge(self, counts: dict[int, int]) -> None:
        """Count one label by its numbers of pixels."""
        for value, count in counts.items():
            place = min(value, len(self.pixels) - 1)
            self.pixels[place] += count
            self.images[place] += 1


def counts_of(label: np.ndarray) -> dict[int, int]:
    """Return the number of pixels of every value in a label, uint8 ``[H,W]``."""
    import numpy as np

    counts = np.bincount(label.ravel(), minlength=256)
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def check_lists(dataset: Dataset, split: Split | None, problems: Problems) -> None:
    """Report ids that a list names more than once, and images of two lists that must be apart."""
    from common.data.datasets import FileDataset

    if isinstance(dataset, FileDataset):
        # A split of the user's own can do without a training list, when both of its lists are there.
        unused = split is not None and not dataset.config.train_list and dataset.config.layout in ("voc", "folders")
        for key in ("val_list",) if unused else ("train_list", "val_list"):
            lines = collections.defaultdict(list)
            for entry in problems.attempt(dataset.entries, key) or ():
                lines[entry.id].append(str(entry.line))
            for image_id, numbers in lines.items():
                if len(numbers) > 1:
                    problems.add(f"{dataset.list_path(key)} names {image_id} in lines {', '.join(numbers)}; keep one")
    lists = parts(dataset, split)
    where = dataset.where if isinstance(dataset, FileDataset) else lambda image_id: ""
    pairs = [("labelled", "validation"), ("unlabelled", "validation")]
    if split is None or not split.overlapping:
        pairs.append(("labelled", "unlabelled"))
    for first, second in pairs:
        shared = set(lists[second])
        for image_id in (image_id for image_id in lists[first] if image_id in shared):
            problems.add(f"{image_id} is {first} and also in the {second} list; take it out of one{where(image_id)}")


def parts(dataset: Dataset, split: Split | None) -> dict[str, tuple[str, ...]]:
    """The ids by what they are used for; a list that cannot be read counts as empty here."""
    try:
        validation = dataset.val_ids
    except UserError:
        validation = ()
    return {
        "labelled": split.labelled if split else (),
        "unlabelled": split.unlabelled if split else (),
        "validation": validation,
    }


def check_files(dataset: Dataset, split: Split | None, problems: Problems, workers: int = 1) -> dict[str, Histogram]:
    """Open every image, and every label but those of unlabelled images; return the classes of either list of labels."""
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    lists = parts(dataset, split)
    histograms = {part: Histogram(len(dataset.classes)) for part in LABELLED_PARTS}
    work = [(part, image_id) for part, ids in lists.items() for image_id in ids]

    def read(item: tuple[str, str]) -> tuple[list[str], dict[int, int]]:
        return _read(dataset, *item)

    # Decoding runs outside of Python's lock, so threads are enough and nothing but counts is kept.
    with ThreadPoolExecutor(workers) as pool:
        found = tqdm(
            pool.map(read, work),
            total=len(work),
            desc="check",
            unit="image",
            leave=False,
            disable=not sys.stderr.isatty(),
        )
        for number, ((part, image_id), (complaints, counts)) in enumerate(zip(work, found), 1):
            if number % PLAIN_EVERY == 0 and not sys.stderr.isatty():
                print(f"checked {number} of {len(work)} images", file=sys.stderr, flush=True)
            for complaint in complaints:
                problems.add(complaint)
            if counts:
                histograms[part].merge(counts)
                if min(counts) >= len(dataset.classes):
                    problems.remark(f"the label of {image_id} has no pixel of any class, all are ignored")
    return histograms


def _read(dataset: Dataset, part: str, image_id: str) -> tuple[list[str], dict[int, int]]:
    complaints, counts = [], {}
    try:
        dataset.image(image_id)
    except UserError as error:
        complaints.append(str(error))
    if part in LABELLED_PARTS:
        try:
            counts = counts_of(dataset.label(image_id))
        except UserError as error:
            complaints.append(str(error))
    return complaints, counts


def check_classes(dataset: Dataset, histograms: dict[str, Histogram], problems: Problems) -> None:
    """Remark on classes that no label of a list shows: nothing can be learned, or judged, of them."""
    for part, histogram in histograms.items():
        absent = [name for name, images in zip(dataset.classes, histogram.images) if not images]
        if absent and any(histogram.images):
            problems.remark(f"{len(absent)} of {len(dataset.classes)} classes in no {part} image: {', '.join(absent)}")


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


def _say(line: str) -> None:
    """Print above a progress bar."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m common.check_data", description=__doc__.partition("\n")[0])
    parser.add_argument("experiment", metavar="EXPERIMENT", help="DATASET/SPLIT/METHOD, for example camvid/1_8/u2pl")
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=c", help="settings over the experiment's, e.g. dataset.root=DIR"
    )
    parser.add_argument(
        "--page", type=Path, metavar="FILE.html", help="where the page goes (default: runs/check/DATASET_SPLIT.html)"
    )
    parser.add_argument("--samples", type=positive, default=12, metavar="N", help="pictures on the page (default: 12)")
    parser.add_argument("--workers", type=positive, default=4, metavar="N", help="images read at once (default: 4)")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command; raises :class:`CheckFailed` when there are problems."""
    options = _parser().parse_intermixed_args(arguments)

    from common.check_page import write_page
    from common.data.datasets import FileDataset, open_dataset
    from common.experiment import compose
    from common.split_registry import LABELLED_FILE, UNLABELLED_FILE, list_folder
    from common.splits import resolve

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
    if problems.found:
        raise CheckFailed(f"{len(problems.found)} problem(s) in the data of {options.experiment}, listed above")
    print("no problem found")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
