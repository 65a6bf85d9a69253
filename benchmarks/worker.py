"""The process of one form: it runs when told to and answers with processor time, wall time and memory.

``benchmarks/harness.py`` starts it and talks to it. Only the standard library is imported here, so that this file also runs as a
program beside the code of another commit, which ``PYTHONPATH`` names: ``python benchmarks/worker.py step FRAMEWORK EXPERIMENT BATCH
[a.b=c ...]`` makes one training step for every line of standard input, ``evaluation EXPERIMENT [a.b=c ...]`` evaluates once,
``samples EXPERIMENT STREAM COUNT IDS [a.b=c ...]`` makes so many training samples, ``batches COUNT [a.b=c ...]`` receives so many
batches from worker processes.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import hashlib
import importlib
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

CONFIDENCE = 0.67
"""Mean confidence of the networks of a training step, in which every class occurs, as in the midst of a training."""


def serve(run: Callable[[], Any], compared: bool = False) -> None:
    """Call ``run`` once for every line of standard input and answer with what that took, as JSON.

    ``cpu`` and ``wall`` are seconds of this process, ``mib`` the most memory during the call beyond what the process had before the
    first one. With ``compared`` the answer has a ``digest`` of what ``run`` returned, a list of dictionaries of arrays.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what is free already is not what the call will need
    built = _memory("VmRSS")
    for _ in sys.stdin:
        _forget_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        result = run()
        taken = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        taken["mib"] = _memory("VmHWM") - built
        print(json.dumps(taken | ({"digest": _digest(result)} if compared else {})), flush=True)


def training_step(framework: str, experiment: str, batch: str, *overrides: str) -> Callable[[], Any]:
    """Return a function that makes the next training step of ``experiment`` on the arrays in the file ``batch``."""
    import numpy as np

    from common.experiment import compose

    try:
        from common.methods.interface import Clock
    except ImportError:  # the module's name until November 2026
        from common.method import Clock
    # Nearly nothing is learned, so that every step works on the same predictions.
    fixed = ["trainer.device=cpu", "trainer.threads=1", "network.backbone_weights=null", *_one_group()]
    config = compose(experiment, [*fixed, *overrides])
    method, _ = importlib.import_module(f"{framework}_impl.train").make_method(config)
    parts: dict[str, dict[str, Any]] = {}
    with np.load(batch) as arrays:
        for key in arrays:
            stream, name = key.split("/")
            parts.setdefault(stream, {})[name] = arrays[key]
    ids = method.images.ids if hasattr(method, "images") else [str(index) for index in range(100)]
    for part in parts.values():
        part["ids"] = ids[: len(next(iter(part.values())))]
    images = next(value for name, value in parts["labelled"].items() if name == "image")
    for network in _networks(method):
        {"torch": _confident_in_torch, "mindspore": _confident_in_mindspore}[framework](network, images)
    if hasattr(method, "bank"):
        _fill(method.bank, framework)
    steps = iter(range(1_000_000))

    def step():
        count = next(steps)
        clock = Clock(epoch=6, step=count, iteration=6000 + count, epochs=80, iterations_per_epoch=1000)
        return method.step(parts, clock)

    return step


def evaluation(experiment: str, *overrides: str) -> Callable[[], Any]:
    """Return a function that evaluates a network of one small convolution in PyTorch on the training images of ``experiment``."""
    import torch

    from common.experiment import compose
    from torch_impl.predictor import TorchPredictor

    try:
        from common.datasets.file_dataset import open_dataset
        from common.evaluation.evaluate import evaluate
    except ImportError:  # until November 2026
        from common.data.datasets import open_dataset
        from common.evaluate import evaluate
    config = compose(experiment, overrides)
    dataset = open_dataset(config.dataset)

    class Small(torch.nn.Module):
        classes = len(config.dataset.classes)

        def __init__(self) -> None:
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, self.classes, 4, stride=4)

        def forward(self, x, wanted=None):
            return {"logits": self.convolution(x)}

    torch.manual_seed(0)
    predictor = TorchPredictor(Small())
    return lambda: evaluate(predictor, dataset, dataset.train_ids, config, progress=False)


def samples(experiment: str, stream: str, count: str, ids: str, *overrides: str) -> Callable[[], Any]:
    """Return a function that makes a stream's next ``count`` training samples from the images ``ids`` (with commas), without workers."""
    import cv2

    cv2.setNumThreads(0)
    settings = ("loader.workers=0", "trainer.iterations_per_epoch=1000000", *overrides)
    loader, *_ = _loader(experiment, settings, ids.split(","), ids.split(","), stream)
    batches = loader.epoch(0)
    return lambda: [next(iter(next(batches).values())) for _ in range(int(count))]


def batches(count: str, *overrides: str) -> Callable[[], Any]:
    """Return a function that receives the next ``count`` batches of U2PL from worker processes in which the samples lie ready."""
    loader, streams, crop = _loader("shapes/12/u2pl", (*overrides, "trainer.iterations_per_epoch=100000"))
    loader._maker = _Ready(streams, crop)
    atexit.register(loader.close)
    epoch = loader.epoch(0)

    def receive() -> list[dict[str, Any]]:
        return [{"last": next(epoch)["unlabelled"]["image"][-1, -1, -1, -1].copy()} for _ in range(int(count))]

    return receive


