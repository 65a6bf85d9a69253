"""``python -m benchmarks.hand_over --against COMMIT``: receiving batches from worker processes, beside another commit's.

The samples are ready in the workers. The receiving process with all its threads counts, its workers do not.
"""

from __future__ import annotations

from benchmarks.harness import WORKER, Form, measure, options, summary, worktree
from benchmarks.machine import command_of, save
from common.command_line import positive, run_command


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = options("hand_over", __doc__.splitlines()[0].partition(": ")[2].capitalize(), turns=4)
    parser.add_argument("--against", default="HEAD", metavar="COMMIT", help="the other side (default: HEAD)")
    parser.add_argument("--crop", type=positive, default=513, help="side of the images (default: 513)")
    parser.add_argument(
        "--images", type=positive, default=16, help="labelled, and as many unlabelled ones (default: 16)"
    )
    parser.add_argument("--workers", type=positive, default=2, help="default: 2")
    parser.add_argument("--batches", type=positive, default=20, help="batches of a turn (default: 20)")
    parsed = parser.parse_args(arguments)
    command = [
        *WORKER, "batches", str(parsed.batches),
        f"augment.crop={parsed.crop}", f"loader.batch_labelled={parsed.images}",
        f"loader.batch_unlabelled={parsed.images}", f"loader.workers={parsed.workers}", "loader.prefetch=2",
    ]  # fmt: skip
    with worktree(parsed.against) as other:
        forms = {"this": Form(command), parsed.against: Form(command, other)}
        figures = measure(forms, parsed.turns, parsed.threads)
    print(f"{parsed.images} + {parsed.images} images of {parsed.crop} px: {summary(figures)}")
    save("hand_over", command_of("hand_over", arguments), figures)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
