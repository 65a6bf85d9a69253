"""Whatever is wrong with a file, a command works or ends in one line with exit code 2; nothing in it runs, nothing is left.

A mutation is known by its seed: ``pytest "tests/mutations/test_mutations.py::test_mutation[137]"`` does it again.
"""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from tests.mutations import mutate as m  # noqa: E402
from tests.mutations import mutate_formats as formats  # noqa: E402
from tests.mutations.guard import Outcome, run  # noqa: E402
from tests.mutations.valid import BASELINE, CACHED, PCR, SETTINGS, SUPONLY, USRN  # noqa: E402

pytestmark = pytest.mark.onnx
QUICK, ALL = 50, 800
"""Mutations of ``make test``, and those of ``make test-slow`` together with them."""


@dataclass(frozen=True)
class Command:
    """A command with its arguments; ``{file}`` is the file that was spoiled, ``{home}`` the folder of all files.

    ``silent``: where it fails it says one line and nothing else. ``makes`` begins the names of what it may leave where it fails:
    parts of a whole that are whole themselves. ``codes`` are the exit codes that it has.
    """

    module: str
    arguments: tuple[str, ...]
    silent: bool = True
    makes: tuple[str, ...] = ()
    codes: tuple[int, ...] = (0, 2)


@dataclass(frozen=True)
class Kind:
    """Files of one kind, how they are spoiled, and the commands that read them."""

    files: tuple[str, ...]
    changes: tuple[m.Change, ...]
    commands: tuple[Command, ...]


def converted(to: str) -> Command:
    return Command("converters.convert_ckpt", ("{file}", f"{{home}}/out/new{to}"))


def training(framework: str, experiment: str, run: str, *settings: str) -> Command:
    arguments = (experiment, *SETTINGS, *settings, "--run-dir", f"{{home}}/{run}")
    return Command(f"{framework}_impl.train", arguments, silent=False, makes=(run,))


def evaluation(framework: str, *arguments: str) -> Command:
    return Command(f"{framework}_impl.eval", (*arguments, "--out", "{home}/out"), silent=False, makes=("out",))


FOLDER = Command(
    "converters.convert_ckpt", ("--format", ".ckpt", "{home}/checkpoints", "{home}/out"), False, ("out",), (0, 1, 2)
)
INSPECT = Command("converters.convert_ckpt", ("--inspect", "{file}"))
TRAIN = training("torch", SUPONLY, "new")
CHECK = Command("common.check_data", (SUPONLY, *SETTINGS, "--page", "{home}/out/page.html"), False, ("out",), (0, 1, 2))
PREDICT = ("--out", "{home}/out", "--threads", "1")
IMPORT = ("--folder", "{home}/new_splits")
CHECKPOINT = (
    INSPECT, FOLDER, *map(converted, (".pth", ".ckpt", ".safetensors")),
    Command("torch_impl.predict", ("{file}", "{home}/pictures/a.jpg", *PREDICT), False, ("out",)),
    *(evaluation(framework, SUPONLY, *SETTINGS, "--checkpoint", "{file}") for framework in ("torch", "mindspore")),
)  # fmt: skip
PAGES = Command(
    "converters.package",
    ("{home}/run", "{home}/new", "--parity", "{home}/parity.json", "--web", "{home}/ort.tgz", "--triton"), silent=False,
)  # fmt: skip
SERVE = Command("tests.mutations.served", ("{home}/model", "--threads", "1"), silent=False)
RUN = (
    training("torch", SUPONLY, "run", "--resume"), evaluation("torch", SUPONLY, *SETTINGS, "--run-dir", "{home}/run"),
)  # fmt: skip

