"""Check the data of an experiment before training on it: its lists, and every image and label, opened once.

Every problem is one line with file and list line; then come the number of images and how often each class occurs. Exit
code 0: no problem, 1: problems, 2: nothing could be checked.
"""

from __future__ import annotations

import argparse
import collections
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from common.errors import CheckFailed, UserError, run_command

if TYPE_CHECKING:
    import numpy as np

    from common.data.datasets import Dataset
    from common.splits import Split

Result = TypeVar("Result")


class Problems:
    """The problems found so far, each once; they are printed when they are found."""

    def __init__(self) -> None:
        self.found: dict[str, None] = {}

    def add(self, problem: str) -> None:
        """Take one problem, one line."""
        if problem not in self.found:
            self.found[problem] = None
            print(f"problem: {problem}")

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
        import numpy as np

        values, counts = np.unique(label, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist()):
            place = min(value, len(self.pixels) - 1)
            self.pixels[place] += count
            self.images[place] += 1


def check_lists(dataset: Dataset, split: Split | None, problems: Problems) -> None:
    """Report ids that a list names more than once, and images of two lists that must be apart."""
    from common.data.datasets import FileDataset

    if isinstance(dataset, FileDataset):
        for key in ("train_list", "val_list"):
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


def check_files(dataset: Dataset, split: Split | None, problems: Problems) -> dict[str, Histogram]:
    """Open every image, and every label but those of unlabelled images; return the classes of either list of labels."""
    from tqdm import tqdm

    lists = parts(dataset, split)
    histograms = {part: Histogram(len(dataset.classes)) for part in ("labelled", "validation")}
    work = [(part, image_id) for part, ids in lists.items() for image_id in ids]
    for part, image_id in tqdm(work, desc="check", unit="image", leave=False, disable=not sys.stderr.isatty()):
        problems.attempt(dataset.image, image_id)
        if part in histograms:
            label = problems.attempt(dataset.label, image_id)
            if label is not None:
                histograms[part].add(label)
    return histograms


def print_histograms(dataset: Dataset, histograms: dict[str, Histogram]) -> None:
    """Print share of the pixels and number of images of every class, list by list."""
    names = [*dataset.classes, "(ignored)"]
    width = max(map(len, names))
    print("class".ljust(width) + "".join(f"  {part + ' pixels':>19}  {'images':>6}" for part in histograms))
    for place, name in enumerate(names):
        line = name.ljust(width)
        for histogram in histograms.values():
            share = 100 * histogram.pixels[place] / max(sum(histogram.pixels), 1)
            line += f"  {f'{share:.2f} %':>19}  {histogram.images[place]:>6}"
        print(line)


def main(arguments: list[str] | None = None) -> None:
    """Run the command; raises :class:`CheckFailed` when there are problems."""
    parser = argparse.ArgumentParser(prog="python -m common.check_data", description=__doc__.partition("\n")[0])
    parser.add_argument("experiment", metavar="EXPERIMENT", help="DATASET/SPLIT/METHOD, for example camvid/1_8/u2pl")
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=c", help="settings over the experiment's, e.g. dataset.root=DIR"
    )
    options = parser.parse_args(arguments)

    from common.data.datasets import FileDataset, open_dataset
    from common.experiment import compose
    from common.splits import resolve

    config = compose(options.experiment, options.overrides)
    dataset = open_dataset(config.dataset)
    if isinstance(dataset, FileDataset):
        dataset.require_root()
    problems = Problems()
    split = problems.attempt(resolve, dataset, config.split)
    check_lists(dataset, split, problems)
    histograms = check_files(dataset, split, problems)
    print(f"{dataset.name}: " + ", ".join(f"{len(ids)} {part}" for part, ids in parts(dataset, split).items()))
    print_histograms(dataset, histograms)
    if problems.found:
        raise CheckFailed(f"{len(problems.found)} problem(s) in the data of {options.experiment}, listed above")
    print("no problem found")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
