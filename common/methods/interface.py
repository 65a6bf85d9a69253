"""What a training method is to the rest of the project: the streams it reads, the clock it is told, what it must save.

Each method has one settings dataclass and its host-side draws in ``common/methods/NAME.py`` or ``FAMILY/NAME.py``, and one class
in the file of the same place in ``torch_impl/methods`` and ``mindspore_impl/methods``, with the interface of :class:`Method`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from common.arrays import Size
from common.config.loaders import BothLists, LoaderConfig
from common.config.schema import AugmentConfig, ExperimentConfig, NetworkConfig, Normalisation, OptimizerConfig
from common.datasets.file_dataset import Dataset
from common.images.normalise import planes
from common.methods.groups import Groups

if TYPE_CHECKING:
    from common.splits.split import Split

StreamBatch = dict[str, Any]
"""One stream's part of a batch: ``ids`` (list of image ids) and one array per view and label.

Images float32 ``[B,3,S,S]``, or 8-bit ones uint8 ``[B,S,S,3]`` where the device normalises them, under their view's name (``image``
for a single view), labels uint8 ``[B,S,S]`` (255 = ignore)
under ``label`` (and further names, e.g. ``subclass``).
"""
Batch = dict[str, StreamBatch]

LabelledImages = Iterable[tuple[np.ndarray, np.ndarray]]
"""The labelled images one by one, whole, normalised and not augmented, float32 ``[3,H,W]``, with labels uint8 ``[H,W]``."""


Labels = Mapping[str, np.ndarray]
"""Label images uint8 ``[H,W]`` by name; all of them follow the geometry of the image."""


class LabelSource(Protocol):
    """Where label images come from. Worker processes get it pickled."""

    def label(self, dataset: Dataset, image_id: str, size: Size) -> np.ndarray:
        """Return the label image of an image of ``dataset``, uint8 ``[H,W]``; ``size`` is that of the image."""


@dataclass(frozen=True)
class OwnLabels:
    """The data set's own label images."""

    def label(self, dataset: Dataset, image_id: str, size: Size) -> np.ndarray:
        """See :class:`LabelSource`."""
        return dataset.label(image_id)


OWN_LABEL: Mapping[str, LabelSource] = {"label": OwnLabels()}
"""The labels of a stream of labelled images."""


class Pipeline(Protocol):
    """An augmentation: from a decoded image and its label images to the arrays of one training sample.

    It is split into drawing (random numbers only) and applying (no randomness), so that recorded draws can be replayed. Worker
    processes get it pickled.
    """

    crop: int

    def __call__(self, image: np.ndarray, labels: Labels, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return the arrays of one sample of an image uint8 RGB ``[H,W,3]``: squares of ``crop`` pixels a side."""


class EightBit:
    """An augmentation that computes on 8-bit pictures and normalises them last, by its ``normalisation``.

    Where the device normalises, batches hold the pictures: a quarter of the bytes.
    """

    normalisation: Normalisation

    def pictures(self, image: np.ndarray, labels: Labels, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return the arrays of one sample, its views as uint8 ``[S,S,3]``."""
        raise NotImplementedError

    def __call__(self, image: np.ndarray, labels: Labels, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return the arrays of one sample, its views normalised, float32 ``[3,S,S]``."""
        sample = self.pictures(image, labels, rng)
        return {name: planes(array, self.normalisation) if array.ndim == 3 else array for name, array in sample.items()}


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One sequence of samples a method draws from in every step.

    ``source`` is the list it reads (``labelled`` or ``unlabelled``), ``pipeline`` its augmentation, ``labels`` the
    sources of the label images that go through the same geometry, by name. ``order``: one permutation of the list after the
    other, or each image drawn uniformly. ``one_of``: of so many consecutive images one, drawn at random, is prepared.
    ``probability``: so likely is each image prepared at all; the others have the id ``""`` and are all zeros. ``follows`` names a
    stream whose shuffled order this one takes: with entry i of that list comes entry i modulo the length of this one's list, in every epoch
    (UniMatch's two loaders). A list that is longer than that one is shuffled by itself.
    """

    name: str
    source: str
    pipeline: Pipeline
    labels: Mapping[str, LabelSource] = field(default_factory=dict)
    order: Literal["permuted", "uniform"] = "permuted"
    one_of: int = 1
    probability: float = 1.0
    follows: str = ""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Where a run stands. ``iteration`` counts optimiser steps from 0 over the whole run."""

    epoch: int
    step: int
    iteration: int
    epochs: int
    iterations_per_epoch: int

    @property
    def total(self) -> int:
        """Number of iterations of the whole run."""
        return self.epochs * self.iterations_per_epoch


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """A method's settings: a subclass has a default for ``name`` and says what is not as it is here.

    ``augment``, ``loader`` and ``optimizer`` are the classes of those sections: an option belongs to who reads it. ``heads``:
    which heads of a network (:attr:`NetworkConfig.heads`) the method trains besides the class head. ``presets``: the values of the
    method's switches by preset (:mod:`common.methods.presets`); settings with presets have the field ``preset``.
    ``branches``: how many networks ``evaluation.branch`` chooses from. ``passed_alone``: the lists whose images pass through a
    network without others, so that a batch of one image would leave BatchNorm without a variance.
    """

    augment: ClassVar[type[AugmentConfig]]
    loader: ClassVar[type[LoaderConfig]] = BothLists
    optimizer: ClassVar[type[OptimizerConfig]] = OptimizerConfig
    heads: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    branches: ClassVar[int] = 1
    passed_alone: ClassVar[tuple[str, ...]] = ()

    name: str

    def streams(self, augment: AugmentConfig) -> tuple[Stream, ...]:
        """Return the streams a step draws from; ``augment`` is of the class that the settings name."""
        raise NotImplementedError

    def check(self, network: NetworkConfig) -> None:
        """Raise :class:`ValueError` if the method cannot train this network."""

    def warnings(self, classes: int) -> list[str]:
        """Return one line for every setting that is probably not meant with this number of classes."""
        return []

    def steps_per_epoch(self, labelled: int, batch: int, groups: int = 1) -> int | None:
        """Return the steps of an epoch for a list of ``labelled`` images and batches of ``batch``; None: the loader's rule.

        It holds where ``trainer.iterations_per_epoch`` is not set.
        """
        return None

    def round_steps(self, labelled: int, batch: int, groups: int = 1) -> int:
        """Return the steps of one pass over the labelled list, after which ``loader.labelled_replay`` matters."""
        return labelled // batch

    def complete(self, config: ExperimentConfig, split: Split, framework: str) -> ExperimentConfig:
        """Return ``config`` with what the files of an earlier stage say.

        Raises :class:`common.errors.UserError` if they do not fit.
        """
        return config


class Processes(Protocol):
    """The processes of a run as the training loop sees them; a single one without a launcher.

    ``index`` from 0, of ``count``. ``asked``: whether this process was asked to stop; ``stopping``: whether any of them was,
    as the last step or :meth:`totals` has found out, the same in all.
    """

    index: int
    count: int
    groups: Groups
    asked: bool
    stopping: bool

    def totals(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the sums over all processes by name, and learn whether any was asked to stop."""

    def sum_counts(self, counts: np.ndarray) -> np.ndarray:
        """Return the sum over all processes of whole numbers, int64 of any shape."""

    def wait(self) -> None:
        """Wait until all processes have come here."""


class Method(Protocol):
    """A training method in one framework. Arrays cross this interface as NumPy arrays.

    ``eight_bit``: whether its batches hold 8-bit pictures (:class:`EightBit`).
    """

    eight_bit: bool

    def batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Return the batches of an epoch as :meth:`step` takes them best: on a GPU they are there before their step begins."""

    processes: Processes

    def step(self, batch: Batch, clock: Clock) -> dict[str, float]:
        """Run one optimiser step and return the loss terms, those of the whole batch.

        Raises :class:`NonFiniteLoss` before the optimiser steps.
        """

    def before_epoch(self, clock: Clock, labelled: LabelledImages) -> list[str]:
        """Look at the labelled images before the first step of an epoch, whose clock this is; return notes for the log.

        It comes ahead of the evaluation that ends the epoch before.
        """

    def networks(self) -> dict[str, dict[str, np.ndarray]]:
        """Return every network's tensors by role (``student``, ``teacher``, ``branch1``...), neutral names."""

    def state(self) -> dict[str, np.ndarray]:
        """Return everything else that must be saved to continue exactly: momenta, banks, prototypes, counters."""

    def restore(self, networks: dict[str, dict[str, np.ndarray]], state: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`networks` and :meth:`state` returned."""

    def evaluated(self, clock: Clock) -> str:
        """Return the role of the network that is validated and deployed at this point of the run."""

    def predictor(self, role: str):
        """Return a :class:`common.prediction.predictor.Predictor` over the live network of ``role``."""


class NonFiniteLoss(Exception):
    """A loss term is NaN or infinite; the optimiser has not stepped (running statistics and banks may have moved)."""


def not_finite(losses: Mapping[str, float], batch: Batch = MappingProxyType({})) -> str:
    """Return which terms are not finite, with the images of the batch; nothing where every loss is finite."""
    bad = [name for name, value in losses.items() if not np.isfinite(value)]
    images = "; ".join(f"{name}: {', '.join(part['ids'])}" for name, part in batch.items())
    return f"loss {', '.join(bad)} is not finite; images of the batch: {images}" if bad else ""


def summed(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the sum of loss terms by name, ``loss`` at the end; each part has its terms and their sum ``loss``."""
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    loss = total.pop("loss")
    return total | {"loss": loss}
