"""The checks: lists, files, classes."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.arrays import IGNORE
from common.check_data.classes import Palettes, absence_note
from common.check_data.findings import Histogram, Problems, counts_of
from common.command_line import as_user_error, track
from common.config.schema import Folders
from common.datasets.file_dataset import Dataset, FileDataset
from common.datasets.lists import ListEntry, read_list
from common.errors import UserError
from common.images.picture import palette_of, remarks
from common.splits.split import Split

LABELLED_PARTS = ("labelled", "validation")
"""The parts whose labels are read; those of unlabelled images need not exist."""


PLAIN_EVERY = 500
"""Images between two lines of progress where there is no terminal for a bar."""


def check_lists(dataset: Dataset, split: Split | None, problems: Problems) -> None:
    """Report ids that a list names more than once, and images of two lists that must be apart."""
    if isinstance(dataset, FileDataset):
        # A split of the user's own can do without a training list, when both of its lists are there.
        unused = split is not None and not dataset.config.train_list and isinstance(dataset.config, Folders)
        for key in ("val_list",) if unused else ("train_list", "val_list"):
            if entries := problems.attempt(dataset.entries, key):
                _check_repeated(dataset.list_path(key), entries, problems)
        for path in filter(Path.is_file, dataset.more_lists):
            _check_repeated(path, problems.attempt(read_list, path, dataset.config) or (), problems)
    lists = parts(dataset, split)
    where = dataset.where if isinstance(dataset, FileDataset) else lambda image_id: ""
    pairs = [("labelled", "validation"), ("unlabelled", "validation")]
    if split is None or not split.overlapping:
        pairs.append(("labelled", "unlabelled"))
    for first, second in pairs:
        shared = set(lists[second])
        for image_id in (image_id for image_id in lists[first] if image_id in shared):
            problems.add(f"{image_id} is {first} and also in the {second} list; take it out of one{where(image_id)}")


def _check_repeated(path: Path, entries: Iterable[ListEntry], problems: Problems) -> None:
    lines = collections.defaultdict(list)
    for entry in entries:
        lines[entry.id].append(str(entry.line))
    for image_id, numbers in lines.items():
        if len(numbers) > 1:
            problems.add(f"{path} names {image_id} in lines {', '.join(numbers)}; keep one")


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
    lists = parts(dataset, split)
    histograms = {part: Histogram(len(dataset.classes)) for part in LABELLED_PARTS}
    work = [(part, image_id) for part, ids in lists.items() for image_id in ids]

    def read(item: tuple[str, str]) -> _Seen:
        return _read(dataset, *item)

    # Decoding runs outside of Python's lock, so threads are enough and nothing but counts is kept.
    with ThreadPoolExecutor(workers) as pool:
        results = track(pool.map(read, work), "check", total=len(work), plain="checked", every=PLAIN_EVERY)
        kinds: dict[str, set[str]] = {}
        palettes = Palettes(dataset)
        for seen, (part, image_id) in zip(results, work):
            for complaint in seen.complaints:
                problems.add(complaint)
            for kind in seen.remarks:
                kinds.setdefault(kind, set()).add(image_id)
            if seen.palette is not None:
                palettes.add(*seen.palette, seen.counts)
            if seen.counts:
                histograms[part].merge(seen.counts)
                if min(seen.counts) >= len(dataset.classes):
                    problems.remark(f"the label of {image_id} has no pixel of any class, all are ignored")
    palettes.check(problems)
    for kind, ids in kinds.items():
        problems.remark(f"{len(ids)} of {len({image_id for _, image_id in work})} images {kind}, e.g. {min(ids)}")
    return histograms


@dataclass
class _Seen:
    """What one image and its label have shown: complaints, pixels of every label value, remarks on the picture's kind, and
    the label's file with its palette."""

    complaints: list[str] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    palette: tuple[Path, np.ndarray] | None = None


def _read(dataset: Dataset, part: str, image_id: str) -> _Seen:
    seen = _Seen()
    try:
        dataset.image(image_id)
        if isinstance(dataset, FileDataset):
            seen.remarks = remarks(dataset.image_path(image_id))
    except Exception as error:
        seen.complaints.append(str(as_user_error(error)))
    if part in LABELLED_PARTS:
        try:
            seen.counts = counts_of(dataset.label(image_id))
            if isinstance(dataset, FileDataset):
                path = dataset.label_path(image_id)
                palette = palette_of(path)
                seen.palette = None if palette is None else (path, palette)
        except Exception as error:
            seen.complaints.append(str(as_user_error(error)))
    return seen


def check_classes(dataset: Dataset, histograms: dict[str, Histogram], problems: Problems) -> None:
    """Remark on classes that no label of a list shows: nothing can be learned, or judged, of them."""
    for part, histogram in histograms.items():
        seen = {place for place, images in enumerate(histogram.images[:-1]) if images}
        note = absence_note(dataset, seen | ({IGNORE} if histogram.images[-1] else set()), part)
        if note and any(histogram.images):
            problems.remark(note)
