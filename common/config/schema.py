"""The configuration of one experiment: typed dataclasses, every default visible.

``common/experiment.py`` composes them from ``configs/``; ``config.yaml`` of a run folder holds the resolved form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from common.config.loaders import LoaderConfig
from common.config.strict import ranged

MOST_SUBCLASSES = 254
"""Subclass ids are stored in 8 bits beside 255 = ignore."""


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """What the labels of a data set mean; a subclass says where its images are.

    ``image_suffix`` is what a list may write behind an id.
    """

    chosen_by: ClassVar[str] = "layout"
    image_suffix: ClassVar[str] = ".jpg"

    name: str
    layout: str
    classes: tuple[str, ...]
    palette: Literal["voc", "cityscapes", "camvid"] = "voc"

    def __post_init__(self) -> None:
        if not 2 <= len(self.classes) <= 254:
            raise ValueError(
                f"{len(self.classes)} classes; between 2 and 254 are possible (labels are 8-bit, 255 is ignore)"
            )
        for place, name in enumerate(self.classes):
            if name in self.classes[:place]:
                raise ValueError(
                    f"classes {self.classes.index(name)} and {place} are both called {name!r}; names must differ, because "
                    "results are kept by name"
                )


@dataclass(frozen=True, kw_only=True)
class FileDatasetConfig(DatasetConfig):
    """A data set of files; where they lie is told in ``common/datasets/layouts.py``.

    ``root`` is relative to the data root (environment variable ``DATA_ROOT``, else ``data/``) unless absolute. Lists are
    relative to ``root``; in Cityscapes' layouts an empty one stands for ``train.txt`` or ``val.txt``, or without such a
    file for the images in the folder. ``label_encoding``: ``index`` (the pixel is the class), ``cityscapes_ids``
    (official ids are mapped to train ids), ``auto`` (as the file's name says). ``label_shift`` is the value of the first
    class in labels whose values below it mean nothing: with 1, 0 is ignored and 1 is class 0. A label value of
    ``ignore_index`` is ignored, too; a class that has this value has no pixels and no part in any mean. ``cache`` is a folder
    for decoded images (``common/datasets/decoded_cache.py``), relative to the data root; empty: none. A picture of more than
    ``max_pixels`` is refused.
    """

    root: str = ""
    ignore_index: int = 255
    label_shift: int = ranged(0, low=0, high=254)
    label_encoding: Literal["index", "cityscapes_ids", "auto"] = "index"
    train_list: str = ""
    val_list: str = ""
    cache: str = ""
    max_pixels: int = ranged(178_956_970, low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_shift and self.label_encoding != "index":
            raise ValueError(f"label_shift = {self.label_shift} belongs to label_encoding: index")
        if self.label_shift + len(self.classes) > 255:
            raise ValueError(
                f"label_shift = {self.label_shift} and {len(self.classes)} classes go beyond the value 254"
            )


@dataclass(frozen=True, kw_only=True)
class Folders(FileDatasetConfig):
    """One folder of images and one of labels; a label that is not in ``label_dir`` is looked for in ``extra_label_dir``."""

    layout: Literal["voc", "folders"]
    image_dir: str = "JPEGImages"
    label_dir: str = "SegmentationClass"
    image_suffix: str = ".jpg"
    label_suffix: str = ".png"
    extra_label_dir: str = ""


@dataclass(frozen=True, kw_only=True)
class FixedFolders(FileDatasetConfig):
    """Folders whose names are those of a download: Cityscapes' own, or the rearranged copies of CPS and USRN."""

    layout: Literal["cityscapes", "cityscapes_cps", "cityscapes_usrn", "voc_cps"]


@dataclass(frozen=True, kw_only=True)
class DrawnShapes(DatasetConfig):
    """``images`` (training, validation) of ``size`` pixels a side, drawn from ``seed`` (``common/datasets/shapes.py``)."""

    layout: Literal["shapes"] = "shapes"
    size: int = ranged(64, low=16)
    images: tuple[int, int] = ranged((0, 0), low=0)
    seed: int = ranged(0, low=0)


Layout = Folders | FixedFolders | DrawnShapes
"""What ``dataset.layout`` chooses from."""


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Which training images are labelled: an id of the registry ``configs/splits.yaml`` under the data set's name.

    ``unlabelled``: the rest of the training list, or all of it, labelled images included (CPS and CPCL).
    """

    id: str
    folder: str = "splits"
    unlabelled: Literal["rest", "all"] = "rest"


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """One encoder and one DeepLabv3+ decoder with the options of all five methods' networks.

    ``multi_grid`` multiplies the dilation of the last stage's blocks; empty means the usual rule (first block keeps the
    dilation of the stage before). ``head_dropout`` is the channel dropout after the two 3x3 convolutions of a
    prediction head. ``stages`` 3 stops after layer3 (output stride 16). ``prototypes`` is PCR's number of prototypes per
    class, ``prototype_norm`` whose rule normalises a tiny feature there, ``prototype_temperature`` what divides cosines.
    """

    heads: ClassVar[tuple[str, ...]] = ("representation", "auxiliary", "subclasses", "prototypes")
    """Options that add a head, which only some methods train."""

    encoder: Literal["resnet18", "resnet50", "resnet101", "tiny"]
    stem: Literal["conv7", "deep"] = "conv7"
    stem_pool: Literal["floor", "ceil", "same"] = "floor"
    stages: Literal[3, 4] = 4
    output_stride: Literal[8, 16] = 16
    multi_grid: tuple[int, ...] = ranged((), low=1)
    zero_init_residual: bool = False
    width: int = ranged(256, low=1)
    aspp: Literal["concat", "sum"] = "concat"
    aspp_dilations: tuple[int, ...] = ranged((6, 12, 18), low=1)
    aspp_pool_position: Literal["first", "last"] = "last"
    aspp_merge_kernel: Literal[1, 3] = 1
    aspp_dropout: float = ranged(0.0, low=0.0, high=0.99)
    aspp_dropout_kind: Literal["channel", "element"] = "channel"
    low_level_channels: int = ranged(48, low=1)
    low_level_bias: bool = False
    fuse_order: Literal["low_first", "high_first"] = "high_first"
    head_bias: bool = False
    head_dropout: tuple[float, float] = ranged((0.0, 0.0), low=0.0, high=0.99)
    head_dropout_kind: Literal["channel", "element"] = "channel"
    decoder_init: Literal["torch_default", "kaiming_fan_in"] = "torch_default"
    representation: int = ranged(0, low=0)
    auxiliary: bool = False
    subclasses: int = ranged(0, low=0)
    backbone_weights: str | None = None
    prototypes: int = ranged(0, low=0)
    prototype_norm: Literal["torch", "mindspore"] = "torch"
    prototype_temperature: float = ranged(0.1, low=1e-6)

    def __post_init__(self) -> None:
        if self.encoder == "tiny" and self.backbone_weights:
            raise ValueError("the tiny encoder knows no backbone_weights; choose a ResNet")
        if self.subclasses > MOST_SUBCLASSES:
            raise ValueError(f"subclasses = {self.subclasses}: at most {MOST_SUBCLASSES} fit into 8-bit label images")
        if self.multi_grid and len(self.multi_grid) != (2 if self.encoder == "resnet18" else 3):
            raise ValueError(f"multi_grid = {list(self.multi_grid)} needs one multiplier per block of the last stage")


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """What the input of a network is made with: mean and standard deviation per channel of RGB pixels in 0..255."""

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = ranged((58.395, 57.12, 57.375), low=1e-6)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Normalisation):
    """What every augmentation has: a square of ``crop`` pixels a side, mirrored with the probability ``flip``.

    A method's settings name the class of its augmentation, which is the pipeline of its streams, too.
    """

    crop: int = ranged(321, low=8)
    flip: float = ranged(0.5, low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """SGD or AdamW with weight decay; the heads learn ``head_lr_times`` faster than the encoder; poly schedule.

    ``type: adamw`` has ``momentum`` as its first beta, 0.999 as the second, 1e-8 as epsilon; its weight decay is that of the weights
    themselves (Loshchilov and Hutter 2019), so 0.01 is a usual value.
    ``decay_on``: all parameters decay, or ``kernels`` only (no BatchNorm, no bias). ``warmup``: iterations during which
    the rate rises linearly from 0. ``poly_lag`` delays the schedule by so many steps; UniMatch and UCCL set the rate after a
    step, for the next one: 1.
    """

    type: Literal["sgd", "adamw"] = "sgd"
    lr: float = ranged(0.001, low=0.0)
    head_lr_times: float = ranged(10.0, low=0.0)
    momentum: float = ranged(0.9, low=0.0, high=1.0)
    weight_decay: float = ranged(1e-4, low=0.0)
    poly_power: float = ranged(0.9, low=0.0)
    decay_on: Literal["all", "kernels"] = "all"
    warmup: int = ranged(0, low=0)
    poly_lag: int = ranged(0, low=0)


@dataclass(frozen=True, kw_only=True)
class CountedSteps(OptimizerConfig):
    """A schedule that may count as USRN's program does, which takes an epoch for ``counted_steps`` steps."""

    lr_counter: Literal["true_steps", "authors"] = "true_steps"
    counted_steps: int | None = ranged(None, low=1)

    def __post_init__(self) -> None:
        if self.lr_counter == "authors" and self.counted_steps is None:
            raise ValueError("lr_counter authors needs optimizer.counted_steps, the steps an epoch is taken for")


@dataclass(frozen=True, kw_only=True)
class CriterionConfig:
    """Supervised loss: cross entropy, or OHEM with threshold and number of kept pixels per process batch.

    ``min_kept_per_image`` times the batch takes the place of ``min_kept`` unless 0. ``class_weights`` (empty: none) makes
    the loss a weighted mean over the kept pixels (CPCL on Cityscapes).
    """

    type: Literal["ce", "ohem"] = "ce"
    thresh: float = ranged(0.7, low=0.0, high=1.0)
    min_kept: int = ranged(100_000, low=0)
    aux_weight: float = ranged(0.4, low=0.0)
    min_kept_per_image: int = ranged(0, low=0)
    class_weights: tuple[float, ...] = ranged((), low=0.0)


Precision = Literal["float32", "bf16", "fp16"]
"""Number formats of a network: bfloat16 has the range of float32, float16 needs a scaled loss."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Length of a run and when it reports. ``iterations_per_epoch`` null: from the lists and batch sizes.

    ``precision``: in which the networks compute in training; losses, statistics, weights and evaluation stay float32.
    ``channels_last``, ``compile``: another order of the values in memory, a compiled network (both PyTorch only).
    ``recompute``: of the encoder's results only those of its stages stay in memory for the backward pass, which computes the
    others once more (PyTorch only). ``accumulate``: so many batches make one step of the optimiser (:class:`Optimizer`).
    ``groups``: in how many equal groups a batch falls, whose losses are averaged (``common/methods/groups.py``); null: as many as there
    are processes when the run starts.

    ``snapshot_every`` keeps the networks of epochs that it divides (``snapshots/epoch-N``, N from 0), but not of the first
    epochs, up to the one with number ``epochs // snapshot_after_part`` (0: of no epoch is that true), and always of the last.
    ``health_images``: so many unlabelled images show at each evaluation how often the network's labels for them are right, where
    their labels exist; training never sees those.
    """

    epochs: int = ranged(80, low=1)
    iterations_per_epoch: int | None = ranged(None, low=1)
    seed: int = ranged(1, low=0)
    groups: int | None = ranged(None, low=1)
    log_every: int = ranged(20, low=1)
    evaluate_every: int = ranged(1, low=1)
    save_every: int = ranged(1, low=1)
    threads: int | None = ranged(None, low=1)
    device: str = "auto"
    deterministic_dropout: bool = False
    pictures: int = ranged(4, low=0)
    health_images: int = ranged(8, low=0)
    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False
    recompute: bool = False
    accumulate: int = ranged(1, low=1)
    snapshot_every: int | None = ranged(None, low=1)
    snapshot_after_part: int = ranged(0, low=0)


