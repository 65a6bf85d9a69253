"""Running code in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

from common.paths import PROJECT

PATIENCE = 600
"""Seconds after which a test takes a process for hung; much more than any needs on a busy machine."""


def python(code: str, **environment: str) -> str:
    """Return what ``code`` prints in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), **environment}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout
