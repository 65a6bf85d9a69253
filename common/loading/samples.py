"""From a task to the arrays of one sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.datasets.file_dataset import Dataset
from common.loading.plan import Task
from common.methods.interface import EightBit, Stream
from common.rng import generator

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class SampleMaker:
    """Turns tasks into arrays; the part of a loader that every worker process has.

    ``eight_bit``: pictures stay as they are where a pipeline has 8-bit ones (:class:`common.methods.interface.EightBit`).
    """

    dataset: Dataset
    streams: dict[str, Stream]
    seed: int
    eight_bit: bool = False

    def blank(self, name: str) -> Arrays:
        """Return the arrays of a sample of a stream made from a black image: names, shapes and types are those of all its samples."""
        stream = self.streams[name]
        side = stream.pipeline.crop
        labels = {name: np.zeros((side, side), np.uint8) for name in stream.labels}
        return self._augment(stream)(np.zeros((side, side, 3), np.uint8), labels, np.random.default_rng(0))

    def _augment(self, stream: Stream) -> Callable[..., Arrays]:
        pipeline = stream.pipeline
        return pipeline.pictures if self.eight_bit and isinstance(pipeline, EightBit) else pipeline

    def make(self, task: Task) -> Arrays:
        """Return the arrays of one sample under the names that the stream's pipeline gives them; zeros for the id ``""``."""
        stream = self.streams[task.stream]
        if not task.image_id:
            side = stream.pipeline.crop
            labels = {name: np.zeros((side, side), np.uint8) for name in stream.labels}
            return {"image": np.zeros((3, side, side), np.float32)} | labels
        rng = generator(self.seed, f"augment {task.stream}", task.epoch, task.step, task.position)
        image = self.dataset.image(task.image_id)
        labels = {
            name: source.label(self.dataset, task.image_id, image.shape[:2]) for name, source in stream.labels.items()
        }
        return self._augment(stream)(image, labels, rng)
