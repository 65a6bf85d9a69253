"""A golden file, and how our numbers are compared with the numbers in it."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FUNCTION = 1e-5
"""Gate of losses and gradients: largest difference over the largest entry."""
NETWORK = 1e-4
"""Gate of network outputs: largest difference over the largest entry."""
FROBENIUS = 2e-4
"""Gate of network outputs: Frobenius norm of the difference over that of the golden."""
FLIPS = 2e-4
"""Gate of a network's class ids: share of pixels with another class."""
STEP = 1e-4
"""Gate of whole training steps: largest difference over the largest entry."""
EXACT = 0.0
"""Gate of integers, masks and labels: number of differing entries."""


class Check(NamedTuple):
    """One compared quantity; it agrees if ``difference`` is at most ``gate``."""

    quantity: str
    difference: float
    gate: float

    @property
    def passed(self) -> bool:
        """Whether the difference is a number within the gate."""
        return self.difference <= self.gate

    @property
    def share(self) -> float:
        """Difference in units of the gate; infinite for what must be exact and is not."""
        if self.gate == 0:
            return 0.0 if self.difference == 0 else float("inf")
        return float("inf") if np.isnan(self.difference) else self.difference / self.gate


class Golden:
    """One file: the arrays of an ``.npz`` by name, or the ``document`` of a ``.json``."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.name = self.path.stem

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays of the file."""
        with np.load(self.path, allow_pickle=False) as content:
            return dict(content)

    @cached_property
    def document(self) -> Any:
        """The content of a JSON file."""
        return json.loads(self.path.read_text(encoding="utf-8"))

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            raise KeyError(f"{self.path.name} lacks the array {name!r}; it has {', '.join(self.arrays)}")
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def number(self, name: str) -> float | int:
        """Return a scalar as a plain Python number."""
        return self[name].item()


def close(quantity: str, ours: Any, golden: Any, gate: float = FUNCTION) -> Check:
    """Compare numbers by their largest difference, relative to the largest golden entry (absolute where all are 0)."""
    ours, golden = np.asarray(ours, np.float64), np.asarray(golden, np.float64)
    if ours.shape != golden.shape:
        return Check(f"{quantity} {list(ours.shape)} instead of {list(golden.shape)}", float("inf"), gate)
    if not golden.size:
        return Check(quantity, 0.0, gate)
    return Check(quantity, float(np.abs(ours - golden).max() / (np.abs(golden).max() or 1.0)), gate)


def frobenius(quantity: str, ours: np.ndarray, golden: np.ndarray) -> Check:
    """Compare network outputs by the relative Frobenius norm of their difference."""
    if ours.shape != golden.shape:
        return Check(f"{quantity} {list(ours.shape)} instead of {list(golden.shape)}", float("inf"), FROBENIUS)
    difference = np.linalg.norm(np.asarray(ours, np.float64) - golden)
    return Check(
        f"{quantity} (Frobenius)", float(difference / np.linalg.norm(np.asarray(golden, np.float64))), FROBENIUS
    )


def exact(quantity: str, ours: Any, golden: Any) -> Check:
    """Count the entries that differ."""
    ours, golden = np.asarray(ours), np.asarray(golden)
    if ours.shape != golden.shape:
        return Check(f"{quantity} {list(ours.shape)} instead of {list(golden.shape)}", float("inf"), EXACT)
    return Check(quantity, float((ours != golden).sum()), EXACT)


def missing(quantity: str, gate: float = EXACT) -> Check:
    """A quantity that we do not have at all."""
    return Check(f"{quantity} (we have none)", float("inf"), gate)


def table(checks: list[Check]) -> str:
    """Return one line per quantity, the worst first."""
    rows = sorted(checks, key=lambda check: -check.share)
    width = max((len(check.quantity) for check in rows), default=0)
    verdict = {True: "ok", False: "DIFFERS"}
    return "\n".join(f"{c.quantity:{width}}  {c.difference:9.2e}  gate {c.gate:.0e}  {verdict[c.passed]}" for c in rows)
