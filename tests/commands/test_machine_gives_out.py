"""Memory, disk, a closed pipe, a killed process: one line and exit code 2, and what can be done is done."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import subprocess
import sys

import pytest

from common.command_line import run_command, run_module, user_path
from common.errors import UserError
from common.paths import at_home, data_root
from common.runs.run_folder import RunFolder
from tests.places import PROJECT
from tests.processes import PATIENCE


def ends_with(error: Exception, capsys) -> str:
    """The one line that a command prints which fails with ``error``; the exit code must be 2."""

    def main(_arguments):
        raise error

    assert run_command(main) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    return said.err


class LibraryError(RuntimeError):
    """Stands for the exceptions of the frameworks."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 3.2 TiB for an array"),
        LibraryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has a total capacity of"),
        LibraryError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4"
        ),
        LibraryError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 400"),
        LibraryError("OpenCV(4.11.0) error: (-4:Insufficient memory) Failed to allocate 400 bytes in function"),
        LibraryError("Memory not enough: current free memory size[1] is smaller than required size[2]"),
    ],
)
def test_memory(error, capsys):
    assert "memory ran out" in ends_with(error, capsys)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "no space left while writing /data/file"), (errno.EDQUOT, "no space left while writing /data/file"),
        (errno.EIO, "/data/file: Input/output error"), (errno.EMFILE, "/data/file: Too many open files"),
        (errno.ENAMETOOLONG, "/data/file: File name too long"), (errno.EROFS, "/data/file: Read-only file system"),
        (errno.ELOOP, "/data/file: Too many levels"), (errno.EACCES, "/data/file: Permission denied"),
        (errno.ESTALE, "/data/file: Stale file handle"), (errno.ENOMEM, "memory ran out"),
    ],
)  # fmt: skip
def test_every_error_of_the_system(number, said, capsys):
    assert said in ends_with(OSError(number, os.strerror(number), "/data/file"), capsys)


def test_an_error_of_the_system_without_a_number(capsys):
    assert "error: broken data stream; give a path" in ends_with(OSError("broken data stream"), capsys)


def test_a_fault_of_the_program_stays_one():
    def main(_arguments):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run_command(main)


@pytest.fixture
def nobody_reads(monkeypatch):
    """Give a command a stream whose reader has gone; returns what sets it."""

    def close(name: str) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        monkeypatch.setattr(sys, name, os.fdopen(writer, "w", buffering=1))

    return close


def test_a_closed_pipe_does_not_stop_the_work(nobody_reads, tmp_path, capsys):
    def main(_arguments):
        for number in range(20_000):
            print(number)
        (tmp_path / "done").touch()

    nobody_reads("stdout")
    assert run_command(main) == 2
    assert (tmp_path / "done").exists()
    assert (
        capsys.readouterr().err == "error: the output was closed before its end, as by head; everything else was done\n"
    )


