"""Which training images are labelled: lists that are drawn by rule, imported from the authors' copies, or the user's own.

Lists are kept as ``splits/DATASET/ID/labeled.txt`` and ``unlabeled.txt`` (the latter may be absent: then it is the rest of the
training list). Whatever their way, the digest of a registered list is checked. ``python -m common.splits`` lists, shows,
makes, imports and verifies them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from common.command_line import number, positive, run_command, user_path
from common.config.layers import dataset_config
from common.config.schema import SplitConfig
from common.datasets.file_dataset import Dataset, FileDataset, open_dataset
from common.errors import CheckFailed, UserError
from common.paths import at_home
from common.splits.draw import covering, every, seeded
from common.splits.import_lists import TRAIN, VAL, import_all, import_one, other_path
from common.splits.list_files import list_ids, write_lists
from common.splits.registry import (
    LABELLED_FILE,
    UNLABELLED_FILE,
    DigestMismatch,
    KnownSplit,
    canonical,
    digest,
    known_splits,
    list_folder,
    registry,
)
from common.splits.resolve import _check, _rest, resolve

FINE_FILE = "ImageSets/Segmentation/train.txt"
"""Where VOC lists its pixel-accurately annotated training images."""


def _name(text: str) -> tuple[str, str]:
    dataset, slash, split = text.partition("/")
    if not slash or not dataset or not split or "/" in split or split.startswith("."):
        raise UserError(f"{text!r}: expected DATASET/ID, for example voc/cps_662")
    return dataset, split


def _list(arguments: argparse.Namespace) -> None:
    if arguments.dataset not in (None, *registry()):
        raise UserError(f"no list of a data set {arguments.dataset!r} is registered; known: {', '.join(registry())}")
    for dataset, known in registry().items():
        if arguments.dataset in (None, dataset):
            for split, entry in known.lists.items():
                counts = f"{entry.labelled.count:5} of {known.train.count:5}  fine {entry.fine_share:>5}"
                papers = f" [{', '.join(entry.papers)}]" if entry.papers else ""
                print(f"{dataset + '/' + split:44} {counts}  {entry.way:7} {entry.origin}{papers}")
            for name, other in known.others.items():
                print(f"{dataset + '/' + name:44} {other.facts.count:5} ids{'':22} import  {other.origin}")


def _show(arguments: argparse.Namespace) -> None:
    dataset, split = _name(arguments.name)
    if dataset in registry() and split in (others := registry()[dataset].others):
        facts = others[split].facts
        print(f"{arguments.name}\norigin      {others[split].origin}\nids         {facts.count} ids, {facts.digest}")
        print(f"file        {other_path(dataset, split, arguments.folder)}")
        return
    known = known_splits(dataset).get(split)
    if known is None:
        raise UserError(f"{arguments.name} is not registered; `python -m common.splits list` shows what is")
    rule = {"every": f", ratio {known.ratio}, {known.order} order", "seeded": f", seed {known.seed}"}.get(known.way, "")
    print(f"{arguments.name}\norigin      {known.origin}\nway         {known.way}{rule}")
    for kind, facts in (("labelled", known.labelled), ("unlabelled", known.unlabelled)):
        print(f"{kind:11} {facts.count} ids, {facts.digest}" if facts else f"{kind:11} the rest of the training list")
    settings = SplitConfig(id=split, folder=arguments.folder)
    if registry()[dataset].fine or known.fine is not None:
        print(f"fine        {_fine(dataset, settings, known)}")
    print(f"papers      {', '.join(known.papers) or 'none of those whose lists are registered'}")
    print(f"folder      {list_folder(dataset, settings)}")


def _fine(dataset: str, settings: SplitConfig, known: KnownSplit) -> str:
    """How many labelled images are pixel-accurately annotated; counted where the registry does not know and lists are here."""
    count, total = known.fine, known.labelled.count
    if count is None:
        opened = open_dataset(dataset_config(dataset))
        path = opened.root / FINE_FILE if isinstance(opened, FileDataset) else Path()
        try:
            fine = set(list_ids(path, opened.config))
            labelled = resolve(opened, settings).labelled
        except UserError:
            return f"not stated; known here once the list and {FINE_FILE} are there"
        if digest(fine) != registry()[dataset].fine.digest:
            return f"not known: {path} is not the official list"
        count = len(fine & set(labelled))
    return f"{count} of {total} labelled images ({100 * count / total:.0f} %) have pixel-accurate annotations"


def _make(arguments: argparse.Namespace) -> None:
    name, split = _name(arguments.name)
    dataset = open_dataset(dataset_config(name))
    settings = SplitConfig(id=split, folder=arguments.folder)
    folder = arguments.out or list_folder(name, settings)
    sizes = [option for option in ("count", "ratio", "every") if getattr(arguments, option) is not None]
    if split in known_splits(name):
        if sizes:
            raise UserError(
                f"{arguments.name} is registered and cannot be drawn anew; leave --{sizes[0]} out or choose another id"
            )
        made = resolve(dataset, settings)
        lists = {LABELLED_FILE: made.labelled, UNLABELLED_FILE: made.unlabelled}
    elif len(sizes) != 1:
        raise UserError(
            f"{arguments.name} is not registered; say how many images are labelled, by one of --count N, --ratio R, --every R"
        )
    else:
        labelled = _drawn(dataset, arguments)
        lists = {LABELLED_FILE: labelled, UNLABELLED_FILE: _rest(dataset.train_ids, labelled, arguments.name)}
    old = folder / LABELLED_FILE
    if old.is_file() and digest(list_ids(old, dataset.config)) != digest(lists[LABELLED_FILE]):
        raise UserError(f"{old} holds another list; remove it first or choose another id")
    write_lists(folder, {file: ids for file, ids in lists.items() if ids})


def _drawn(dataset: Dataset, arguments: argparse.Namespace) -> tuple[str, ...]:
    """The labelled list of a split of the user's own, as the options say."""
    if arguments.every is not None:
        return every(canonical(dataset.train_ids), arguments.every)
    count = arguments.count or -(-len(dataset.train_ids) // arguments.ratio)
    if arguments.plain:
        return seeded(dataset.train_ids, count, arguments.seed)
    return covering(dataset, count, arguments.seed)


def _import(arguments: argparse.Namespace) -> None:
    if len(arguments.what) > 2:
        raise UserError("expected PATH, or DATASET/ID and PATH")
    path = at_home(arguments.what[-1])
    if len(arguments.what) == 1:
        import_all(path, arguments.folder)
    else:
        import_one(*_name(arguments.what[0]), path, arguments.folder)


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
        if run not in (_list, _import):
            command.add_argument("name", metavar="DATASET/ID")
        if run is not _list:
            command.add_argument(
                "--folder", default="splits", help="folder of all lists (default: splits/ of the project)"
            )
        return command

    add("list", _list, "Show every registered split.").add_argument("dataset", nargs="?", metavar="DATASET")
    add("show", _show, "Show counts, digests, origin, way, fine annotations and papers of one split.")
    make = add("make", _make, "Write the lists of a split that has a rule, or draw a split of your own.")
    make.add_argument("--out", type=user_path, help="write here instead of FOLDER/DATASET/ID")
    make.add_argument("--count", type=positive, metavar="N", help="a split of your own with N labelled images")
    make.add_argument("--ratio", type=positive, metavar="R", help="the same with every R-th part of the training list")
    make.add_argument("--every", type=positive, metavar="R", help="every R-th of the sorted ids, CPS's rule; no seed")
    make.add_argument(
        "--seed", type=number(0, kind=int), default=0, help="seed of a split of your own (default 0); one seed nests"
    )
    make.add_argument("--plain", action="store_true", help="do not see to it that every class is shown")
    bring = add(
        "import", _import, "Take lists from a file, folder, zip or tar: all that are registered, or the one you name."
    )
    bring.add_argument(
        "what", nargs="+", metavar="[DATASET/ID] PATH",
        help="your copy of the authors' repository or of one list; before it perhaps what to take, also DATASET/train "
        "and DATASET/val",
    )  # fmt: skip
    add("verify", _verify, "Check the digests of a split and of the data set's training and validation lists.")
    return parser


def main(arguments: list[str] | None = None) -> int | None:
    """Run the command; see ``--help``."""
    parsed = _parser().parse_args(arguments)
    return parsed.run(parsed)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
