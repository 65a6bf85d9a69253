"""The command that compares stem pools: what it runs, writes and refuses; its figures are tested beside PCR's networks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from common.checkpoints.checkpoint import Checkpoint, read, write
from common.checkpoints.meta import CheckpointMeta
from common.command_line import run_command
from common.experiment import compose
from experiments import stem_pools

EXPERIMENT = ["shapes/12/suponly", "network.encoder=resnet18", "network.backbone_weights=null"]


@pytest.fixture
def checkpoint(tmp_path):
    """A file whose description is the experiment's; its tensors are not run here."""
    meta = CheckpointMeta.from_experiment(compose(EXPERIMENT[0], EXPERIMENT[1:]), role="student")
    write(tmp_path / "best.ckpt", Checkpoint(meta=meta, networks={"model": {"encoder.w": np.ones(2, np.float32)}}))
    return tmp_path / "best.ckpt"


def stages(offset: float):
    """What stands for ``converters.stages``: the pool makes another size of an even image, the framework an offset."""

    def run(module: str, framework: str, model: str, source: str, target: str) -> str:
        assert module == "converters.stages"
        image, network = np.load(source), read(model).meta.network
        assert network["encoder"] == "resnet18"
        side = -(-image.shape[2] // 4) + (network["stem_pool"] == "ceil" and image.shape[2] % 2 == 0)
        values = np.ones((1, 2, side, side), np.float32) * (1 + (framework == "mindspore") * offset)
        np.savez(target, pool=values, logits=values)
        return ""

    return run


@pytest.mark.parametrize(("offset", "code"), [(1e-6, 0), (1e-2, 1)])
def test_tables_are_printed_and_written(checkpoint, tmp_path, monkeypatch, capsys, offset, code):
    monkeypatch.setattr(stem_pools, "run_module", stages(offset))
    command = [*EXPERIMENT, "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")]
    assert run_command(stem_pools.main, command) == code
    printed = capsys.readouterr()
    assert (
        "image 64x64: the pools part at pool" in printed.out and "image 61x61: both pools give the same" in printed.out
    )
    assert ("torch and mindspore differ at pool" in printed.err) is (code == 1)
    outcome = json.loads((tmp_path / "out" / "stem_pools.json").read_text())
    assert list(outcome["tables"]) == ["64x64", "61x61"] and bool(outcome["failures"]) is (code == 1)
    assert outcome["tables"]["64x64"][0]["shape_same"] == [2, 16, 16]
    page = (tmp_path / "out" / "stem_pools.html").read_text()
    assert "sizes differ" in page and "2x17x17" in page and "http" not in page


def test_a_network_without_a_pool_is_refused(checkpoint, capsys):
    command = ["shapes/12/suponly", "network.encoder=tiny", "--checkpoint", str(checkpoint)]
    assert run_command(stem_pools.main, command) == 2
    assert "the tiny encoder of this experiment has none" in capsys.readouterr().err