def test_training_goes_on_when_nobody_reads_its_lines(nobody_reads, tmp_path):
    pytest.importorskip("torch")
    from tests.commands.methods import CASES
    from torch_impl.train import main

    nobody_reads("stderr")
    case = CASES["suponly"]
    assert run_command(main, [case.experiment, *case.options, "--run-dir", str(tmp_path / "run")]) == 2
    assert {"last.pth", "best.pth", "result.json"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_a_failure_keeps_its_own_code_and_line(nobody_reads, capsys):
    def main(_arguments):
        print("much", flush=True)
        raise UserError("it went wrong")

    nobody_reads("stdout")
    assert run_command(main) == 2
    assert capsys.readouterr().err == "error: it went wrong\n"


def test_letters_that_the_terminal_does_not_know_are_written_as_codes(monkeypatch, tmp_path):
    with open(tmp_path / "out", "w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run_command(lambda _: print("masks/\u00e4.png") or 0) == 0
    assert (tmp_path / "out").read_text() == "masks/\\xe4.png\n"


@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_command_that_is_asked_to_end_takes_its_file_back(number, tmp_path):
    (tmp_path / "writes.py").write_text(
        "import sys, time\nfrom common.command_line import run_command\nfrom common.files import atomic_path\n"
        "def main(_):\n    with atomic_path('out/file.txt'):\n        print('writing', flush=True)\n        time.sleep(600)\n"
        "sys.exit(run_command(main))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(
        [sys.executable, "writes.py"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "writing\n" and len(list((tmp_path / "out").iterdir())) == 1
    process.send_signal(getattr(signal, number))
    _, error = process.communicate(timeout=PATIENCE)
    assert (process.returncode, error) == (130, "error: interrupted\n")
    assert not list((tmp_path / "out").iterdir())


def test_a_terminal_that_goes_away_does_not_end_what_nohup_runs(tmp_path):
    (tmp_path / "waits.py").write_text(
        "import os, signal, sys\nfrom common.command_line import run_command\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "sys.exit(run_command(lambda _: os.kill(os.getpid(), signal.SIGHUP)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    assert subprocess.run([sys.executable, "waits.py"], cwd=tmp_path, env=environment).returncode == 0


def test_a_killed_process_is_named(tmp_path, monkeypatch):
    (tmp_path / "kills_itself.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(
        UserError, match=r"kills_itself was ended by signal 9 \(SIGKILL\), most likely because memory ran out"
    ):
        run_module("kills_itself")


@pytest.mark.parametrize(("redirection", "code"), [(">&-", 0), (">/dev/full", 2), (">&- 2>&-", 0), ("2>/dev/full", 2)])
def test_output_that_cannot_be_written_at_all(redirection, code, tmp_path):
    if "full" in redirection and not os.path.exists("/dev/full"):
        pytest.skip("this system has no device that is always full")
    (tmp_path / "speaks.py").write_text(
        "import sys\nfrom common.command_line import run_command\n"
        "def main(_):\n    print('result')\n    print('note', file=sys.stderr)\n    open('done', 'w').close()\n"
        "sys.exit(run_command(main))\n"
    )
    command = f'"{sys.executable}" speaks.py {redirection}'
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, (tmp_path / "done").read_text()) == (code, "")
    assert "Traceback" not in done.stderr
    if redirection == ">/dev/full":
        assert "error: the output could not be written to its end (No space left on device)" in done.stderr


def test_a_home_that_is_not_known_is_bad_use(monkeypatch, capsys):
    unknown = "~nobody-of-this-name/x"
    assert run_command(lambda _: at_home(unknown)) == 2
    assert f"error: {unknown}: ~ is no home that is known here" in capsys.readouterr().err
    monkeypatch.setenv("DATA_ROOT", unknown)
    assert run_command(lambda _: data_root()) == 2
    with pytest.raises(argparse.ArgumentTypeError, match="no home"):
        user_path(unknown)


def test_a_home_is_meant_by_a_tilde_in_every_option(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from tests.commands.methods import CASES
    from torch_impl.train import main

    monkeypatch.setenv("HOME", str(tmp_path))
    case = CASES["suponly"]
    assert run_command(main, [case.experiment, *case.options, "trainer.epochs=1", "--run-dir=~/run"]) == 0
    assert (tmp_path / "run" / "last.pth").is_file()


def test_no_option_takes_a_path_as_it_is():
    packages = ("common", "converters", "onnx_impl", "torch_impl", "mindspore_impl", "experiments", "benchmarks")
    files = [path for package in packages for path in (PROJECT / package).rglob("*.py")]
    assert [str(path) for path in files if "type=Path" in path.read_text()] == [], "use type=user_path"


def test_nothing_but_one_function_looks_for_homes():
    packages = ("common", "converters", "onnx_impl", "torch_impl", "mindspore_impl", "experiments", "benchmarks")
    files = [path for package in packages for path in (PROJECT / package).rglob("*.py")]
    callers = [path.relative_to(PROJECT).as_posix() for path in files if "expanduser" in path.read_text()]
    assert callers == ["common/paths.py"], "use at_home"


def test_what_a_killed_run_left_unfinished_is_removed(tmp_path):
    folder = RunFolder(tmp_path)
    for name in (
        "last.pth",
        ".last.x1.pth",
        ".best.y2.pth",
        "snapshots/.epoch-3.z.pth",
        "pictures/A/.b.q.png",
        ".keep",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folder.remove_unfinished()
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"last.pth", ".keep"}


def test_a_log_that_was_cut_off_within_a_letter_is_read(tmp_path):
    folder = RunFolder(tmp_path)
    folder.log(kind="train", iteration=1)
    with open(folder.log_file, "ab") as file:
        file.write('{"kind": "tr\u00e4'.encode()[:-1])
    assert [entry["iteration"] for entry in folder.entries()] == [1]
