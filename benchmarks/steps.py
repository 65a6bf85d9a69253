"""``python -m benchmarks.steps --against COMMIT``: a training step of every method beside another commit's, or another framework's.

Whole steps on the CPU, batches of made-up images with the shapes of the experiment; no loading. The networks are as sure as in the
midst of a training, U2PL's memory bank is full. u2pl_ael draws its partners' images in the step, as it does in a training.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np

from benchmarks.harness import WORKER, Form, measure, options, summary, worktree
from benchmarks.machine import command_of, save
from common.command_line import positive, run_command
from common.experiment import compose
from common.runtimes import FRAMEWORKS

EXPERIMENTS = {
    "suponly": "voc/366/suponly",
    "u2pl": "voc/366/u2pl",
    "u2pl_ael": "shapes/12/u2pl_ael",
    "cpcl": "voc/1323/cpcl",
    "cps": "voc/1323/cps",
    "cps_cutmix": "voc/1323/cps_cutmix",
    "pcr": "voc/366/pcr",
    "usrn": "voc/662/usrn",
    "uccl": "voc/366/uccl",
    "unimatch": "voc/366/unimatch",
    "fixmatch": "voc/366/fixmatch",
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parsed = _parser().parse_intermixed_args(arguments)
    name = "-".join(["steps", *parsed.frameworks, *([parsed.name] if parsed.name else [])])
    about = {key: getattr(parsed, key) for key in ("against", "size", "batch", "overrides")}
    figures = {}
    with worktree(parsed.against) if parsed.against else nullcontext() as other:
        for method in parsed.methods:
            with batch_file(method, parsed.batch, parsed.size) as batch:
                forms = dict(_forms(method, batch, parsed, other))
                figures[method] = measure(forms, parsed.turns, parsed.threads)
            print(f"{method}: {summary(figures[method])}", flush=True)
            # After every method, so that what is stopped early has said something.
            save(name, command_of("steps", arguments), about | {"methods": figures})


def _forms(method: str, batch: Path, parsed: argparse.Namespace, other: Path | None) -> Iterator[tuple[str, Form]]:
    """Yield the forms that take turns: in every framework this tree's, the extra ones that are asked for, the other tree's."""
    for framework in parsed.frameworks:
        command = [
            *WORKER,
            "step",
            framework,
            EXPERIMENTS[method],
            str(batch),
            *_settings(method, parsed.size),
            *parsed.overrides,
        ]
        yield framework, Form(command)
        for text in parsed.also:
            yield f"{framework} {text}", Form([*command, *text.split()])
        if other is not None and framework == parsed.frameworks[0]:
            yield f"{framework} {parsed.against}", Form(command, other)


def _settings(method: str, size: int) -> tuple[str, ...]:
    """Return what makes a step work on the same predictions for ever, and as the authors' do in the midst of a training."""
    more = {
        "u2pl": ("method.mixing_probability=1.0",),
        # Its data set is drawn: no files of VOC are needed; network and numbers are those of the other methods.
        "u2pl_ael": (
            "network.preset=u2pl", "network.width=256", "network.representation=256", f"dataset.size={size}",
            f"augment.crop={size}", "method.contrastive.num_queries=256", "method.contrastive.queue_first=50000",
            "method.contrastive.queue_other=30000", "loader.workers=0",
        ),
    }  # fmt: skip
    return ("optimizer.lr=1e-7", *more.get(method, ()))


@contextmanager
def batch_file(method: str, count: int, size: int) -> Iterator[Path]:
    """Yield a file with ``count`` made-up images of each kind that the method draws, ``size`` pixels a side."""
    classes = len(compose(EXPERIMENTS[method]).dataset.classes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "batch.npz"
        np.savez(path, **made_up_batch(method, classes, count, size))
        yield path


def made_up_batch(method: str, classes: int, count: int, size: int) -> dict[str, np.ndarray]:
    """Return the arrays ``STREAM/NAME`` of a batch: images of coloured fields with noise, labels in fields."""
    rng = np.random.default_rng(0)

    def field(values: np.ndarray) -> np.ndarray:
        side = -(-size // values.shape[-1])
        return values.repeat(side, -2).repeat(side, -1)[..., :size, :size]

    def images() -> np.ndarray:
        noise = 0.3 * rng.standard_normal((count, 3, size, size))
        return (field(rng.standard_normal((count, 3, 9, 9))) + noise).astype(np.float32)

    def labels(number: int = classes) -> np.ndarray:
        return field(rng.integers(0, number, (count, 9, 9))).astype(np.uint8)

    batch = {"labelled/image": images(), "labelled/label": labels()}
    if method == "usrn":
        batch |= {"labelled/subclass": labels(190), "unlabelled/weak": images(), "unlabelled/strong": images()}
    elif method in ("uccl", "unimatch", "fixmatch"):
        for owner in ("", "mix_"):
            batch |= {f"unlabelled/{owner}{name}": images() for name in ("weak", "strong1", "strong2")}
            batch[f"unlabelled/{owner}ignore"] = np.zeros((count, size, size), np.uint8)
        box = np.zeros((count, size, size), bool)
        box[:, size // 4 : size // 2, size // 4 : size // 2] = True
        batch |= {"unlabelled/box1": box, "unlabelled/box2": box[:, ::-1].copy()}
    elif method != "suponly":
        batch["unlabelled/image"] = images()
        if method == "u2pl_ael":
            batch |= {"paste/image": images(), "paste/label": labels()}
        if method in ("cpcl", "cps_cutmix"):
            batch["unlabelled_other/image"] = images()
    return batch


def _parser() -> argparse.ArgumentParser:
    parser = options("steps", __doc__.splitlines()[0].partition(": ")[2].capitalize())
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings of every form")
    parser.add_argument(
        "--against", metavar="COMMIT", help="also the code of this commit in the first framework, in a git worktree"
    )
    parser.add_argument("--frameworks", nargs="+", choices=tuple(FRAMEWORKS), default=["torch"], help="default: torch")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="'a.b=c ...'",
        help="one more form of this tree, with these settings",
    )
    parser.add_argument("--methods", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), help="default: all")
    parser.add_argument("--size", type=positive, default=129, help="side of the images (default: 129)")
    parser.add_argument("--batch", type=positive, default=2, help="images of each kind (default: 2)")
    parser.add_argument("--name", default="", help="a word for the name of the file that is written")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
