"""``python -m benchmarks.evaluation --against COMMIT``: evaluation outside the network, every protocol, beside another commit's.

Drawn images as large as VOC's and Cityscapes', a network of one small convolution whose logits have a quarter of the image's side:
what is left is reading, normalising, resizing, joining of windows, arg-max and counting. Seconds are of all images of a turn.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.drawn_trees import draw_cityscapes, draw_voc
from benchmarks.harness import WORKER, Form, measure, options, summary, worktree
from benchmarks.machine import command_of, save
from common.command_line import positive, run_command
from common.paths import PROJECT

PROTOCOLS = {
    "VOC, centre crop 513 (U2PL)": (
        "voc/366/u2pl", "evaluation.protocol=center_crop", "evaluation.size=513", "evaluation.pad_label=0",
    ),
    "VOC, whole image (UniMatch, UCCL)": ("voc/366/unimatch",),
    "VOC, windows 512, sums of logits (CPCL)": ("voc/1323/cpcl",),
    "VOC, whole image (USRN)": ("voc/662/usrn_baseline",),
    "VOC (PCR)": ("voc/366/pcr",),
    "Cityscapes, windows 769, means of logits (U2PL)": ("cityscapes/186/u2pl",),
    "Cityscapes, windows 801, sums of probabilities (UniMatch, UCCL)": ("cityscapes/186/unimatch",),
    "Cityscapes, whole image, 19 x 1024 x 2048": ("cityscapes/186/u2pl", "evaluation.protocol=whole"),
}  # fmt: skip
IMAGES = {"voc": 20, "cityscapes": 3}


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = options("evaluation", "Time evaluation outside the network.", turns=4)
    parser.add_argument("--against", metavar="COMMIT", help="also the code of this commit, in a git worktree")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="protocols whose name has this in it; nothing is saved"
    )
    parser.add_argument("--images", type=positive, help="images of a turn (default: 20 of VOC, 3 of Cityscapes)")
    parsed = parser.parse_args(arguments)
    chosen, figures = [name for name in PROTOCOLS if parsed.only in name], {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trees = {"this": PROJECT}
        if parsed.against:
            trees[parsed.against] = stack.enter_context(worktree(parsed.against))
        for name, draw in (("voc", draw_voc), ("cityscapes", draw_cityscapes)):
            if any(PROTOCOLS[one][0].startswith(name) for one in chosen):
                draw(folder / name, parsed.images or IMAGES[name])
        for name in chosen:
            experiment, *settings = PROTOCOLS[name]
            root = folder / experiment.partition("/")[0]
            command = [*WORKER, "evaluation", experiment]
            command += [f"dataset.root={root}", *settings]
            figures[name] = measure({form: Form(command, tree) for form, tree in trees.items()}, parsed.turns)
            print(f"{name}: {summary(figures[name])}", flush=True)
            if not parsed.only:
                about = {"against": parsed.against, "protocols": figures}
                save("evaluation", command_of("evaluation", arguments), about)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