KINDS = {
    "pth": Kind(("checkpoints/*.pth",), (*m.ANY, formats.hostile_pickle, formats.hostile_pickle, formats.renamed_global, formats.meta_value, m.rename), CHECKPOINT),
    "ckpt": Kind(("checkpoints/*.ckpt",), (*m.ANY, formats.meta_value, m.rename), CHECKPOINT),
    "safetensors": Kind(
        ("checkpoints/*.safetensors",), (*m.ANY, formats.safetensors_header, formats.safetensors_header, formats.meta_value, m.rename), CHECKPOINT
    ),
    "run": Kind(("run/*",), (*m.ANY, formats.text, formats.text, formats.meta_value, formats.hostile_pickle), RUN),
    "mindspore run": Kind(
        ("mindspore_run/*",), (*m.BYTES, formats.text, formats.text, formats.meta_value, m.swap),
        (*(evaluation(framework, SUPONLY, *SETTINGS, "--run-dir", "{home}/mindspore_run") for framework in ("torch", "mindspore")),
         training("mindspore", SUPONLY, "mindspore_run", "--resume")),
    ),
    "pictures": Kind(
        ("pictures/*",), (*m.ANY, formats.picture, formats.picture, formats.picture, formats.huge_picture),
        (Command("onnx_impl.predict", ("{home}/model", "{home}/pictures", *PREDICT), False, ("out",)),
         Command("onnx_impl.predict", ("{home}/model", "{file}", "--window", "16", "--overlay", "0", *PREDICT), False, ("out",))),
    ),
    "videos": Kind(
        ("videos/*",), (*m.BYTES, m.swap, m.become_something_else),
        (Command("onnx_impl.predict", ("{home}/model", "{file}", *PREDICT), False, ("out",)),
         Command("torch_impl.predict", ("{home}/model", "{home}/pictures/a.jpg", "{file}", *PREDICT), False, ("out",))),
    ),
    "images": Kind(("data/JPEGImages/*",), (*m.ANY, formats.picture, formats.picture, formats.huge_picture), (CHECK, TRAIN, *RUN)),
    "labels": Kind(("data/SegmentationClass/*",), (*m.ANY, formats.picture, formats.picture, formats.huge_picture), (CHECK, TRAIN, *RUN)),
    "lists": Kind(
        ("data/ImageSets/Segmentation/*", "splits/own/few/*", "lists/one.txt"), (*m.ANY, formats.text, formats.text, formats.text),
        (CHECK, TRAIN, *RUN, Command("common.splits", ("import", "voc_mini/new", "{file}", *IMPORT), makes=("new_splits",)),
         Command("common.splits", ("import", "{file}", *IMPORT), silent=False),
         Command("common.splits", ("verify", "voc_mini/few", "--folder", "{home}/splits"))),
    ),
    "archives": Kind(
        ("lists/lists.*",), (*m.ANY, formats.hostile_archive, formats.hostile_archive, formats.hostile_archive),
        (Command("common.splits", ("import", "voc_mini/new", "{file}", *IMPORT), makes=("new_splits",)),
         Command("common.splits", ("import", "{file}", *IMPORT), silent=False)),
    ),
    "graphs": Kind(
        ("model/model.onnx",), (*m.ANY, *[formats.graph] * 12, formats.meta_value),
        (Command("onnx_impl.predict", ("{file}", "{home}/pictures/a.jpg", *PREDICT), False, ("out",)),
         evaluation("onnx", SUPONLY, *SETTINGS, "--checkpoint", "{file}"),
         Command("onnx_impl.halve", ("{file}", "{home}/out/a.onnx", SUPONLY, *SETTINGS), False, (), (0, 1, 2)),
         Command("onnx_impl.quantize", ("{file}", "{home}/out/a.onnx", SUPONLY, *SETTINGS, "--images", "1"), False, (), (0, 1, 2)),
         Command(
             "onnx_impl.bench",
             ("{file}", "--size", "33", "33", "--runs", "1", "--warm-up", "1", "--threads", "1", "--json", "{home}/out/b.json"),
             silent=False,
         )),
    ),
    "model folder": Kind(
        ("model/*",), (*m.ANY, formats.text, formats.meta_value, formats.safetensors_header),
        (evaluation("torch", "{home}/model"), evaluation("onnx", "{home}/model"),
         Command("onnx_impl.predict", ("{home}/model", "{home}/pictures/a.jpg", *PREDICT), False, ("out",))),
    ),
    "settings": Kind(("run/config.yaml", "model/config.yaml"), (*m.ANY, *[formats.text] * 12), (*RUN, evaluation("torch", "{home}/model"))),
    "subclasses": Kind(
        ("subclasses/*",), (*m.ANY, formats.picture, formats.text, formats.meta_value, formats.huge_picture),
        (training("torch", USRN, "new", "method.subclass_labels=~/subclasses", "loader.batch_unlabelled=2"),),
    ),
    "features": Kind(
        ("features/*",), (*m.ANY, formats.array, formats.array, formats.array, formats.text, formats.meta_value),
        (Command(
            "common.make_subclasses",
            (USRN, *SETTINGS, "method.subclass_share=0.3", "--features", "{home}/features", "--checkpoint", "{home}/run/best.pth", "--out", "{home}/new"),
            silent=False,
        ),
         Command(
             "torch_impl.features",
             (BASELINE, *SETTINGS, "--checkpoint", "{home}/run/best.pth", "--out", "{home}/features"),
             silent=False, makes=("features",),
         )),
    ),
    "prototypes": Kind(
        ("prototypes.npz",), (*m.ANY, *[formats.array] * 6, formats.hostile_archive),
        (training("torch", PCR, "new", "method.proto_init=file", "method.proto_file=~/prototypes.npz", "loader.batch_unlabelled=2"),),
    ),
    "cache": Kind(
        ("cache/*/*.npy",), (*m.ANY, *[formats.array] * 5), (evaluation("torch", SUPONLY, *SETTINGS, CACHED, "--checkpoint", "{home}/run/best.pth"),)
    ),
    "campaign": Kind(
        ("trial.yaml", "trial/rows.jsonl", "trial/logs/*"), (*m.ANY, *[formats.text] * 6, *[formats.meta_value] * 3),
        (Command("experiments.campaign", ("{home}/trial.yaml", "--page"), silent=False), Command("experiments.campaign", ("{home}/trial.yaml", "--list"), silent=False)),
    ),
    "packaging": Kind(
        ("run/result.json", "parity.json", "run/config.yaml"), (*m.ANY, *[formats.text] * 4, *[formats.meta_value] * 4),
        (Command("converters.package", ("{home}/run", "{home}/new", "--parity", "{home}/parity.json"), silent=False), PAGES),
    ),
    "npm package": Kind(("ort.tgz",), (*m.ANY, *[formats.hostile_archive] * 6), (PAGES,)),
    "served folder": Kind(
        ("model/model.onnx", "model/config.yaml", "model/web/page.json"),
        (*m.BYTES, m.swap, m.become_something_else, m.oversize, *[formats.text] * 4, *[formats.meta_value] * 2, *[formats.graph] * 6), (SERVE,),
    ),
}  # fmt: skip