class _Ready:
    """Takes the place of what makes samples: gives every task of a stream the same arrays at once."""

    def __init__(self, streams: list[Any], crop: int) -> None:
        self.streams = {stream.name: stream for stream in streams}
        self.made = {name: self._sample(stream, crop) for name, stream in self.streams.items()}

    @staticmethod
    def _sample(stream: Any, crop: int) -> dict[str, Any]:
        import numpy as np

        image = np.random.default_rng(0).normal(size=(3, crop, crop)).astype(np.float32)
        return {"image": image, **{name: np.zeros((crop, crop), np.uint8) for name in stream.labels}}

    def make(self, task: Any) -> dict[str, Any]:
        """Return the sample of a task."""
        return self.made[task.stream]

    def blank(self, stream: str) -> dict[str, Any]:
        """Return the sample of a stream."""
        return self.made[stream]


def _loader(
    experiment: str, settings: Any, labelled: Any = None, unlabelled: Any = None, stream: str | None = None
) -> tuple[Any, list[Any], int]:
    """Return the loader of all streams, or of one, of an experiment, these streams, and the crop.

    Its images are ``labelled`` and ``unlabelled``, or those of the drawn data set.
    """
    from common.experiment import compose

    try:
        from common.datasets.file_dataset import open_dataset
        from common.loading.loader import Loader
    except ImportError:  # until November 2026
        from common.data.datasets import open_dataset
        from common.data.loader import Loader
    config = compose(experiment, [*_one_group(), *settings])
    streams = config.streams() if hasattr(config, "streams") else config.method.streams()
    chosen = [entry for entry in streams if stream in (None, entry.name)]
    dataset = open_dataset(config.dataset)
    lists = labelled or dataset.train_ids[:12], unlabelled or dataset.train_ids[12:]
    split = SimpleNamespace(id="drawn", labelled=lists[0], unlabelled=lists[1])
    return Loader(dataset, split, chosen, config), chosen, config.augment.crop


def _digest(result: list[dict[str, Any]]) -> str:
    """Return a digest of arrays by name, ids left out."""
    digest = hashlib.sha256()
    for part in result:
        for name in sorted(set(part) - {"ids"}):
            digest.update(name.encode() + part[name].tobytes())
    return digest.hexdigest()


def _one_group() -> list[str]:
    """Return the setting that makes the whole batch one group, where the code knows of groups."""
    try:
        from common.config.schema import TrainerConfig
    except ImportError:  # until November 2026
        return []
    return ["trainer.groups=1"] if "groups" in TrainerConfig.__dataclass_fields__ else []


def _networks(method: Any) -> list[Any]:
    named = getattr(method, "nets", None) or {
        name: value for name, value in vars(method).items() if hasattr(value, "classifier")
    }
    return list(named.values())


def _scale(logits: Any) -> tuple[Any, float]:
    """Return what to take from the logits ``[B,K,h,w]``, ``[K]``, so that all classes occur, and a factor for the confidence."""
    import numpy as np

    mean = logits.mean((0, 2, 3))
    centred = logits - mean[:, None, None]
    low, high = 1e-3, 1e6
    for _ in range(60):
        factor = (low * high) ** 0.5
        exponents = np.exp(factor * (centred - centred.max(1, keepdims=True)))
        low, high = (factor, high) if (1 / exponents.sum(1)).mean() < CONFIDENCE else (low, factor)
    return mean, factor


def _confident_in_torch(network: Any, images: Any) -> None:
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        mean, factor = _scale(network.train()(torch.from_numpy(images))["logits"].numpy())
        project = network.classifier.project
        project.bias.sub_(torch.from_numpy(mean)).mul_(factor)
        project.weight.mul_(factor)
        for name, buffer in network.named_buffers():
            if name == "prototypes":
                buffer.copy_(torch.rand_like(buffer))


def _confident_in_mindspore(network: Any, images: Any) -> None:
    import mindspore as ms

    mean, factor = _scale(network.set_train()(ms.Tensor(images))["logits"].asnumpy())
    project = network.classifier.project
    project.bias.set_data((project.bias - ms.Tensor(mean)) * factor)
    project.weight.set_data(project.weight * factor)


def _fill(bank: Any, framework: str) -> None:
    """Fill every queue of U2PL's bank."""
    import numpy as np

    if hasattr(bank, "capacities"):
        capacities, width = bank.capacities, bank.rows.shape[1]
        module = importlib.import_module(framework)
        convert = module.from_numpy if framework == "torch" else module.Tensor
    else:  # until November 2026: a tensor for every queue, in MindSpore an array
        capacities, width = [len(rows) for rows in bank.rows], bank.rows[0].shape[1]
        convert = importlib.import_module(framework).from_numpy if framework == "torch" else np.asarray
    rng = np.random.default_rng(0)
    for index, capacity in enumerate(capacities):
        bank.append(index, convert(rng.standard_normal((capacity, width), np.float32)))


def _memory(key: str) -> float:
    """Return this process's memory in MiB (Linux): now (``VmRSS``) or at its highest (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1]) / 1024


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    work = {"step": training_step, "evaluation": evaluation, "samples": samples, "batches": batches}
    serve(work[sys.argv[1]](*sys.argv[2:]), compared=sys.argv[1] in ("samples", "batches"))
