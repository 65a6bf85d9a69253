"""What every benchmark file states: machine, versions, date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.files import write_json_atomic
from common.machine import describe
from common.paths import PROJECT


def save(name: str, command: str, figures: dict[str, Any]) -> Path:
    """Write ``benchmarks/NAME-DATE.json`` with ``figures``, the command that made them and the machine; return its path."""
    machine = describe()
    path = PROJECT / "benchmarks" / f"{name}-{machine['date']}.json"
    write_json_atomic(path, {"command": command, "machine": machine, "figures": figures})
    print(f"written {path.relative_to(PROJECT)}")
    return path
