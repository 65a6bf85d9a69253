"""``python -m torch_impl.features EXPERIMENT``: USRN's features of the labelled images in PyTorch; the MindSpore file mirrors it."""

from __future__ import annotations

from common.command_line import run_command
from common.make_subclasses.features import run
from torch_impl.eval import add_options, load_predictor


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    run("torch", arguments, load_predictor, add_options)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
