"""Training images that a method asks for by itself during a step, because it chooses them by what it has learnt so far."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import open_dataset
from common.loading.plan import Task
from common.loading.samples import SampleMaker
from common.methods.interface import Clock, Stream
from common.splits.resolve import resolve


class ImagesOnDemand:
    """The unlabelled images of an experiment by their position in the list, with the weak augmentation of the method.

    ``name`` keys the random numbers of the augmentation, together with epoch, step and position in the batch.
    """

    def __init__(self, config: ExperimentConfig, name: str) -> None:
        dataset = open_dataset(config.dataset)
        self.ids = resolve(dataset, config.split).unlabelled
        self._positions = {image_id: position for position, image_id in enumerate(self.ids)}
        self._name, self._threads = name, max(config.loader.workers, 1)
        stream = Stream(name=name, source="unlabelled", pipeline=config.augment)
        self._maker = SampleMaker(dataset=dataset, streams={name: stream}, seed=config.trainer.seed)

    def positions(self, ids: Sequence[str]) -> np.ndarray:
        """Return the places of ``ids`` in the list, int64 ``[n]``."""
        return np.array([self._positions[image_id] for image_id in ids], np.int64)

    def load(self, positions: np.ndarray, clock: Clock, first_place: int = 0) -> np.ndarray:
        """Return the images at ``positions`` ``[n]`` as float32 ``[n,3,S,S]``, S the crop size.

        ``first_place``: which place of the whole batch the first one has, where other processes have others.
        """
        tasks = [
            Task(self._name, self.ids[position], clock.epoch, clock.step, place)
            for place, position in enumerate(positions.tolist(), first_place)
        ]
        with ThreadPoolExecutor(self._threads) as pool:
            return np.stack([sample["image"] for sample in pool.map(self._maker.make, tasks)])