Accumulate = Literal["mean_logits", "sum_logits", "sum_softmax"]
"""How overlapping windows are joined: averaged logits (U2PL), summed logits (CPCL), summed probabilities (UCCL)."""


Head = Literal["linear", "prototype"]
"""Whose logits count: the classifier's, or those of PCR's prototypes (networks with ``network.prototypes``)."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What every protocol of ``common/prediction/protocols.py`` has; ``protocol`` names it.

    ``branch`` says which network of a method with two is judged, or the mean of both soft maxima. ``head`` is the
    predictor that is evaluated. ``absent_class``: what a class without any pixel counts in the mean.
    """

    chosen_by: ClassVar[str] = "protocol"

    protocol: str
    absent_class: Literal["zero", "skip"] = "zero"
    branch: Literal[1, 2, "mean"] = 1
    head: Head = "linear"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the authors state: command, hardware and score, for the log and the README."""

    command: str = ""
    hardware: str = ""
    published_miou: float | None = None
    source: str = ""
    total_batch: str = ""


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Everything that defines a run.

    ``method`` is the settings dataclass of ``common/methods/NAME.py``; it names the classes of ``augment``, ``loader`` and
    ``optimizer``. Those of ``dataset`` and ``evaluation`` are chosen by ``dataset.layout`` and ``evaluation.protocol``.
    """

    name: str
    dataset: DatasetConfig
    split: SplitConfig
    network: NetworkConfig
    augment: AugmentConfig
    loader: LoaderConfig
    optimizer: OptimizerConfig
    criterion: CriterionConfig
    trainer: TrainerConfig
    evaluation: EvaluationConfig
    reference: Reference
    method: Any

    def __post_init__(self) -> None:
        if self.method is not None:
            self.method.check(self.network)
            if self.evaluation.branch != 1 and self.method.branches == 1:
                raise ValueError(
                    f"evaluation.branch = {self.evaluation.branch}: method {self.method.name} trains one network; leave it out"
                )
        weights, classes = len(self.criterion.class_weights), len(self.dataset.classes)
        if weights not in (0, classes):
            raise ValueError(
                f"criterion.class_weights has {weights} entries but data set {self.dataset.name} has {classes} classes"
            )
        if self.evaluation.head == "prototype" and not self.network.prototypes:
            raise ValueError(
                "evaluation.head=prototype needs a network with prototypes (network.prototypes, method pcr)"
            )

    def streams(self) -> tuple[Any, ...]:
        """Return the streams that the method draws from (:class:`common.methods.interface.Stream`)."""
        return self.method.streams(self.augment)

    @property
    def normalisation(self) -> Normalisation:
        """How images are normalised: ``augment.mean`` and ``augment.std``."""
        return self.augment
