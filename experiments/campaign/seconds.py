"""How long a run has taken over all calls of a campaign that worked on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.files import read_json, write_json_atomic
from experiments.campaign.plan import Run, digest, recipe


@dataclass
class Seconds:
    """What the calls so far took for ``run``, kept in ``file``.

    ``wall`` and ``cpu`` are seconds, None where they are not known: a call was killed, or other trainings went beside it.
    """

    file: Path
    run: Run
    wall: float | None = 0.0
    cpu: float | None = 0.0

    def start(self, fresh: bool) -> None:
        """Say that a call works on the run; one that does not begin it anew goes on from what is kept."""
        if not fresh:
            try:
                kept = read_json(self.file)
                same = kept["recipe"] == digest(recipe(self.run.config))
                self.wall, self.cpu = (kept["wall"], kept["cpu"]) if same else (None, None)
            except (OSError, ValueError, KeyError, TypeError):
                self.wall = self.cpu = None
        self._keep(None, None)

    def end(self, wall: float, cpu: float | None) -> None:
        """Add what this call took."""
        self.wall = None if self.wall is None else self.wall + wall
        self.cpu = None if self.cpu is None or cpu is None else self.cpu + cpu
        self._keep(self.wall, self.cpu)

    def _keep(self, wall: float | None, cpu: float | None) -> None:
        write_json_atomic(self.file, {"recipe": digest(recipe(self.run.config)), "wall": wall, "cpu": cpu})
