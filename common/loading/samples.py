"""From a task to the arrays of one sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.datasets.file_dataset import Dataset
from common.loading.plan import Task
from common.methods.interface import Stream
from common.methods.usrn.subclasses import file_stem, read_subclass_image
from common.rng import generator

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class SampleMaker:
    """Turns tasks into arrays; the part of a loader that every worker process has."""

    dataset: Dataset
    streams: dict[str, Stream]
    seed: int

    def make(self, task: Task) -> Arrays:
        """Return the arrays of one sample under the names that the stream's pipeline gives them; zeros for the id ``""``."""
        stream = self.streams[task.stream]
        if not task.image_id:
            side = stream.pipeline.crop
            labels = {name: np.zeros((side, side), np.uint8) for name in stream.labels}
            return {"image": np.zeros((3, side, side), np.float32)} | labels
        rng = generator(self.seed, f"augment {task.stream}", task.epoch, task.step, task.position)
        image = self.dataset.image(task.image_id)
        labels = {name: self._label(stream, name, task.image_id, image.shape[:2]) for name in stream.labels}
        return stream.pipeline(image, labels, rng)

    def _label(self, stream: Stream, name: str, image_id: str, shape: tuple[int, int]) -> np.ndarray:
        """The label image that a stream calls ``name``: ``label`` is the data set's own, others lie in the stream's folders."""
        if name in stream.folders:
            path = Path(stream.folders[name]) / f"{file_stem(self.dataset.config, image_id)}.png"
            return read_subclass_image(path, shape)
        if name != "label":
            raise ValueError(f"no label images have the name {name!r}")
        return self.dataset.label(image_id)
