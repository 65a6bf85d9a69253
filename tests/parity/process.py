"""Running code in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

from common.paths import PROJECT


def python(code: str, **environment: str) -> str:
    """Return what ``code`` prints in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout
