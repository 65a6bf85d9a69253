"""``python -m benchmarks.hand_over --against COMMIT``: what receiving a batch from worker processes costs the training process.

The samples are ready in the workers. A process in this tree, one in a worktree of the other commit and a second one in this tree
receive batches in turns; the CPU time of the receiving process with all its threads counts, not that of its workers. What the
second one of this tree shows is noise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.harness import compared, worktree
from benchmarks.machine import save
from common.command_line import positive, run_command
from common.errors import CheckFailed
from common.paths import PROJECT


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    with ExitStack() as stack:
        other = stack.enter_context(worktree(options.against))
        sides = {
            name: stack.enter_context(_side(tree, options))
            for name, tree in (("this", PROJECT), ("other", other), ("control", PROJECT))
        }
        for side in sides.values():
            _ask(side, 4)
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(options.turns):
            order = list(sides) if turn % 2 == 0 else list(sides)[::-1]
            answers = {name: _ask(sides[name], options.batches) for name in order}
            if len({answer["seen"] for answer in answers.values()}) > 1:
                raise CheckFailed(f"the batches of this tree and of {options.against} differ")
            for name, answer in answers.items():
                seconds[name].append(answer["seconds"])
    figures = compared(seconds)
    print(f"{options.images} + {options.images} images of {options.crop} px: {figures['text']}")
    command = f"python -m benchmarks.hand_over {' '.join(sys.argv[1:] if arguments is None else arguments)}"
    save("hand_over", command, {"against": options.against, **figures})


def _ask(side: subprocess.Popen, batches: int) -> dict:
    side.stdin.write(f"{batches}\n")
    side.stdin.flush()
    answer = side.stdout.readline()
    if not answer:
        raise CheckFailed("a process that receives batches ended; its message is above")
    return json.loads(answer)


@contextmanager
def _side(tree: Path, options: argparse.Namespace) -> Iterator[subprocess.Popen]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    script = PROJECT / "benchmarks" / "hand_over_side.py"
    numbers = [str(number) for number in (options.crop, options.images, options.workers)]
    with subprocess.Popen(
        [sys.executable, str(script), *numbers], cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)} | threads,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.stdin.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hand_over", description=__doc__.splitlines()[0])
    parser.add_argument("--against", default="HEAD", metavar="COMMIT", help="the other side (default: HEAD)")
    parser.add_argument("--crop", type=positive, default=513, help="side of the images (default: 513)")
    parser.add_argument(
        "--images", type=positive, default=16, help="labelled, and as many unlabelled ones (default: 16)"
    )
    parser.add_argument("--workers", type=positive, default=2, help="default: 2")
    parser.add_argument("--batches", type=positive, default=20, help="batches of a turn (default: 20)")
    parser.add_argument("--turns", type=positive, default=4, help="default: 4")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