def drawn(seed: int, home: Path) -> tuple[Command, Path, str]:
    """Spoil a file; return the command to run, the file and what was done to it."""
    rng = Random(seed)
    name = list(KINDS)[seed % len(KINDS)]
    kind = KINDS[name]
    files = sorted(path for pattern in kind.files for path in home.glob(pattern) if path.is_file())
    file, command = rng.choice(files), rng.choice(kind.commands)
    fitting = [change for change in kind.changes if fits(change, file)]
    change = rng.choice(fitting)
    change(file, rng)
    there = next(iter(sorted(file.parent.glob(f"{file.stem}.*"))), file) if change is m.rename else file
    return command, there, f"{name}: {change.__name__} of {file.relative_to(home)}"


SUFFIXES = {
    formats.array: (".npy", ".npz"), formats.picture: (".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm"), formats.safetensors_header: (".safetensors",),
    formats.text: (".yaml", ".json", ".jsonl", ".txt", ".md"), formats.graph: (".onnx",), formats.hostile_pickle: (".pth",), formats.hostile_archive: (".zip", ".tar", ".tgz", ".npz"),
}  # fmt: skip


def fits(change: m.Change, file: Path) -> bool:
    """Whether a change is one of this kind of file."""
    return file.suffix in SUFFIXES.get(change, (file.suffix,))


