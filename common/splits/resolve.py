"""From a split's id to its lists: the user's folder, else the registry's rule; every digest is checked."""

from __future__ import annotations

from collections.abc import Iterable

from common.config.schema import SplitConfig
from common.datasets.file_dataset import Dataset
from common.errors import UserError
from common.splits.draw import every, seeded
from common.splits.list_files import list_ids
from common.splits.registry import (
    LABELLED_FILE,
    UNLABELLED_FILE,
    DigestMismatch,
    KnownSplit,
    ListFacts,
    canonical,
    digest,
    identify,
    known_splits,
    list_folder,
    registry,
)
from common.splits.split import Split

MAKE, IMPORT = "python -m common.splits make", "python -m common.splits import"


def resolve(dataset: Dataset, split: SplitConfig) -> Split:
    """Return the lists of a split, from the user's folder if they are there, else by the registry's rule.

    Raises :class:`UserError` with the command that gets a missing list, :class:`DigestMismatch` when a list is another one.
    """
    name = f"{dataset.name}/{split.id}"
    known = known_splits(dataset.name).get(split.id)
    folder = list_folder(dataset.name, split)
    unlabelled = None
    if (folder / LABELLED_FILE).is_file():
        origin = f"{known.origin}; lists in {folder}" if known else f"lists in {folder}"
        labelled = list_ids(folder / LABELLED_FILE, dataset.config)
        if (folder / UNLABELLED_FILE).is_file():
            unlabelled = list_ids(folder / UNLABELLED_FILE, dataset.config)
    else:
        origin = known.origin if known else "the whole training list"
        labelled = _draw(dataset, split.id)
    if known:
        _check(labelled, known.labelled, f"the labelled list of {name}")
    if split.unlabelled == "all":
        unlabelled = _train_ids(dataset, known)
        _rest(unlabelled, labelled, name)  # the labelled images must be among them
    elif unlabelled is None:
        unlabelled = _rest(_train_ids(dataset, known), labelled, name)
    if known and known.unlabelled and split.unlabelled == "rest":
        _check(unlabelled, known.unlabelled, f"the unlabelled list of {name}")
    return Split(
        id=split.id, labelled=canonical(labelled), unlabelled=canonical(unlabelled),
        digest=digest(labelled), unlabelled_digest=digest(unlabelled), origin=origin,
        overlapping=split.unlabelled == "all",
    )  # fmt: skip


def _draw(dataset: Dataset, split_id: str) -> tuple[str, ...]:
    """The labelled list of a split that has a rule; raises :class:`UserError` naming the way to get it otherwise."""
    name, splits = f"{dataset.name}/{split_id}", known_splits(dataset.name)
    if split_id not in splits:
        raise UserError(
            f"split {name} is not registered and has no lists yet; make them with `{MAKE} {name} --count N --seed S` "
            f"or bring your own with `{IMPORT} {name} PATH`"
        )
    known = splits[split_id]
    if known and known.way == "import":
        raise UserError(f"the lists of {name} are not here; {_how_to_import(known, name)}")
    ids = _train_ids(dataset, known)
    if known is None or known.way == "all":
        return canonical(ids)
    if known.way == "seeded":
        return seeded(ids, known.labelled.count, known.seed)
    chosen = every(canonical(ids) if known.order == "sorted" else ids, known.ratio)
    if known.order == "file" and digest(chosen) != known.labelled.digest:
        raise DigestMismatch(
            f"the rule of {name} goes by the order of the authors' training list and yours has another order; "
            f"{_how_to_import(known, name)}"
        )
    return chosen


def _how_to_import(known: KnownSplit, name: str) -> str:
    return f"they are {known.origin}: with a copy of that run `{IMPORT} {name} PATH-OF-THE-COPY`"


def _train_ids(dataset: Dataset, known: KnownSplit | None) -> tuple[str, ...]:
    """The training list; for a registered split it must be the one the registry knows, because the split follows from it."""
    if known:
        _check(dataset.train_ids, registry()[dataset.name].train, f"the training list of {dataset.name}")
    return dataset.train_ids


def _rest(train_ids: Iterable[str], labelled: Iterable[str], name: str) -> tuple[str, ...]:
    train, chosen = set(train_ids), set(labelled)
    strange = sorted(chosen - train)
    if strange:
        raise UserError(
            f"split {name} labels {len(strange)} images that are not in the data set's training list, the first of them "
            f"{strange[0]!r}; correct the list"
        )
    return canonical(train - chosen)


def _check(ids: Iterable[str], facts: ListFacts, what: str) -> None:
    """Raise :class:`DigestMismatch`, saying which list it is instead, unless ``ids`` are the list with these ``facts``."""
    computed = digest(ids)
    if computed == facts.digest:
        return
    if other := identify(computed):
        raise DigestMismatch(f"{what} is not the right one: it is {other}; import the right one")
    raise DigestMismatch(
        f"{what} is not the right one: {len(canonical(ids))} ids with digest {computed} instead of {facts.count} with {facts.digest}"
    )
