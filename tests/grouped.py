"""Whole steps of every method on a batch of groups, in one process or several: ``python -m tests.grouped`` is what a launcher starts.

Rules can be broken by name (``BROKEN``), to see that a comparison notices.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from common.command_line import project_environment
from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import open_dataset
from common.experiment import compose
from common.loading.loader import Loader
from common.methods.groups import Groups
from common.methods.interface import Clock
from common.paths import PROJECT
from common.splits.resolve import resolve
from common.training.launched import FOLDER, outcome, run_process
from experiments.launch import with_python
from tests.commands.methods import CASES

STEPS = 4
SETTINGS = [
    "trainer.device=cpu", "trainer.threads=1", "trainer.deterministic_dropout=true", "trainer.epochs=4", "trainer.seed=3",
    "trainer.iterations_per_epoch=2", "loader.workers=0", "loader.batch_labelled=4", "augment.crop=33", "network.width=16",
    "network.head_dropout=[0.1, 0.1]", "network.aspp_dropout=0.1", "optimizer.lr=0.001", "optimizer.head_lr_times=5",
]  # fmt: skip
BOTH = ["loader.batch_unlabelled=4"]
BANK = "method.contrastive={num_queries: 16, num_negatives: 8, queue_first: 200, queue_other: 100, low_rank: 1}"
U2PL = [
    *BOTH,
    "network.representation=16",
    "network.auxiliary=true",
    "method.sup_only_epochs=0",
    "method.mixing_probability=1",
]
OHEM = ["criterion.type=ohem", "criterion.thresh=0.1", "criterion.min_kept=700"]
AEL = [
    "loader.batch_unlabelled=8", "network.representation=16", "network.auxiliary=true", BANK,
    "method.contrastive_start_epoch=1",
]  # fmt: skip
METHODS = {
    "suponly": ("suponly", []),
    "suponly_ohem": ("suponly", OHEM),
    "mean_teacher": ("mean_teacher", BOTH),
    "u2pl": ("u2pl", [*U2PL, BANK, "method.preset=authors"]),
    "u2pl_fixed": (
        "u2pl", [*U2PL, BANK[:-1] + ", anchor_ema: true, conf_weight: true}", "method.preset=fixed", "method.drop_percent=80"]
    ),
    "u2pl_ael": ("u2pl_ael", AEL),
    "cpcl": ("cpcl", BOTH),
    "cpcl_2022": ("cpcl", [*BOTH, "method.variant=legacy_2022", "trainer.seed=4"]),
    "cps": ("cps", BOTH),
    "cps_cutmix": ("cps_cutmix", BOTH),
    "pcr": (
        "pcr",
        [
            *BOTH, *OHEM, "method.sup_only_epochs=0", "method.select_granularity=8", "method.confidence_threshold=0.1",
            "method.cutmix_prob=1",
        ],
    ),
    "usrn": ("usrn", [*BOTH, "method.threshold=0.1"]),
    "usrn_baseline": ("usrn_baseline", []),
    "fixmatch": ("fixmatch", [*BOTH, "method.conf_thresh=0.3"]),
    "unimatch": ("unimatch", [*BOTH, "method.conf_thresh=0.3"]),
    "uccl": ("uccl", [*BOTH, "method.conf_thresh=0.3", "method.preset=authors", "trainer.seed=4"]),
    "uccl_fixed": ("uccl", [*BOTH, "method.conf_thresh=0.3", "method.preset=fixed"]),
    "suponly_accumulate": ("suponly", ["trainer.accumulate=2"]),
    "mean_teacher_accumulate": ("mean_teacher", [*BOTH, "trainer.accumulate=2"]),
    "unimatch_recompute": ("unimatch", [*BOTH, "method.conf_thresh=0.3", "trainer.recompute=true"]),
}  # fmt: skip
"""By name the method and its settings; losses of every kind, passes of every kind, and all that is gathered."""

AGAIN = {
    "cps": ("cps", [*BOTH, "trainer.seed=4"]),
    "u2pl_ael": ("u2pl_ael", [*AEL, "trainer.seed=4"]),
}
"""The same from another start: a label within rounding of a tie falls otherwise on one processor, hardly from both starts."""

HALF = {
    "suponly_fp16": ("suponly", ["trainer.precision=fp16"]),
    "suponly_bf16": ("suponly", ["trainer.precision=bf16"]),
}
"""The same in 16 bits, where a sum over processes is rounded otherwise than one over a batch."""

HALF_LOSSES, HALF_STATE = 2e-3, 5e-4
"""Gates of these: relative difference of every loss, and of all weights and statistics together."""


def again_of(name: str) -> str:
    """Return the name of the case of :data:`AGAIN`."""
    return f"{name}_again"


def config_of(name: str, groups: int, framework: str = "torch") -> ExperimentConfig:
    """Return the experiment of a case with ``groups`` groups."""
    again = {again_of(each): case for each, case in AGAIN.items()}
    method, settings = (METHODS | HALF | again)[name]
    prepared = CASES[method].prepare() if method in CASES else ()
    config = compose(f"shapes/12/{method}", [*SETTINGS, *settings, *prepared, f"trainer.groups={groups}"])
    split = resolve(open_dataset(config.dataset), config.split)
    return config.method.complete(config, split, framework)


def steps(framework: str, name: str, groups: int) -> dict[str, np.ndarray]:
    """Return losses, gradients of the optimisers' first step, and networks and state after :data:`STEPS` steps of this process's part."""
    config = config_of(name, groups, framework)
    method = made(framework, config)
    batches = loader(config, method.processes.index, method.processes.count)
    if name == "pcr":
        shape = method.networks()["student"]["prototypes"].shape
        method.set_prototypes(np.random.default_rng(1).standard_normal(shape).astype(np.float32))
    entries = {}
    for step in range(STEPS):
        epoch, place = divmod(step, 2)
        clock = Clock(epoch=epoch, step=place, iteration=step, epochs=4, iterations_per_epoch=2)
        losses = method.step(next(iter(batches.epoch(epoch, place))), clock)
        entries |= {f"losses/{step}/{term}": np.float64(value) for term, value in losses.items()}
        if step + 1 == config.trainer.accumulate:
            entries |= gradients(method)
    for role, tensors in method.networks().items():
        entries |= {f"networks/{role}/{key}": value for key, value in tensors.items()}
    return entries | {f"state/{key}": value for key, value in method.state().items() if "momentum" not in key}


def made(framework: str, config: ExperimentConfig):
    """Return the method at its start."""
    methods, session = (importlib.import_module(f"{framework}_impl.{module}") for module in ("methods", "session"))
    return methods.method_class(config.method.name)(config, session.Session(config))


def loader(config: ExperimentConfig, process: int, processes: int) -> Loader:
    """Return the batches of the experiment's data set, the part of ``process``."""
    dataset = open_dataset(config.dataset)
    return Loader(dataset, resolve(dataset, config.split), config.streams(), config, process, processes)


