"""Which training images are labelled: lists that are drawn by rule, imported from the authors' copies, or the user's own.

Lists are kept as ``splits/DATASET/ID/labeled.txt`` and ``unlabeled.txt`` (the latter may be absent: then it is the rest of the
training list). Whatever their way, the digest of a registered list is checked. ``python -m common.splits`` lists, shows,
makes, imports and verifies them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.config import DatasetConfig, SplitConfig
from common.data.datasets import Dataset, open_dataset
from common.errors import CheckFailed, UserError, run_command
from common.experiment import dataset_config
from common.files import write_text_atomic
from common.list_files import Lists, find_lists, list_ids
from common.rng import generator
from common.split_registry import (
    LABELLED_FILE,
    UNLABELLED_FILE,
    KnownSplit,
    ListFacts,
    canonical,
    digest,
    identify,
    known_splits,
    list_folder,
    registry,
)

MAKE, IMPORT = "python -m common.splits make", "python -m common.splits import"
TRAIN, VAL = "train", "val"


@dataclass(frozen=True, kw_only=True)
class Split:
    """Labelled and unlabelled image ids in canonical order, with the digests of both lists and where they come from.

    ``overlapping``: the unlabelled list is meant to hold the labelled images, too.
    """

    id: str
    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    digest: str
    unlabelled_digest: str
    origin: str
    overlapping: bool = False


class DigestMismatch(UserError):
    """A list is not the one it is said to be."""


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


def seeded(ids: Iterable[str], count: int, seed: int) -> tuple[str, ...]:
    """Return ``count`` of ``ids``: the first of a permutation of the sorted ids that ``seed`` alone decides."""
    candidates = canonical(ids)
    if not 1 <= count <= len(candidates):
        raise UserError(f"cannot draw {count} labelled images from a training list of {len(candidates)}")
    order = generator(seed, "labelled split").permutation(len(candidates))
    return tuple(candidates[index] for index in order[:count])


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
    chosen = (canonical(ids) if known.order == "sorted" else ids)[:: known.ratio]
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
    found = digest(ids)
    if found == facts.digest:
        return
    if other := identify(found):
        raise DigestMismatch(f"{what} is not the right one: it is {other}; import the right one")
    raise DigestMismatch(
        f"{what} is not the right one: {len(canonical(ids))} ids with digest {found} instead of {facts.count} with {facts.digest}"
    )


def _name(text: str) -> tuple[str, str]:
    dataset, slash, split = text.partition("/")
    if not slash or not dataset or not split or "/" in split or split.startswith("."):
        raise UserError(f"{text!r}: expected DATASET/ID, for example voc/cps_662")
    return dataset, split


def _write(folder: Path, lists: Mapping[str, Iterable[str]]) -> None:
    for file, ids in lists.items():
        write_text_atomic(folder / file, "".join(f"{name}\n" for name in canonical(ids)))
        print(f"{folder / file}: {len(canonical(ids))} ids, {digest(ids)}")


def _list(arguments: argparse.Namespace) -> None:
    for dataset, known in registry().items():
        if arguments.dataset in (None, dataset):
            for split, entry in known.lists.items():
                counts = f"{entry.labelled.count:5} of {known.train.count:5}"
                print(f"{dataset + '/' + split:28} {counts}  {entry.way:7} {entry.origin}")


def _show(arguments: argparse.Namespace) -> None:
    dataset, split = _name(arguments.name)
    known = known_splits(dataset).get(split)
    if known is None:
        raise UserError(f"{arguments.name} is not registered; `python -m common.splits list` shows what is")
    rule = {"every": f", ratio {known.ratio}, {known.order} order", "seeded": f", seed {known.seed}"}.get(known.way, "")
    print(f"{arguments.name}\norigin      {known.origin}\nway         {known.way}{rule}")
    for kind, facts in (("labelled", known.labelled), ("unlabelled", known.unlabelled)):
        print(f"{kind:11} {facts.count} ids, {facts.digest}" if facts else f"{kind:11} the rest of the training list")
    print(f"folder      {list_folder(dataset, SplitConfig(id=split, folder=arguments.folder))}")


def _make(arguments: argparse.Namespace) -> None:
    name, split = _name(arguments.name)
    dataset = open_dataset(dataset_config(name))
    settings = SplitConfig(id=split, folder=arguments.folder)
    folder = arguments.out or list_folder(name, settings)
    if split in known_splits(name):
        if arguments.count is not None:
            raise UserError(
                f"{arguments.name} is registered and cannot be drawn anew; leave --count out or choose another id"
            )
        made = resolve(dataset, settings)
        lists = {LABELLED_FILE: made.labelled, UNLABELLED_FILE: made.unlabelled}
    elif arguments.count is None:
        raise UserError(f"{arguments.name} is not registered; say how many images are labelled: --count N --seed S")
    else:
        labelled = seeded(dataset.train_ids, arguments.count, arguments.seed)
        lists = {LABELLED_FILE: labelled, UNLABELLED_FILE: _rest(dataset.train_ids, labelled, arguments.name)}
    old = folder / LABELLED_FILE
    if old.is_file() and digest(list_ids(old, dataset.config)) != digest(lists[LABELLED_FILE]):
        raise UserError(f"{old} holds another list; remove it first or choose another id")
    _write(folder, {file: ids for file, ids in lists.items() if ids})


def _import(arguments: argparse.Namespace) -> None:
    name, split = _name(arguments.name)
    config = dataset_config(name)
    with tempfile.TemporaryDirectory() as scratch:
        lists = find_lists(arguments.path, Path(scratch), config)
    if split in (TRAIN, VAL):
        _import_whole(config, split, lists, arguments.path)
        return
    folder = list_folder(name, SplitConfig(id=split, folder=arguments.folder))
    known = known_splits(name).get(split)
    if known is None:
        chosen = _own(arguments.path, lists)
    else:
        wanted = {LABELLED_FILE: known.labelled, UNLABELLED_FILE: known.unlabelled}
        chosen = {file: _find(lists.values(), facts.digest) for file, facts in wanted.items() if facts}
        if chosen[LABELLED_FILE] is None:
            raise DigestMismatch(_not_found(f"the labelled list of {arguments.name}", arguments.path, lists))
    _write(folder, {file: ids for file, ids in chosen.items() if ids})
    same = identify(digest(chosen[LABELLED_FILE]))
    if known is None and same:
        print(f"note: this is the same list as {same}")


def _own(path: Path, lists: Lists) -> dict[str, tuple[str, ...]]:
    """The labelled and perhaps the unlabelled list of a split that the registry does not know."""
    if len(lists) == 1:
        return {LABELLED_FILE: next(iter(lists.values()))}
    chosen = {file: lists[str(path / file)] for file in (LABELLED_FILE, UNLABELLED_FILE) if str(path / file) in lists}
    if LABELLED_FILE not in chosen:
        raise UserError(f"{path}: expected one list, or a folder with {LABELLED_FILE} and perhaps {UNLABELLED_FILE}")
    return chosen


def _import_whole(config: DatasetConfig, part: str, lists: Lists, path: Path) -> None:
    """Put a data set's training or validation list in its place; the training list may come as labelled + unlabelled."""
    known = registry().get(config.name)
    if known is None or config.layout == "shapes":
        raise UserError(f"the {part} list of {config.name} is not registered; put it in the data set's folder yourself")
    target = open_dataset(config).root / (config.train_list if part == TRAIN else config.val_list)
    candidates = list(lists.values())
    if part == TRAIN:
        parts = {str(Path(file).parent): lists.get(str(Path(file).parent / LABELLED_FILE), ()) for file in lists}
        candidates += [ids + lists.get(str(Path(folder) / UNLABELLED_FILE), ()) for folder, ids in parts.items()]
    facts = known.train if part == TRAIN else known.val
    found = _find(candidates, facts.digest)
    if found is None:
        raise DigestMismatch(_not_found(f"the {part} list of {config.name}", path, lists))
    write_text_atomic(target, "".join(f"{name}\n" for name in dict.fromkeys(found)))
    print(f"{target}: {facts.count} ids, {facts.digest}")


