"""A checkpoint's description: what an experiment tells, there and back, unknown entries, and files of earlier programs."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from common.checkpoints.checkpoint import Checkpoint, read, write
from common.checkpoints.ckpt_file import write_ckpt
from common.checkpoints.meta import CheckpointMeta, Origin
from common.config.strict import to_plain
from common.errors import UserError
from common.experiment import compose

CONFIG = compose("shapes/12/suponly")
RUN = {"framework": "torch", "role": "student", "epoch": 2, "iteration": 24, "best_miou": 0.5}


def test_the_entries_of_a_run_in_the_order_of_the_files():
    plain = CheckpointMeta.from_experiment(CONFIG, **RUN).to_plain()
    assert list(plain) == [
        "format_version", "experiment", "network", "classes", "mean", "std", "method", "framework", "role", "epoch",
        "iteration", "best_miou",
    ]  # fmt: skip
    assert plain["network"] == to_plain(CONFIG.network) and plain["classes"] == list(CONFIG.dataset.classes)
    assert json.loads(json.dumps(plain)) == plain


@pytest.mark.parametrize(
    "meta",
    [
        CheckpointMeta(),
        CheckpointMeta.from_experiment(CONFIG, **RUN),
        CheckpointMeta(origin=Origin(dialect="u2pl", values={"epoch": 3, "best_miou": 0.5}), role="teacher"),
        CheckpointMeta(more={"note": ["kept", {"as": None}]}),
    ],
)
def test_a_description_comes_back_as_it_was(meta):
    assert CheckpointMeta.from_plain(json.loads(json.dumps(meta.to_plain())), "best.pth") == meta


def test_a_file_of_the_first_format_is_read(tmp_path):
    description = {
        "iteration": 24, "classes": ["a", "b"], "format_version": 1, "mean": [1.0, 2.0, 3], "later": {"x": 1},
        "network": {"encoder": "tiny"}, "role": None,
    }  # fmt: skip
    tensors = {"classifier.project.bias": np.zeros(2, np.float32)}
    raw = np.frombuffer(json.dumps(description).encode(), np.uint8)
    write_ckpt(tmp_path / "best.ckpt", tensors | {"__meta__": raw})
    meta = read(tmp_path / "best.ckpt").meta
    assert (meta.iteration, meta.classes, meta.mean, meta.role) == (24, ("a", "b"), (1.0, 2.0, 3.0), None)
    assert meta.network == {"encoder": "tiny"} and meta.more == {"later": {"x": 1}}
    write(tmp_path / "again.ckpt", Checkpoint(meta=meta, networks={"model": tensors}))
    assert read(tmp_path / "again.ckpt").meta == meta


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"epoch": "3"}, "best.pth: epoch = '3' must be an integer"),
        ({"classes": "ab"}, "best.pth: classes = 'ab' must be a list"),
        ({"origin": {"dialect": "u2pl"}}, "best.pth: origin.values is missing"),
    ],
)
def test_an_entry_of_a_wrong_type_is_named(entry, complaint):
    with pytest.raises(UserError, match=complaint):
        CheckpointMeta.from_plain(entry, "best.pth")


def test_what_a_description_says_is_not_overwritten():
    said = CheckpointMeta(experiment="own", miou=0.0, more={"note": 1})
    other = CheckpointMeta.from_experiment(CONFIG, role="teacher")
    complete = said.completed_by(dataclasses.replace(other, more={"note": 2, "other": 3}))
    assert (complete.experiment, complete.miou, complete.more) == ("own", 0.0, {"note": 1, "other": 3})
    assert complete.network == other.network and complete.role == "teacher"
