"""Runs that are killed (SIGKILL) at seeded moments, also while they save: ``last`` always loads, and resumes to the same end.

PyTorch: every method, eight times each; MindSpore, which compiles anew in every process: one method of each family, twice.
"""

from __future__ import annotations

import json
import subprocess
import sys
from random import Random

import pytest

from common.checkpoints.checkpoint import read
from common.paths import PROJECT
from common.runs.run_folder import RunFolder
from common.runtimes import FRAMEWORKS
from tests.commands.methods import CASES
from tests.commands.test_training import assert_equal_runs

pytestmark = pytest.mark.slow
KILLS = {"torch": 8, "mindspore": 2}
IN_A_ROW = 3
"""Kills of one run, before it may go on to its end."""
FAMILIES = ("suponly", "u2pl", "cpcl", "pcr", "usrn", "uccl")
RUNS = [(method, "torch") for method in CASES] + [(method, "mindspore") for method in FAMILIES]
SETTINGS = ("trainer.save_every=1", "trainer.evaluate_every=2", "dataset.images=[200, 3]")


@pytest.fixture(scope="module")
def processes():
    """The process per framework that runs are asked of."""
    started = {}

    def get(framework: str) -> subprocess.Popen:
        pytest.importorskip(framework)
        if framework not in started:
            command = [sys.executable, "-m", "tests.commands.killed", framework]
            started[framework] = subprocess.Popen(
                command,
                cwd=PROJECT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        return started[framework]

    yield get
    for process in started.values():
        process.stdin.close()
        process.wait()


@pytest.mark.parametrize(("method", "framework"), RUNS)
def test_last_loads_and_resumes_whenever_the_run_is_killed(method, framework, processes, tmp_path):
    process, case = processes(framework), CASES[method]
    rng, suffix = Random(f"{method} {framework}"), FRAMEWORKS[framework].writes

    def train(folder, *options: str, moment: int | None = None, saving: bool = False) -> dict:
        arguments = [case.experiment, *case.options, *SETTINGS, "--run-dir", str(folder), *options]
        process.stdin.write(json.dumps({"arguments": arguments, "moment": moment, "saving": saving}) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    whole = train(tmp_path / "whole")
    assert whole["code"] == 0 and whole["saving"] > 100
    kills = runs = 0
    while kills < KILLS[framework]:
        folder, options, iteration = tmp_path / f"run{runs}", (), 0
        runs += 1
        for _ in range(min(IN_A_ROW, KILLS[framework] - kills)):
            saving = rng.random() < 0.6
            moment = rng.randrange(1, whole["saving" if saving else "events"] // 2)
            what = f"{folder}, {options}, moment {moment} of {'saving' if saving else 'all'}"
            ended = train(folder, *options, moment=moment, saving=saving)
            if ended["code"] == 0:
                break
            assert ended["code"] == -9, what
            kills += 1
            iteration, options = after_a_kill(folder, suffix, iteration, what)
        else:
            assert train(folder, *options)["code"] == 0
        assert not [path for path in folder.rglob(".*") if path.is_file()]
        assert_equal_runs(tmp_path / "whole", folder, suffix, case.state)
        assert json.loads((folder / "result.json").read_text())["miou"] == read(folder / f"best{suffix}").meta.miou


def after_a_kill(folder, suffix: str, before: int, what: str) -> tuple[int, tuple[str, ...]]:
    """Check what a killed run has left; return the iteration it goes on from, and the option by which it goes on."""
    last, best = folder / f"last{suffix}", folder / f"best{suffix}"
    if best.exists():
        assert read(best).networks, what
    if not last.exists():
        assert before == 0, what
        return 0, ("--overwrite",)
    iteration = read(last).meta.iteration
    assert iteration >= before and iteration % 2 == 0, what
    assert all(entry["iteration"] > 0 for entry in RunFolder(folder).entries()), what
    return iteration, ("--resume",)
