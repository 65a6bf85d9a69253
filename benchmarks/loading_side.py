"""What ``benchmarks.loading`` runs in each of the two checkouts: it answers lines on standard input with CPU seconds.

It runs with the packages of the checkout that it is started in, which may be older than this file.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from types import SimpleNamespace

import cv2

from common.experiment import compose

try:
    from common.datasets.file_dataset import open_dataset
    from common.loading.loader import Loader
except ImportError:
    from common.data.datasets import open_dataset
    from common.data.loader import Loader

SETTINGS = ("loader.workers=0", "trainer.iterations_per_epoch=1000000")


def samples(recipe: dict):
    """Yield the batches of one stream, one image each, for ever."""
    batch = ["loader.batch_labelled=1", *(["loader.batch_unlabelled=1"] if recipe["both"] else [])]
    config = compose(recipe["experiment"], [f"dataset.root={recipe['root']}", *SETTINGS, *batch, *recipe["overrides"]])
    streams = config.streams() if hasattr(config, "streams") else config.method.streams()
    (stream,) = (stream for stream in streams if stream.name == recipe["stream"])
    dataset = open_dataset(config.dataset)
    ids = tuple(recipe["ids"])
    split = SimpleNamespace(id="drawn", labelled=ids, unlabelled=ids)
    return Loader(dataset, split, [stream], config).epoch(0)


def main() -> None:
    """Answer every line, a recipe as JSON with ``count`` samples to make, by CPU seconds per sample and their digest."""
    cv2.setNumThreads(0)
    running: dict[str, object] = {}
    for line in sys.stdin:
        recipe = json.loads(line)
        name = f"{recipe['experiment']} {recipe['stream']}"
        batches = running.setdefault(name, samples(recipe))
        digest, started = hashlib.sha256(), time.process_time()
        spent = 0.0
        for _ in range(recipe["count"]):
            started = time.process_time()
            (part,) = next(batches).values()
            spent += time.process_time() - started
            for array in sorted(set(part) - {"ids"}):
                digest.update(array.encode() + part[array].tobytes())
        print(json.dumps({"seconds": spent / recipe["count"], "digest": digest.hexdigest()}), flush=True)


if __name__ == "__main__":
    main()
