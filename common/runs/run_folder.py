"""A run's folder: resolved configuration, log, checkpoints, result, pictures, and TensorBoard events if that is installed."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import parse_json, read_bytes, write_text_atomic
from common.paths import PROJECT


class RunFolder:
    """``config.yaml``, ``log.jsonl`` (one JSON object a line), ``last.*``, ``best.*``, ``result.json``, ``pictures/``, ``events/``,
    ``snapshots/epoch-N.*``.

    Nothing is created before :meth:`start` or the first :meth:`log`.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.log_file = self.path / "log.jsonl"
        self.result = self.path / "result.json"
        self.pictures = self.path / "pictures"
        self.events = self.path / "events"

    def last(self, suffix: str) -> Path:
        """The checkpoint that a run continues from; ``suffix`` is the framework's, e.g. ``.pth``."""
        return self.path / f"last{suffix}"

    def best(self, suffix: str) -> Path:
        """The checkpoint of the best evaluation so far."""
        return self.path / f"best{suffix}"

    def snapshot(self, epoch: int, suffix: str) -> Path:
        """The networks that ``epoch``, counted from 0, has left."""
        return self.path / "snapshots" / f"epoch-{epoch}{suffix}"

    def kept_snapshots(self, suffix: str) -> dict[int, Path]:
        """Return the snapshots that are there by epoch, in order; other files of their folder do not count."""
        numbers = [
            path.name.removeprefix("epoch-").removesuffix(suffix)
            for path in self.path.glob(f"snapshots/epoch-*{suffix}")
        ]
        return {epoch: self.snapshot(epoch, suffix) for epoch in sorted(int(n) for n in numbers if n.isdecimal())}

    def start(self, config: str) -> None:
        """Begin a run: remove what an earlier run left under this folder's names, then write ``config`` (YAML text)."""
        left = [self.log_file, self.result, *self.path.glob("last.*"), *self.path.glob("best.*")]
        left += self.path.glob("snapshots/epoch-*.*")
        left += [*self.pictures.rglob("*.png"), *self.events.glob("events.out.tfevents.*")]
        for file in left:
            file.unlink(missing_ok=True)
        self.remove_unfinished()
        write_text_atomic(self.config, config)

    def remove_unfinished(self) -> None:
        """Remove what a run that was killed while it wrote has left: files that never got their names."""
        for names in (
            ".last.*",
            ".best.*",
            ".result.*",
            ".config.*",
            ".log.*",
            "snapshots/.epoch-*",
            "pictures/**/.*.png",
        ):
            for file in self.path.glob(names):
                file.unlink(missing_ok=True)

    def log(self, **entry: Any) -> None:
        """Append one line; numbers that are not finite become null. Entries with an ``iteration`` also go to TensorBoard."""
        plain = _plain(entry)
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.log_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n")
        if self._tensorboard is not None and "iteration" in plain:
            self._tensorboard.add(plain["iteration"], dict(_scalars(plain)))

    def entries(self) -> list[dict[str, Any]]:
        """Return the log's entries, oldest first; a last line that was cut off by a crash is left out."""
        if not self.log_file.exists():
            return []
        lines = read_bytes(self.log_file).decode("utf-8", "replace").splitlines()
        entries = []
        for number, line in enumerate(lines, 1):
            try:
                entry = parse_json(line)
                if not isinstance(entry, dict) or type(entry.get("iteration", 0)) is not int:
                    raise ValueError("it is no entry of a log")
                entries.append(entry)
            except ValueError:
                if number < len(lines):
                    raise UserError(f"{self.log_file}, line {number}: not an entry of a log; remove the line") from None
        return entries

    def truncate_after(self, iteration: int) -> None:
        """Drop what was logged after ``iteration``, because a resumed run goes through it again."""
        kept = [entry for entry in self.entries() if entry.get("iteration", 0) <= iteration]
        write_text_atomic(self.log_file, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in kept))

    @cached_property
    def _tensorboard(self) -> _TensorBoard | None:
        try:
            return _TensorBoard(self.events)
        except ImportError:
            return None


class _TensorBoard:
    """Scalars as TensorBoard events; raises ``ImportError`` where the package is not installed."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary, self._writer = Event, Summary, EventFileWriter(str(folder))

    def add(self, iteration: int, scalars: Mapping[str, float]) -> None:
        values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._writer.add_event(self._event(wall_time=time.time(), step=iteration, summary=self._summary(value=values)))
        self._writer.flush()


def default_run_folder(runtime: str, experiment: str) -> Path:
    """``runs/RUNTIME/DATASET_SPLIT_METHOD`` of the project."""
    return PROJECT / "runs" / runtime / experiment.replace("/", "_")


def _plain(value: Any) -> Any:
    """JSON values of mappings, sequences, paths, NumPy scalars and plain values."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scalars(entry: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, float]]:
    for key, value in entry.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{where}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and key != "iteration":
            yield f"{where}{key}", float(value)
