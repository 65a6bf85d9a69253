"""The device check: what its report says of commands that end well, are refused, fail or lose accuracy; rehearsed on the CPU."""

import json
import subprocess
from pathlib import Path

import pytest

from common.errors import CheckFailed
from common.runs.run_folder import RunFolder
from experiments import device_check
from experiments.device_check import METHODS, main


def ends(monkeypatch, answer) -> list:
    """Let every command end as ``answer(command)`` says: exit code, last line, loss of the first step; return the commands."""
    commands = []

    def run(command, **_):
        commands.append(command)
        code, line, loss = answer(command)
        for flag in ("--run-dir", "--out"):
            if code == 0 and flag in command:
                run = Path(command[command.index(flag) + 1]) / ("usrn" if flag == "--out" else "")
                RunFolder(run).log(kind="train", iteration=1, losses={"loss": loss})
        return subprocess.CompletedProcess(command, code, "", line)

    monkeypatch.setattr(device_check.subprocess, "run", run)
    monkeypatch.setattr(device_check, "devices", lambda: "")
    return commands


def check(tmp_path, *arguments) -> list[dict]:
    main(["torch", "--out", str(tmp_path), *arguments])
    return json.loads((tmp_path / "report.json").read_text())["checks"]


def test_every_method_runs_in_every_precision_and_in_two_processes(monkeypatch, tmp_path):
    commands = ends(monkeypatch, lambda command: (0, "", 1.0))
    checks = check(tmp_path, "--device", "cpu")
    assert len(checks) == 3 * len(METHODS) + 1 and {entry["result"] for entry in checks} == {"ok"}
    assert all(any(f"shapes/12/{method}" in command for command in commands) for method in METHODS if method != "usrn")
    assert "losses 1.0000" in (tmp_path / "report.md").read_text()


def test_what_is_refused_is_no_failure_and_its_reason_stands_in_the_report(monkeypatch, tmp_path):
    reason = "error: bf16 has no convolution here"
    ends(monkeypatch, lambda command: (2, reason, 0) if "trainer.precision=bf16" in command else (0, "", 1.0))
    checks = check(tmp_path, "--device", "cpu", "--methods", "suponly")
    assert [entry["result"] for entry in checks] == ["ok", "refused", "ok", "ok"]
    assert checks[1]["note"] == "bf16 has no convolution here"


def test_a_failure_is_reported_after_all_else_has_run(monkeypatch, tmp_path):
    ends(monkeypatch, lambda command: (1, "out of memory", 0) if "shapes/12/pcr" in command else (0, "", 1.0))
    with pytest.raises(CheckFailed, match="1 of 3 checks failed"):
        check(tmp_path, "--device", "cpu", "--methods", "cps", "pcr", "--precisions", "float32")
    assert "python -m torch_impl.train shapes/12/pcr" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(("loss", "result"), [(1.0005, "ok"), (1.002, "failed"), (float("nan"), "failed")])
def test_the_first_loss_on_the_device_is_held_to_the_cpus(monkeypatch, tmp_path, loss, result):
    ends(monkeypatch, lambda command: (0, "", 1.0 if "trainer.device=cpu" in command else loss))
    arguments = ["--device", "cuda:0", "--methods", "usrn", "--precisions", "float32"]
    if result == "ok":
        assert check(tmp_path, *arguments)[0]["result"] == "ok"
    else:
        with pytest.raises(CheckFailed):
            check(tmp_path, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["torch", "--methods", "suponly", "u2pl", "--precisions", "float32", "bf16"], 5),
        (["mindspore", "--methods", "suponly", "--precisions", "float32", "bf16"], 3),
        (["onnx", "--providers", "cpu", "cuda"], 2),
    ],
)  # fmt: skip
def test_the_check_is_rehearsed_on_the_cpu(tmp_path, arguments, count):
    main([*arguments, "--device", "cpu", "--out", str(tmp_path)])
    checks = json.loads((tmp_path / "report.json").read_text())["checks"]
    refused = [entry["name"] for entry in checks if entry["result"] == "refused"]
    assert (
        len(checks) == count
        and refused == {"torch": [], "mindspore": ["suponly, bf16"], "onnx": ["cuda"]}[arguments[0]]
    )
