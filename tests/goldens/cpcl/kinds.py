"""The kinds of CPCL's and CPS's golden files."""

from __future__ import annotations

from tests.goldens.cpcl import (
    data as cpcl_data,
)
from tests.goldens.cpcl import (
    losses as cpcl_losses,
)
from tests.goldens.cpcl import (
    networks as cpcl_networks,
)
from tests.goldens.cpcl import (
    steps as cpcl_steps,
)
from tests.goldens.kinds import NEUTRAL, Kind

KINDS = {
    "step": Kind(cpcl_losses.step),
    "cps": Kind(cpcl_losses.cps),
    "ohem": Kind(cpcl_losses.ohem),
    "cutmix": Kind(cpcl_data.cutmix, NEUTRAL),
    "augment": Kind(cpcl_data.augment, NEUTRAL),
    "metric": Kind(cpcl_data.metric, NEUTRAL),
    "lr_schedule": Kind(cpcl_data.lr_schedule),
    "repeat_files": Kind(cpcl_data.repeat_files, NEUTRAL),
    "slide": Kind(cpcl_data.slide),
    "param_groups": Kind(cpcl_networks.param_groups),
    "network_manifest": Kind(cpcl_networks.manifest),
    "network_logits": Kind(cpcl_networks.logits, deep=True),
    "train_loop_tiny": Kind(cpcl_steps.train_loop_tiny),
    "train_step": Kind(cpcl_steps.train_step, deep=True),
}
