"""Taking lists from a copy of an authors' repository, recognised by digest whatever their files are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from common.config.layers import dataset_config
from common.config.schema import DatasetConfig, DrawnShapes, SplitConfig
from common.datasets.file_dataset import FileDataset, open_dataset
from common.errors import UserError
from common.files import write_text_atomic
from common.paths import PROJECT, at_home
from common.splits.list_files import Lists, counted, find_lists, list_ids, write_lists
from common.splits.registry import (
    LABELLED_FILE,
    UNLABELLED_FILE,
    DigestMismatch,
    KnownDataset,
    RegisteredList,
    digest,
    find_digest,
    identify,
    known_splits,
    list_folder,
    registry,
)

TRAIN, VAL = "train", "val"
FILES = {"labelled": LABELLED_FILE, "unlabelled": UNLABELLED_FILE}
UNKNOWN_SHOWN = 5
"""Number of files of no registered list that are named before they are only counted."""


def import_all(path: Path, folder: str) -> None:
    """Say of every list in ``path`` what it is, and put each registered one in its place.

    Training and validation lists go to the data set's folder where that exists and lacks them. Raises
    :class:`UserError` when nothing in ``path`` is registered.
    """
    # Any data set's configuration reduces all authors' lines to ids: their images are .jpg and .png files.
    lists, refused = find_lists(path, dataset_config("cityscapes"))
    _say_refused(refused)
    unknown = []
    wanted: dict[RegisteredList, tuple[str, ...]] = {}
    for name, ids in lists.items():
        entries = find_digest(digest(ids))
        if not entries:
            unknown.append(name)
            continue
        print(f"{name}: {counted(ids)}, {' = '.join(map(str, entries))}")
        for entry in entries:
            wanted.setdefault(entry, ids)
    if unknown:
        print(f"no registered list: {listed(unknown)}")
    if not wanted:
        raise UserError(f"{path}: none of its {len(lists)} lists is registered; nothing was written")
    for entry, ids in wanted.items():
        _require_free(entry, ids, folder)
    for entry, ids in wanted.items():
        _put(entry, ids, folder)


def import_one(name: str, split: str, path: Path, folder: str) -> None:
    """Take one split, ``train``, ``val`` or another registered list of the data set ``name`` from ``path``."""
    config = dataset_config(name)
    lists, refused = find_lists(path, config)
    _say_refused(refused)
    known = registry().get(name)
    if split in (TRAIN, VAL):
        import_whole(config, split, lists, path)
    elif known and split in known.others:
        _import_other(name, split, lists, path, folder)
    else:
        _import_split(config, split, lists, refused, path, folder)


def _target(entry: RegisteredList, folder: str) -> Path:
    """Where a list of a split, or one that belongs to none, is kept."""
    if entry.kind == "other":
        return other_path(entry.dataset, entry.name, folder)
    return list_folder(entry.dataset, SplitConfig(id=entry.name, folder=folder)) / FILES[entry.kind]


def _require_free(entry: RegisteredList, ids: tuple[str, ...], folder: str) -> None:
    """Raise :class:`UserError` where another list lies in a list's place."""
    if entry.kind in (TRAIN, VAL):
        return
    old = _target(entry, folder)
    if old.is_file() and digest(list_ids(old, dataset_config("cityscapes"))) != digest(ids):
        raise UserError(f"{old} holds another list than {entry}; remove it first")


def _put(entry: RegisteredList, ids: tuple[str, ...], folder: str) -> None:
    if entry.kind not in (TRAIN, VAL):
        target = _target(entry, folder)
        write_lists(target.parent, {target.name: ids})
        return
    dataset = open_dataset(dataset_config(entry.dataset))
    way = f"python -m common.splits import {entry.dataset}/{entry.kind} PATH puts it in the data set's folder"
    if not isinstance(dataset, FileDataset) or not dataset.root.is_dir():
        print(f"{entry}: not written, because the data set is not here; later, {way}")
        return
    target = dataset.list_path(f"{entry.kind}_list")
    if target.exists():
        print(f"{entry}: {target} is there and stays as it is")
    else:
        _write_in_order(target, ids)


def other_path(dataset: str, name: str, folder: str) -> Path:
    """Where a registered list that belongs to no split is kept."""
    return PROJECT / at_home(folder) / dataset / f"{name}.txt"


def _import_other(dataset: str, name: str, lists: Lists, path: Path, folder: str) -> None:
    ids = _find(lists.values(), registry()[dataset].others[name].facts.digest)
    if ids is None:
        raise DigestMismatch(_not_found(f"{dataset}/{name}", path, lists))
    _put(RegisteredList(dataset, name, "other"), ids, folder)