def _find(lists: Iterable[tuple[str, ...]], wanted: str) -> tuple[str, ...] | None:
    return next((ids for ids in lists if digest(ids) == wanted), None)


def _not_found(what: str, path: Path, lists: Lists) -> str:
    others = sorted({known for ids in lists.values() if (known := identify(digest(ids)))})
    there = f"; it has {', '.join(others)}" if others else ""
    return f"{path}: none of its {len(lists)} lists is {what}{there}"


def _verify(arguments: argparse.Namespace) -> None:
    name, split = _name(arguments.name)
    dataset = open_dataset(dataset_config(name))
    try:
        made = resolve(dataset, SplitConfig(id=split, folder=arguments.folder))
        print(f"labelled    {len(made.labelled):5} ids  {made.digest}  {made.origin}")
        print(f"unlabelled  {len(made.unlabelled):5} ids  {made.unlabelled_digest}")
        if known := registry().get(name):
            for kind, ids, facts in ((TRAIN, dataset.train_ids, known.train), (VAL, dataset.val_ids, known.val)):
                _check(ids, facts, f"the {kind} list of {name}")
                print(f"{kind:11} {facts.count:5} ids  {facts.digest}")
    except DigestMismatch as error:
        raise CheckFailed(str(error)) from None
    print("verified" if known_splits(name).get(split) else "not a registered split: nothing to compare with")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m common.splits", description="Lists of labelled and unlabelled images."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if run is not _list:
            command.add_argument("name", metavar="DATASET/ID")
            command.add_argument(
                "--folder", default="splits", help="folder of all lists (default: splits/ of the project)"
            )
        return command

    add("list", _list, "Show every registered split.").add_argument("dataset", nargs="?", metavar="DATASET")
    add("show", _show, "Show counts, digests, origin and way of one split.")
    make = add("make", _make, "Write the lists of a split that has a rule, or draw a split of your own.")
    make.add_argument("--out", type=Path, help="write here instead of FOLDER/DATASET/ID")
    make.add_argument("--count", type=int, help="number of labelled images of a split of your own")
    make.add_argument("--seed", type=int, default=0, help="seed of a split of your own (default 0)")
    bring = add("import", _import, "Take lists (also DATASET/train and DATASET/val) from a file, folder, zip or tar.")
    bring.add_argument("path", type=Path, metavar="PATH", help="your copy of the authors' repository, or of one list")
    add("verify", _verify, "Check the digests of a split and of the data set's training and validation lists.")
    return parser


def main(arguments: list[str] | None = None) -> int | None:
    """Run the command; see ``--help``."""
    parsed = _parser().parse_args(arguments)
    return parsed.run(parsed)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