def gradients(method) -> dict[str, np.ndarray]:
    """Return the gradients that the optimisers have seen, by role and name."""
    entries = {}
    for role, optimizer in method.optimizers.items():
        if hasattr(optimizer, "gradients"):
            arrays = [gradient.asnumpy() for gradient in optimizer.gradients]
        else:
            arrays = [None if p.grad is None else p.grad.numpy().copy() for p in optimizer.parameters]
        pairs = zip(optimizer.names, arrays, strict=True)
        entries |= {f"gradients/{role}/{name}": array for name, array in pairs if array is not None}
    return entries


def apart(computed: dict[str, np.ndarray], expected: dict[str, np.ndarray], kind: str) -> float:
    """Return how far the entries of a kind are apart: losses each for itself, everything else as one vector; infinity for other shapes."""
    keys = [key for key in expected if key.startswith(f"{kind}/")]
    assert keys, kind
    if any(key not in computed or computed[key].shape != expected[key].shape for key in keys):
        return np.inf
    if kind == "losses":
        return max(abs(computed[key] - expected[key]) / max(abs(expected[key]), 1e-12) for key in keys)
    ours, theirs = (
        np.concatenate([part[key].astype(np.float64).ravel() for key in keys]) for part in (computed, expected)
    )
    return float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-30))


def plain_batch_norm(framework: str, patch: pytest.MonkeyPatch) -> None:
    """Let BatchNorm see this process's part of the batch only."""
    layers = importlib.import_module(f"{framework}_impl.networks.layers")
    patch.setattr(layers, "place", lambda: (0, 1))


def own_gradients(framework: str, patch: pytest.MonkeyPatch) -> None:
    """Let every process keep its own gradients."""
    processes = importlib.import_module(f"{framework}_impl.processes").Processes
    patch.setattr(processes, "sum_gradients", lambda _, gradients: gradients)


