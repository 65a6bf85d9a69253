"""What ``benchmarks.hand_over`` runs in each checkout: batches of samples that are ready in the workers, and what they cost here.

It runs with the packages of the checkout that it is started in, which may be older than this file.
"""

from __future__ import annotations

import json
import sys
import time
from types import SimpleNamespace

import numpy as np

from common.experiment import compose

try:
    from common.datasets.file_dataset import open_dataset
    from common.loading.loader import Loader
except ImportError:
    from common.data.datasets import open_dataset
    from common.data.loader import Loader


class Ready:
    """Gives every task the same arrays at once."""

    def __init__(self, streams: dict, crop: int) -> None:
        self.streams, self.crop = streams, crop
        self._made: dict[str, dict[str, np.ndarray]] = {}

    def make(self, task) -> dict[str, np.ndarray]:
        """Return the sample of a task."""
        return self.blank(task.stream)

    def blank(self, stream: str) -> dict[str, np.ndarray]:
        """Return the one sample of a stream."""
        if stream not in self._made:
            labels = {name: np.zeros((self.crop, self.crop), np.uint8) for name in self.streams[stream].labels}
            image = np.random.default_rng(0).normal(size=(3, self.crop, self.crop)).astype(np.float32)
            self._made[stream] = {"image": image, **labels}
        return self._made[stream]


def main() -> None:
    """Answer every line, a number of batches, by CPU seconds of this process per batch and the sum of what it saw."""
    crop, images, workers = (int(value) for value in sys.argv[1:])
    settings = [
        f"augment.crop={crop}", f"loader.batch_labelled={images}", f"loader.batch_unlabelled={images}",
        f"loader.workers={workers}", "loader.prefetch=2", "trainer.iterations_per_epoch=100000",
    ]  # fmt: skip
    config = compose("shapes/12/u2pl", settings)
    streams = config.streams() if hasattr(config, "streams") else config.method.streams()
    dataset = open_dataset(config.dataset)
    split = SimpleNamespace(id="drawn", labelled=dataset.train_ids[:12], unlabelled=dataset.train_ids[12:])
    with Loader(dataset, split, streams, config) as loader:
        loader._maker = Ready({stream.name: stream for stream in streams}, crop)
        batches = loader.epoch(0)
        for line in sys.stdin:
            before, seen = time.process_time(), 0.0
            for _ in range(int(line)):
                batch = next(batches)
                seen += float(batch["unlabelled"]["image"][-1, -1, -1, -1])
            print(json.dumps({"seconds": (time.process_time() - before) / int(line), "seen": seen}), flush=True)


if __name__ == "__main__":
    main()
