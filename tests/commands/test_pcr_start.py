"""PCR in the training command: a wrong start of the prototypes leaves nothing behind, a right one is taken."""

from __future__ import annotations

import numpy as np
import pytest

from common.checkpoints.checkpoint import read
from common.command_line import run_command
from tests.commands.methods import CASES

OPTIONS = CASES["pcr"].options


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method.proto_init=file", "method.proto_file=none.npz"], "no prototypes at"),
        (["method.select_granularity=34"], "lower it"),
    ],
)
def test_what_does_not_fit_ends_before_the_run(settings, message, tmp_path, capsys):
    pytest.importorskip("torch")
    from torch_impl.train import main

    assert run_command(main, ["shapes/12/pcr", *OPTIONS, *settings, "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert not (tmp_path / "run").exists()


def test_prototypes_of_a_file_or_checkpoint_train_from_the_first_epoch(tmp_path):
    """With ``proto_warmup_epochs=0`` the supervised epoch already has the labelled prototype loss."""
    pytest.importorskip("torch")
    from torch_impl.train import main

    np.savez(tmp_path / "start.npz", prototypes=np.random.default_rng(0).random((6, 3, 48), np.float32))
    start = tmp_path / "start.npz"
    for name in ("one", "two"):
        settings = [
            "method.proto_init=file",
            f"method.proto_file={start}",
            "method.proto_warmup_epochs=0",
            "trainer.epochs=1",
        ]
        folder = tmp_path / name
        assert run_command(main, ["shapes/12/pcr", *OPTIONS, *settings, "--run-dir", str(folder)]) == 0
        last = read(folder / "last.pth")
        assert last.state["prototypes.pixels"].sum() > 0
        assert (folder / "log.jsonl").read_text().count('"sup_proto": 0.0') == 0
        start = folder / "best.pth"