def draws_of_the_first_group(framework: str, patch: pytest.MonkeyPatch) -> None:
    """Draw for every group as for the first."""
    make = Groups.draws
    patch.setattr(Groups, "draws", lambda groups, recorded, made: make(groups, recorded, lambda _: made(0)))


def masks_not_by_stream(framework: str, patch: pytest.MonkeyPatch) -> None:
    """Put the groups' dropout masks of two streams one after the other, as if every pass had one."""
    session = importlib.import_module(f"{framework}_impl.session")
    by_stream = session.by_stream
    patch.setattr(session, "by_stream", lambda masks, streams: by_stream(masks, 1))


def masks_of_the_first_group(framework: str, patch: pytest.MonkeyPatch) -> None:
    """Let every group drop as the first one."""
    session = importlib.import_module(f"{framework}_impl.session")
    generator = session.group_generator
    patch.setattr(session, "group_generator", lambda *key: generator(*key[:-1], 0))


BROKEN = {
    rule.__name__: rule
    for rule in (
        plain_batch_norm, own_gradients, draws_of_the_first_group, masks_of_the_first_group, masks_not_by_stream,
    )
}  # fmt: skip


def overflow(framework: str, patch: pytest.MonkeyPatch) -> None:
    """Let a gradient of the process that has the last group overflow in the second step."""
    processes = importlib.import_module(f"{framework}_impl.processes").Processes
    sum_gradients, steps = processes.sum_gradients, []

    def overflowing(self, gradients):
        steps.append(True)
        if len(steps) == 2 and self.groups.total - 1 in self.groups.numbers:
            gradients[0][0] = np.inf
        return sum_gradients(self, gradients)

    patch.setattr(processes, "sum_gradients", overflowing)


EVENTS = {"overflow": overflow}
"""What happens to one process, and is not wrong."""


@contextmanager
def broken(framework: str, rule: str) -> Iterator[None]:
    """Break the rule or let the event happen that has this name, none for an empty one."""
    with pytest.MonkeyPatch.context() as patch:
        if rule:
            (BROKEN | EVENTS)[rule](framework, patch)
        yield


def key(name: str, rule: str) -> str:
    """Return what a case with a broken rule is called in the file of results."""
    return f"{name}-{rule}" if rule else name


def main(arguments: Sequence[str]) -> int:
    """Run cases (``NAME`` or ``NAME-RULE``) one after the other and let the first process write what came of them."""
    framework, groups, out, *cases = arguments
    index, _ = importlib.import_module(f"{framework}_impl.processes").start("cpu")
    results = {}
    for case in cases:
        name, _, rule = case.partition("-")
        with broken(framework, rule):
            entries = steps(framework, name, int(groups))
        results |= {f"{case}/{key}": value for key, value in entries.items()}
        print(index, case, flush=True)
    if index == 0:
        np.savez(out, **results)
    return 0


def launched(
    command: Sequence[str], framework: str, groups: int, cases: Sequence[str], folder: Path, limit: int
) -> dict[str, dict[str, np.ndarray]]:
    """Return what the first process has after ``cases``, all in one launch: ``command`` starts a module; ``limit`` in seconds.

    As for training, each process says how it ended: a launcher counts a signal on the way out of the interpreter as a failure.
    """
    arguments = ["tests.grouped", framework, str(groups), str(folder / "out.npz"), *cases]
    environment = project_environment() | {"PATH": with_python(), "OMP_NUM_THREADS": "1", FOLDER: str(folder)}
    done = subprocess.run(
        [*command, *arguments], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=limit
    )
    _, code, message = outcome(folder, done.returncode)
    assert code == 0, "\n".join(
        [message, *(path.read_text()[-3000:] for path in folder.glob("said-*")), done.stderr[-3000:]]
    )
    return read(folder / "out.npz")


def read(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return what :func:`main` wrote, case by case."""
    results: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path) as file:
        for name in file.files:
            case, _, rest = name.partition("/")
            results.setdefault(case, {})[rest] = file[name]
    return results


if __name__ == "__main__":
    number = int(os.environ.get("RANK", os.environ.get("RANK_ID", "0")))
    run_process(lambda _: main(sys.argv[1:]), number, importlib.import_module(f"{sys.argv[1]}_impl.processes").stop)
