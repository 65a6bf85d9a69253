"""PCR in MindSpore; the PyTorch file of the same name mirrors this one.

    L = L_lin^l + omega * L_pro^l + lambda * (L_lin^u + omega * L_pro^u)

L_lin^l: cross entropy or OHEM of the labelled images (linear predictor). L_lin^u: cross entropy of the CutMix-ed unlabelled
images against the eval-mode teacher's labels of confidence >= tau. L_pro^l, L_pro^u: the same targets for the prototype
predictor (``mindspore_impl/methods/pcr/prototypes.py``) at one pixel of every cell of a grid. The prototypes follow the features of their
pixels by a moving average, the teacher follows the student.

Source: ``specs/pcr.md``; order of a step: section 4.3. The authors released no training program: section 10 lists what is
this project's choice, each a switch of ``common/methods/pcr/pcr.py``.

Labels, prototypes and whatever else carries no gradient are NumPy here. The networks run as compiled graphs, the losses
outside of them, the teacher outside of what is differentiated.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from common.arrays import Size
from common.config.schema import ExperimentConfig
from common.methods.interface import Batch, Clock, LabelledImages, check_finite
from common.methods.pcr.first_prototypes import first_prototypes, read_prototypes
from common.methods.pcr.pcr import Draws, StepDraws, check_crop
from mindspore_impl.checkpoint import load_network, network_tensors
from mindspore_impl.losses import IGNORE, cross_entropy, supervised_loss
from mindspore_impl.methods.pcr.prototypes import (
    pixel_features,
    pixel_labels,
    prototype_sums,
    updated_prototypes,
)
from mindspore_impl.mixing import mix
from mindspore_impl.networks.deeplab import forward
from mindspore_impl.networks.prototype_head import prototype_logits
from mindspore_impl.optimizer import Optimizer
from mindspore_impl.predictor import MindSporePredictor
from mindspore_impl.pseudo_labels import confident_labels, drop_unreliable, entropy, unsupervised_loss
from mindspore_impl.resize import resize
from mindspore_impl.session import Session
from mindspore_impl.teacher import RUNNING, update_buffers, update_teacher


def consistency_loss(logits: Tensor, labels: np.ndarray, denominator: str) -> Tensor:
    """Return the cross entropy of ``logits`` ``[N,K,...]``, summed over labelled pixels, over their number or that of ``all``."""
    loss = cross_entropy(logits, labels)
    return loss * float((labels != IGNORE).sum() / labels.size) if denominator == "all" else loss


class PCR:
    """Student with prototypes and EMA teacher; implements :class:`common.methods.interface.Method`."""

    def __init__(self, config: ExperimentConfig, session: Session) -> None:
        check_crop(config)
        self.config, self.session = config, session
        self.settings = config.method
        self.student = session.network("student")
        self.teacher = session.network("teacher")
        self.optimizer = Optimizer(self.student, config.optimizer)
        self.shape = tuple(self.student.prototype_grid().shape)
        self.pixels_won = np.zeros(self.shape[:2], np.int64)
        if self.settings.proto_init == "file":
            self.set_prototypes(read_prototypes(self.settings, self.shape))

    def before_epoch(self, clock: Clock, labelled: LabelledImages) -> list[str]:
        """Make the first prototypes when their epoch begins, from the eval-mode student's features (section 3.6)."""
        if self.settings.proto_init == "file" or clock.epoch != self.settings.proto_epoch:
            return []
        predictor = self.predictor("student")
        maps = ((predictor.features(image[None])[0], label) for image, label in labelled)
        prototypes, note = first_prototypes(self.settings, maps, self.shape, self.config.trainer.seed)
        self.set_prototypes(prototypes)
        return [note]

    def set_prototypes(self, prototypes: np.ndarray) -> None:
        """Give student and teacher these prototypes ``[K*M,C]``."""
        for network in (self.student, self.teacher):
            ops.assign(network.prototypes, self.session.tensor(prototypes))

    def step(self, batch: Batch, clock: Clock, draws: Draws | None = None) -> dict[str, float]:
        """Run one optimiser step and return the loss terms as they enter the sum (section 4.3)."""
        settings = self.settings
        images, labels = batch["labelled"]["image"], batch["labelled"]["label"]
        draws = draws or StepDraws(settings, self.config.trainer.seed, clock)
        target = None
        if settings.semi_supervised(clock):
            self._follow_student(clock)
            unlabelled = batch["unlabelled"]["image"]
            mixed, pseudo_label, confidence = self._mixed(unlabelled, labels.shape[1:], draws)
            images = np.concatenate([images, mixed])
            target = confident_labels(pseudo_label, confidence, settings.confidence_threshold)
        if settings.teacher_bn == "forward":
            teacher = self._train_pass("teacher", images, clock)["logits"][len(labels) :]
            if target is not None and settings.unsup_filter == "entropy_drop":
                uncertainty = entropy(ops.softmax(resize(teacher, labels.shape[1:]), 1))
                target, _ = drop_unreliable(uncertainty, pseudo_label, settings.percent_kept(clock))
        losses, upkeep = self._differentiate(images, labels, target, clock, draws)
        check_finite(losses, batch)
        self.optimizer.step(clock)
        self._move_prototypes(*upkeep)
        if target is not None:
            self._move_teacher(settings.teacher_decay(clock))
        return losses

    def _differentiate(
        self, images: np.ndarray, labels: np.ndarray, target: np.ndarray | None, clock: Clock, draws: Draws
    ) -> tuple[dict[str, float], tuple[np.ndarray, np.ndarray] | tuple[()]]:
        """Return the loss terms, gradients being kept, and what the prototypes' upkeep needs (nothing where there is none)."""
        settings, size, count, upkeep = self.settings, labels.shape[1:], len(labels), ()

        def terms() -> dict[str, Tensor]:
            nonlocal upkeep
            outputs = self._train_pass("student", images, clock)
            losses = {name: ms.Tensor(0.0, ms.float32) for name in ("sup", "sup_proto", "unsup", "unsup_proto")}
            losses["sup"] = self._supervised({name: value[:count] for name, value in outputs.items()}, labels)
            if target is not None:
                scores = resize(outputs["logits"][count:], size)
                losses["unsup"] = settings.unsup_weight * self._unsupervised(scores, target)
            if settings.with_prototypes(clock):
                weighted, upkeep = self._prototype_terms(outputs["features"], labels, target, draws.pixels(size))
                losses.update(weighted)
            return losses

        return self.optimizer.differentiate(terms), upkeep

    def _prototype_terms(
        self, features: Tensor, labels: np.ndarray, target: np.ndarray | None, pixels: np.ndarray
    ) -> tuple[dict[str, Tensor], tuple[np.ndarray, np.ndarray]]:
        """Return the weighted prototype losses, and sums and counts of every prototype's pixels."""
        settings, split = self.settings, len(labels) * len(pixels)
        rows = pixel_features(features, pixels, labels.shape[1:])
        logits, match = prototype_logits(rows, self.student.prototype_grid(), *self.student.prototype_rule)
        selected = pixel_labels(labels if target is None else np.concatenate([labels, target]), pixels)
        losses = {}
        if settings.proto_sup:
            losses["sup_proto"] = settings.proto_weight * cross_entropy(logits[:split], selected[:split])
        if target is not None:
            weight = settings.unsup_weight * settings.proto_weight
            losses["unsup_proto"] = weight * self._unsupervised(logits[split:], selected[split:])
        return losses, prototype_sums(rows, selected, match, self.shape[:2])

    def _unsupervised(self, logits: Tensor, target: np.ndarray) -> Tensor:
        if self.settings.unsup_filter == "entropy_drop":
            return unsupervised_loss(logits, target)
        return consistency_loss(logits, target, self.settings.unsup_denominator)

    def _supervised(self, outputs: dict[str, Tensor], labels: np.ndarray) -> Tensor:
        size = labels.shape[1:]
        aux = resize(outputs["aux"], size) if "aux" in outputs else None
        return supervised_loss(self.config.criterion, resize(outputs["logits"], size), labels, aux)

    def _train_pass(self, role: str, images: np.ndarray, clock: Clock) -> dict[str, Tensor]:
        network = getattr(self, role).set_train()
        return forward(
            network,
            self.session.tensor(images),
            self.session.masks(network, role, clock, len(images), images.shape[2:]),
        )

    def _mixed(self, images: np.ndarray, size: Size, draws: Draws) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return unlabelled images, the eval-mode teacher's labels and their confidence, mixed if this step mixes."""
        logits = forward(self.teacher.set_train(False), self.session.tensor(images))["logits"]
        probabilities = ops.softmax(resize(logits, size), 1).asnumpy()
        parts = images, probabilities.argmax(1).astype(np.uint8), probabilities.max(1)
        masks = draws.mix_masks(len(images), size)
        if masks is None:
            return parts
        return tuple(mix(part, masks, "partner") for part in parts)

    def _move_prototypes(self, sums: np.ndarray | None = None, counts: np.ndarray | None = None) -> None:
        """Upkeep after the step, which itself has seen the old prototypes (section 3.6)."""
        if sums is None or not self.settings.proto_update:
            return
        moved = updated_prototypes(self.student.prototype_grid(), sums, counts, self.settings.proto_momentum)
        ops.assign(self.student.prototypes, self.session.tensor(moved.reshape(self.student.prototypes.shape)))
        self.pixels_won += counts

    def _follow_student(self, clock: Clock) -> None:
        """Copy the student into the teacher where the first semi-supervised epoch asks for it (section 4.2)."""
        if self.settings.copies_student(clock):
            update_teacher(self.teacher, self.student, 0.0)
            update_buffers(self.teacher, self.student, 0.0, ("prototypes", *RUNNING))

    def _move_teacher(self, decay: float) -> None:
        update_teacher(self.teacher, self.student, decay)
        update_buffers(self.teacher, self.student, decay, ("prototypes",))
        if self.settings.teacher_bn != "forward":
            update_buffers(self.teacher, self.student, decay if self.settings.teacher_bn == "ema" else 0.0, RUNNING)

    def networks(self) -> dict[str, dict[str, np.ndarray]]:
        """Return the tensors of student and teacher, prototypes included."""
        return {"student": network_tensors(self.student), "teacher": network_tensors(self.teacher)}

    def state(self) -> dict[str, np.ndarray]:
        """Return momenta and how many pixels every prototype has won so far."""
        return self.optimizer.state() | {"prototypes.pixels": self.pixels_won.copy()}

    def restore(self, networks: dict[str, dict[str, np.ndarray]], state: dict[str, np.ndarray]) -> None:
        """Take back a saved run."""
        load_network(self.student, networks["student"], "student")
        load_network(self.teacher, networks["teacher"], "teacher")
        self.optimizer.restore(state)
        self.pixels_won = state["prototypes.pixels"].copy()

    def evaluated(self, clock: Clock) -> str:
        """The student during warm-up, the teacher from then on (section 7)."""
        return "teacher" if self.settings.semi_supervised(clock) else "student"

    def predictor(self, role: str) -> MindSporePredictor:
        """Return a predictor over the live network of ``role``."""
        return MindSporePredictor(getattr(self, role), self.session.device, self.config.evaluation.head)
