"""What every benchmark file states: command, commit, machine, versions, date, load."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.files import write_json_atomic
from common.machine import describe
from common.paths import PROJECT


def save(name: str, command: str, figures: Mapping[str, Any]) -> Path:
    """Write ``benchmarks/NAME-DATE.json`` with ``figures``, the command that made them, commit, machine and load; return its path."""
    machine = describe() | {"load": [round(value, 1) for value in os.getloadavg()]}
    path = PROJECT / "benchmarks" / f"{name}-{machine['date']}.json"
    commit = subprocess.run(["git", "-C", str(PROJECT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    stated = {"command": command, "commit": commit.stdout.strip() or None, "machine": machine}
    write_json_atomic(path, stated | {"figures": figures})
    print(f"written {path.relative_to(PROJECT)}")
    return path
