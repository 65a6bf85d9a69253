"""``python -m experiments.usrn torch camvid/1_8``: USRN's four steps in a row, each in a process of its own.

Train the baseline, save features, cluster them into subclass labels, train USRN. The first step that fails ends the chain
with its own message and exit code. What is finished is kept: ``--resume`` goes on after it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from common.command_line import experiment_arguments, run_command, run_module, user_path
from common.config.strict import to_plain
from common.errors import UserError
from common.experiment import METHOD_SECTIONS, compose
from common.make_subclasses.features import FOLDER
from common.methods.usrn.usrn import BASELINE, SUBCLASS_LABELS
from common.runs.run_folder import RunFolder, default_run_folder
from common.runtimes import FRAMEWORKS


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_intermixed_args(arguments)
    name, overrides = options.experiment, options.overrides
    if name.count("/") != 1:
        raise UserError(f"experiment {name!r}: expected DATASET/SPLIT, for example camvid/1_8")
    baseline = [f"{name}/{BASELINE}", *of_the_baseline(f"{name}/{BASELINE}", overrides), *options.baseline]
    usrn = [f"{name}/usrn", *overrides, *options.usrn]
    for experiment, *settings in (baseline, usrn):
        compose(experiment, settings)  # a mistake in the second training should not be found hours later
    folders = [
        RunFolder(options.out / method if options.out else default_run_folder(options.framework, f"{name}/{method}"))
        for method in (BASELINE, "usrn")
    ]
    best = folders[0].best(FRAMEWORKS[options.framework].writes)
    features, labels = folders[0].path / FOLDER, folders[0].path / SUBCLASS_LABELS
    replace = ["--overwrite"] if options.overwrite else []
    _train(options, baseline, folders[0])
    step = ["--checkpoint", str(best), "--out", str(features), *replace]
    _run(f"{options.framework}_impl.features", *baseline, *step)
    if not (options.resume and labels.exists()):
        _run("common.make_subclasses", *usrn, "--features", str(features), "--out", str(labels), *replace)
    _train(options, [*usrn, f"method.subclass_labels={labels}"], folders[1])
    print(f"done: {folders[1].best(FRAMEWORKS[options.framework].writes)}")


def of_the_baseline(experiment: str, overrides: Sequence[str]) -> list[str]:
    """Return the ``overrides`` that concern the baseline: all but those with a key that only USRN has."""
    sections = to_plain(compose(experiment))
    keys = [override.partition("=")[0].split(".") for override in overrides]
    return [
        override
        for override, (section, *rest) in zip(overrides, keys)
        if section not in ("method", *METHOD_SECTIONS) or not rest or rest[0] in sections[section]
    ]


def _train(options: argparse.Namespace, experiment: list[str], folder: RunFolder) -> None:
    started = options.resume and folder.last(FRAMEWORKS[options.framework].writes).exists()
    mode = ["--resume"] if started else ["--overwrite"] if options.overwrite or options.resume else []
    _run(f"{options.framework}_impl.train", *experiment, "--run-dir", str(folder.path), *mode)


def _run(module: str, *arguments: str) -> None:
    run_module(module, *arguments, show=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.usrn", description="Run USRN's four steps; stop at the first that fails."
    )
    parser.add_argument("framework", choices=tuple(FRAMEWORKS))
    experiment_arguments(
        parser, "DATASET/SPLIT, e.g. camvid/1_8", "settings, of the baseline as far as it has them, e.g. trainer.seed=2"
    )
    parser.add_argument("--baseline", nargs="+", default=[], metavar="a.b=c", help="settings of the baseline only")
    parser.add_argument("--usrn", nargs="+", default=[], metavar="a.b=c", help="settings of clustering and USRN only")
    parser.add_argument("--out", type=user_path, metavar="DIR", help="run folders are DIR/usrn_baseline and DIR/usrn")
    parser.add_argument("--resume", action="store_true", help="keep finished steps and continue the one that stopped")
    parser.add_argument("--overwrite", action="store_true", help="start anew in folders that are already used")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
