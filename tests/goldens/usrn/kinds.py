"""The kinds of USRN's golden files."""

from __future__ import annotations

from tests.goldens.kinds import NEUTRAL, Kind
from tests.goldens.usrn import (
    data as usrn_data,
)
from tests.goldens.usrn import (
    networks as usrn_networks,
)
from tests.goldens.usrn import (
    settings as usrn_settings,
)
from tests.goldens.usrn import (
    steps as usrn_steps,
)
from tests.goldens.usrn import (
    train_step as usrn_train_step,
)

KINDS = {
    "augment_labelled": Kind(usrn_data.augment_labelled, NEUTRAL),
    "augment_unlabelled": Kind(usrn_data.augment_unlabelled, NEUTRAL),
    "blur": Kind(usrn_data.blurred, NEUTRAL),
    "quantise": Kind(usrn_data.quantised, NEUTRAL),
    "saved_features": Kind(usrn_data.saved_features),
    "balanced_kmeans": Kind(usrn_data.clustered, NEUTRAL),
    "subclass_labels": Kind(usrn_data.subclass_labels, NEUTRAL),
    "metrics": Kind(usrn_data.metrics, NEUTRAL),
    "validation": Kind(usrn_data.validation),
    "mapping": Kind(usrn_settings.mapping, NEUTRAL),
    "palettes": Kind(usrn_settings.palettes, NEUTRAL),
    "poly_lr": Kind(usrn_settings.poly_lr),
    "derived_schedule": Kind(usrn_settings.derived_schedule, NEUTRAL),
    "entropy": Kind(usrn_steps.entropy),
    "step": Kind(usrn_steps.step),
    "train_step": Kind(usrn_train_step.train_step, deep=True),
    "net": Kind(usrn_networks.net, deep=True),
    "manifest": Kind(usrn_networks.manifest),
    "test_loading": Kind(usrn_networks.test_loading, deep=True),
}
