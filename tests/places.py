"""Where the project lies, and the material beside it that only some machines have."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("SHARED", PROJECT.parent / "shared"))
"""Real data, weights and more golden files; tests that need them are skipped where they are not there."""