def _import_split(
    config: DatasetConfig, split: str, lists: Lists, refused: Mapping[str, str], path: Path, folder: str
) -> None:
    name = f"{config.name}/{split}"
    known = known_splits(config.name).get(split)
    if known is None:
        chosen = _own(path, lists, refused)
    else:
        wanted = {LABELLED_FILE: known.labelled, UNLABELLED_FILE: known.unlabelled}
        chosen = {file: _find(lists.values(), facts.digest) for file, facts in wanted.items() if facts}
        if chosen[LABELLED_FILE] is None:
            raise DigestMismatch(_not_found(f"the labelled list of {name}", path, lists))
    target = list_folder(config.name, SplitConfig(id=split, folder=folder))
    write_lists(target, {file: ids for file, ids in chosen.items() if ids})
    same = identify(digest(chosen[LABELLED_FILE]))
    if known is None and same:
        print(f"note: this is the same list as {same}")


def _own(path: Path, lists: Lists, refused: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The labelled and perhaps the unlabelled list of a split that the registry does not know."""
    if len(lists) == 1 and not refused and Path(next(iter(lists))).name != UNLABELLED_FILE:
        return {LABELLED_FILE: next(iter(lists.values()))}
    for name, reason in refused.items():
        if Path(name).name in FILES.values():
            raise UserError(reason)
    named = {file: [ids for name, ids in lists.items() if Path(name).name == file] for file in FILES.values()}
    if len(named[LABELLED_FILE]) != 1 or len(named[UNLABELLED_FILE]) > 1:
        raise UserError(
            f"{path}: expected one list, or a folder with {LABELLED_FILE} and perhaps {UNLABELLED_FILE}, each once; it "
            f"has {listed(lists)}"
        )
    return {file: matches[0] for file, matches in named.items() if matches}


def _say_refused(refused: Mapping[str, str]) -> None:
    """Say which text files are no lists, and why."""
    for reason in list(refused.values())[:UNKNOWN_SHOWN]:
        print(f"left out: {reason}")
    if len(refused) > UNKNOWN_SHOWN:
        print(f"left out: {len(refused) - UNKNOWN_SHOWN} more text files that are no lists")


def import_whole(config: DatasetConfig, part: str, lists: Lists, path: Path) -> None:
    """Put a data set's training or validation list in its place; the training list may come as labelled + unlabelled."""
    known = registry().get(config.name)
    if known is None or isinstance(config, DrawnShapes):
        raise UserError(f"the {part} list of {config.name} is not registered; put it in the data set's folder yourself")
    facts = known.train if part == TRAIN else known.val
    candidates = list(lists.values()) + (_unions(known, lists) if part == TRAIN else [])
    ids = _find(candidates, facts.digest)
    if ids is None:
        raise DigestMismatch(_not_found(f"the {part} list of {config.name}", path, lists))
    dataset = open_dataset(config)
    _write_in_order(dataset.root / (getattr(config, f"{part}_list") or f"{part}.txt"), ids)


def _unions(known: KnownDataset, lists: Lists) -> list[tuple[str, ...]]:
    """Labelled and unlabelled lists put together, by the registry or by their usual names in one folder."""
    by_digest = {digest(ids): ids for ids in lists.values()}
    pairs = [(entry.labelled.digest, entry.unlabelled.digest) for entry in known.lists.values() if entry.unlabelled]
    unions = [by_digest[one] + by_digest[two] for one, two in pairs if one in by_digest and two in by_digest]
    folders = dict.fromkeys(str(Path(file).parent) for file in lists)
    names = [(str(Path(folder) / LABELLED_FILE), str(Path(folder) / UNLABELLED_FILE)) for folder in folders]
    return unions + [lists[one] + lists[two] for one, two in names if one in lists and two in lists]


def _write_in_order(target: Path, ids: tuple[str, ...]) -> None:
    """Write a list in the authors' order, by which CPS's rule goes."""
    write_text_atomic(target, "".join(f"{name}\n" for name in dict.fromkeys(ids)))
    print(f"{target}: {counted(ids)}, {digest(ids)}")


def _find(lists: Iterable[tuple[str, ...]], wanted: str) -> tuple[str, ...] | None:
    return next((ids for ids in lists if digest(ids) == wanted), None)


def listed(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - UNKNOWN_SHOWN} more" if len(names) > UNKNOWN_SHOWN else ""
    return f"{', '.join(names[:UNKNOWN_SHOWN])}{more}"


def _not_found(what: str, path: Path, lists: Lists) -> str:
    others = sorted({known for ids in lists.values() if (known := identify(digest(ids)))})
    there = f"; it has {', '.join(others)}" if others else ""
    return f"{path}: none of its {len(lists)} lists is {what}{there}"