def faults(command: Command, outcome: Outcome, out: str, err: str) -> list[str]:
    """What is wrong with how a command ended, and with what it said on stdout and stderr."""
    lines = err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    failed = outcome.code != 0
    conditions = {
        f"it ran or wrote {outcome.seen}": outcome.seen,
        f"exit code {outcome.code}": outcome.code not in command.codes,
        "a traceback": "Traceback" in out + err,
        "something unfinished is left": [name for name in outcome.new if "/." in f"/{name}" or name.startswith("tmp/")],
        "not one line": failed and (len(errors) != 1 or lines[-1] != errors[0]),
        "more than one line": failed and command.silent and (len(lines) != 1 or out.strip()),
        f"it warned {outcome.warned}": failed and outcome.warned,
        f"new {outcome.new}": failed and not all(name.startswith(command.makes or ("-",)) for name in outcome.new),
        f"changed {outcome.lost}": failed
        and not all(name.startswith(command.makes or ("-",)) for name in outcome.lost),
    }
    return [text for text, holds in conditions.items() if holds]


def main_of(command: Command) -> Callable:
    """The function that a command runs: of its module, or of a package's ``__main__``."""
    module = importlib.import_module(command.module)
    return getattr(module, "main", None) or importlib.import_module(f"{command.module}.__main__").main


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= QUICK)) for seed in range(ALL)]
)
def test_mutation(seed, valid, home, capfd, monkeypatch):
    # What packaging reads is spoiled, not what it makes: exporting takes most of its time.
    graph = valid / "model/model.onnx"
    monkeypatch.setattr("converters.export_onnx.export", lambda _, target, *__, **___: shutil.copy(graph, target))
    command, file, done = drawn(seed, home)
    arguments = [argument.format(file=file, home=home) for argument in command.arguments]
    main = main_of(command)
    capfd.readouterr()
    outcome = run(main, arguments, home)
    out, err = capfd.readouterr()
    what = f"seed {seed}, {done}: python -m {command.module} {' '.join(arguments)}"
    problems = faults(command, outcome, out, err)
    assert not problems, f"{what}\n{problems}\n{out[-2000:]}\n{err[-3000:]}"


def test_faults_are_seen():
    """Each condition of :func:`faults` can fail."""
    right = {"code": 2, "new": (), "lost": (), "seen": (), "warned": ()}
    assert not faults(INSPECT, Outcome(**right), "", "error: bad\n") and not faults(
        INSPECT, Outcome(**right | {"code": 0}), "x", ""
    )
    for change, out, err in (
        ({"code": 1}, "", "error: bad"), ({"code": 2}, "", ""), ({"code": 2}, "", "error: a\nerror: b"), ({"code": 2}, "", "error: a\nb"),
        ({"code": 2}, "out", "error: a"), ({"code": 2}, "", "note\nerror: a"), ({"code": 0}, "", "Traceback (most recent call last)"),
        ({"new": ("a",)}, "", "error: a"), ({"lost": ("a",)}, "", "error: a"), ({"warned": ("a",)}, "", "error: a"),
        ({"code": 0, "new": ("out/.a.png",)}, "", ""), ({"code": 0, "new": ("tmp/a",)}, "", ""), ({"code": 0, "seen": ("os.system",)}, "", ""),
    ):  # fmt: skip
        assert faults(INSPECT, Outcome(**right | change), out, err), (change, out, err)
    assert not faults(TRAIN, Outcome(**right | {"new": ("new/log.jsonl",)}), "", "note\nerror: a")


def test_what_runs_and_writes_is_seen(home):
    def main(_arguments) -> None:
        os.mkdir(home / "inside")
        os.mkdir(home.parent / "outside")
        (home.parent / "file").touch()
        pickle.loads(pickle.dumps(formats.Hostile()))

    seen = run(main, [], home).seen
    assert [event.split()[0] for event in seen] == ["os.mkdir", "open", "pickle.find_class"], seen
    assert (home / m.CANARY).is_dir()
