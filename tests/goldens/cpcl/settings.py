"""Our configuration of what CPCL's golden files say about themselves."""

from __future__ import annotations

import dataclasses

from common.config.schema import CriterionConfig, ExperimentConfig, OptimizerConfig
from common.experiment import compose
from common.methods.cpcl.cpcl import CPCLSettings
from common.methods.cpcl.cps import CPSSettings
from tests.goldens.golden import Golden

THRESHOLD = 0.7
"""OHEM's threshold where a file does not name it."""


def numbered(config: ExperimentConfig, classes: int) -> ExperimentConfig:
    """Return ``config`` with another number of classes."""
    names = tuple(f"class {index}" for index in range(classes))
    return dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, classes=names))


def criterion(golden: Golden, weighted: bool) -> CriterionConfig:
    """Return the supervised loss of a file: OHEM where it names the number of kept pixels; ``weighted``: by class, too."""
    if "ohem_min_kept" not in golden:
        return CriterionConfig()
    weights = compose("cityscapes/372/cpcl").criterion.class_weights if weighted else ()
    threshold = golden.number("ohem_thresh") if "ohem_thresh" in golden else THRESHOLD
    return CriterionConfig(
        type="ohem", thresh=threshold, min_kept=golden.number("ohem_min_kept"), class_weights=weights
    )


def cpcl_settings(golden: Golden) -> CPCLSettings:
    """Return the settings of one step's losses: the version of 2022 by the file's name, Cityscapes by OHEM."""
    return CPCLSettings(
        variant="legacy_2022" if golden.name.startswith("legacy2022") else "head",
        legacy_divisor="all" if "ohem_min_kept" in golden else "kept",
        unsup_weight=golden.number("unsup_weight"),
    )


def training(golden: Golden) -> ExperimentConfig:
    """Return the experiment of a file with training iterations."""
    if "config_cps_weight" in golden:
        # Frugal, because MindSpore always is; that PyTorch's fast form gives the same is a test of its own.
        method = CPSSettings(cutmix="mask" in golden, unsup_weight=golden.number("config_cps_weight"), memory="frugal")
    else:
        method = CPCLSettings(unsup_weight=golden.number("config_unsup_weight"))
    config = numbered(compose("shapes/12/cpcl"), golden.number("num_classes"))
    return dataclasses.replace(
        config,
        method=method,
        criterion=criterion(golden, weighted=method.name == "cpcl"),
        optimizer=OptimizerConfig(
            lr=golden.number("config_lr"), head_lr_times=1, weight_decay=1e-4, decay_on="kernels"
        ),
    )
