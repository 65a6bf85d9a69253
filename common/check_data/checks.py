"""The checks: lists, files, classes."""

from __future__ import annotations

import collections
import sys

from common.check_data.findings import Histogram, Problems, counts_of
from common.datasets.file_dataset import Dataset
from common.errors import UserError
from common.splits.split import Split

LABELLED_PARTS = ("labelled", "validation")
"""The parts whose labels are read; those of unlabelled images need not exist."""


PLAIN_EVERY = 500
"""Images between two lines of progress where there is no terminal for a bar."""


def check_lists(dataset: Dataset, split: Split | None, problems: Problems) -> None:
    """Report ids that a list names more than once, and images of two lists that must be apart."""
    from common.datasets.file_dataset import FileDataset

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
