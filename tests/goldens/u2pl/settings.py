"""Our configuration of a training-step case, made from the authors' configuration in its ``.json``."""

from __future__ import annotations

from common.config.schema import CriterionConfig, ExperimentConfig, OptimizerConfig
from common.methods.u2pl.u2pl import ContrastiveSettings, U2PLSettings
from tests.builders import experiment


def experiment_of(document: dict) -> ExperimentConfig:
    """Return the experiment of a case; data set and network are stand-ins."""
    authors = document["config"]
    auxiliary = authors["net"].get("aux_loss")
    return experiment(
        authors["net"]["num_classes"],
        method(document),
        network={"representation": document["representation_width"], "auxiliary": auxiliary is not None},
        loader={name: document[name] for name in ("batch_labelled", "batch_unlabelled")},
        optimizer=optimizer(authors),
        criterion=criterion(authors),
        trainer={"epochs": authors["trainer"]["epochs"], "seed": 0, "device": "cpu"},
    )


def optimizer(authors: dict) -> OptimizerConfig:
    """The optimiser and its schedule; the authors multiply the heads' rate by 10 on VOC, by 1 elsewhere."""
    trainer = authors["trainer"]
    numbers = trainer["optimizer"]["kwargs"]
    return OptimizerConfig(
        lr=numbers["lr"],
        head_lr_times=10.0 if "pascal" in authors["dataset"]["type"] else 1.0,
        momentum=numbers["momentum"],
        weight_decay=numbers["weight_decay"],
        poly_power=trainer["lr_scheduler"]["kwargs"]["power"],
    )


def criterion(authors: dict) -> CriterionConfig:
    """Cross entropy or OHEM, and the weight of the auxiliary head."""
    aux_weight = authors["net"].get("aux_loss", {}).get("loss_weight", 0.0)
    if authors["criterion"]["type"] != "ohem":
        return CriterionConfig(type="ce", aux_weight=aux_weight)
    numbers = authors["criterion"]["kwargs"]
    return CriterionConfig(type="ohem", thresh=numbers["thresh"], min_kept=numbers["min_kept"], aux_weight=aux_weight)


def method(document: dict) -> U2PLSettings:
    """The preset ``authors`` with the case's numbers."""
    authors = document["config"]
    trainer = authors["trainer"]
    unsupervised = trainer["unsupervised"]
    return U2PLSettings(
        preset="authors",
        sup_only_epochs=trainer.get("sup_only_epoch", 1),
        drop_percent=float(unsupervised["drop_percent"]),
        unsup_weight=unsupervised.get("loss_weight", 1.0),
        mixing=unsupervised.get("apply_aug") or "none",
        ema_decay=authors["net"]["ema_decay"],
        contrastive=contrastive(document),
    )


def contrastive(document: dict) -> ContrastiveSettings:
    """The contrastive term; with several processes the authors' weight is divided by their number."""
    numbers = document["config"]["trainer"]["contrastive"]
    first, *others = document["queue_size"]
    return ContrastiveSettings(
        weight=numbers.get("loss_weight", 1.0) / document["world_size"],
        label_encoding="onehot" if document["proper_onehot"] else "auto",
        negative_high_entropy=numbers["negative_high_entropy"],
        low_rank=numbers["low_rank"],
        high_rank=numbers["high_rank"],
        anchor_threshold=numbers["current_class_threshold"],
        negative_threshold=float(numbers["current_class_negative_threshold"]),
        low_entropy_threshold=float(numbers["low_entropy_threshold"]),
        num_queries=numbers["num_queries"],
        num_negatives=numbers["num_negatives"],
        temperature=numbers["temperature"],
        queue_first=first,
        queue_other=others[0],
        anchor_ema=numbers.get("anchor_ema", False),
    )
