"""From a task to the arrays of one sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.datasets.file_dataset import Dataset
from common.loading.plan import Task
from common.methods.interface import Stream
from common.rng import generator

Arrays = dict[str, np.ndarray]


def blank_sample(stream: Stream) -> Arrays:
    """Return the arrays of a sample of ``stream`` made from a black image: what names, shapes and types all of them have."""
    side = stream.pipeline.crop
    labels = {name: np.zeros((side, side), np.uint8) for name in stream.labels}
    return stream.pipeline(np.zeros((side, side, 3), np.uint8), labels, np.random.default_rng(0))


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
        labels = {
            name: source.label(self.dataset, task.image_id, image.shape[:2]) for name, source in stream.labels.items()
        }
        return stream.pipeline(image, labels, rng)
