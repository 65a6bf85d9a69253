"""What the labels say of their classes: which are shown, and whether palettes agree on them."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.arrays import IGNORE
from common.check_data.findings import Problems
from common.command_line import track
from common.config.schema import FileDatasetConfig
from common.datasets.file_dataset import Dataset
from common.splits.split import Split


def class_notes(dataset: Dataset, split: Split) -> list[str]:
    """Return a line for either list of labels that does not show every class.

    Labels are read until all classes have been seen, usually a few of them. Raises :class:`common.errors.UserError` for one
    that cannot be read.
    """
    notes = []
    for part, ids in (("labelled", split.labelled), ("validation", dataset.val_ids)):
        notes.append(absence_note(dataset, shown_values(dataset, ids, part), part))
    return [f"warning: {note}" for note in notes if note]


def shown_values(dataset: Dataset, ids: Iterable[str], part: str) -> set[int]:
    """Return the class ids, and 255 for ignored pixels, in the labels of ``ids``, at least until they show every class."""
    seen: set[int] = set()
    for image_id in track(list(ids), f"classes of {part} images"):
        if not absent_classes(dataset, seen):
            break
        seen |= set(np.unique(dataset.label(image_id)).tolist())
    return seen


def absent_classes(dataset: Dataset, seen: Set[int]) -> list[str]:
    """Return the names of the classes that are not ``seen``, without those that no label can show."""
    ignored = dataset.ignored_classes
    return [name for place, name in enumerate(dataset.classes) if place not in seen and place not in ignored]


def absence_note(dataset: Dataset, seen: Set[int], part: str) -> str:
    """Return the line about classes that no label of a list shows, empty where there are none."""
    absent = absent_classes(dataset, seen)
    if not absent:
        return ""
    note = f"{len(absent)} of {len(dataset.classes)} classes in no {part} image: {', '.join(absent)}"
    if (
        set(seen) == {0, IGNORE}
        and isinstance(dataset.config, FileDatasetConfig)
        and dataset.config.ignore_index == IGNORE
    ):
        note += "; the labels hold 0 and 255 alone, and 255 is ignored: if it stands for a class, save it as the class's number"
    return note


@dataclass
class _Group:
    """The labels of one palette, and the classes that they show."""

    paths: list[Path] = field(default_factory=list)
    shown: set[int] = field(default_factory=set)


class Palettes:
    """The palettes of label images, compared with one another: their colours say what their author meant by an index."""

    def __init__(self, dataset: Dataset) -> None:
        self._classes, self._first = dataset.classes, getattr(dataset.config, "label_shift", 0)
        self._groups: dict[bytes, _Group] = {}

    def add(self, path: Path, palette: np.ndarray, shown: Iterable[int]) -> None:
        """Take one label's palette, uint8 ``[n,3]``, and the class ids in it."""
        colours = np.ascontiguousarray(palette[self._first : self._first + len(self._classes)])
        group = self._groups.setdefault(colours.tobytes(), _Group())
        group.paths.append(path)
        group.shown |= {place for place in shown if place < len(colours)}

    def check(self, problems: Problems) -> None:
        """Report every palette that gives a class another colour than the most frequent one, with a file of each."""
        if not self._groups:
            return
        usual = max(self._groups, key=lambda key: len(self._groups[key].paths))
        for other in self._groups:
            first, second = self._colours(usual), self._colours(other)
            differing = [place for place in first.keys() & second.keys() if first[place] != second[place]]
            if differing:
                place = min(differing)
                meant = [self._classes[index] for index, colour in first.items() if colour == second[place]]
                text = (
                    f"the palettes of the labels {self._groups[usual].paths[0]} and {self._groups[other].paths[0]} differ: "
                    f"class {self._classes[place]} is {first[place]} in the first and {second[place]} in the second "
                    f"({len(self._groups[other].paths)} such labels)"
                )
                if meant:
                    problems.add(
                        f"{text}, which is the colour of {meant[0]}; save all labels with one order of the classes"
                    )
                else:
                    problems.remark(f"{text}; the indices count, not the colours")

    def _colours(self, key: bytes) -> dict[int, tuple[int, ...]]:
        """The colours of the classes that a palette's labels show."""
        table = np.frombuffer(key, np.uint8).reshape(-1, 3).tolist()
        return {place: tuple(table[place]) for place in self._groups[key].shown}
