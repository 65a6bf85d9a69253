"""The kinds of UCCL's, FixMatch's and UniMatch's golden files."""

from __future__ import annotations

from tests.goldens.kinds import NEUTRAL, Kind
from tests.goldens.uccl import (
    data as uccl_data,
)
from tests.goldens.uccl import (
    losses as uccl_losses,
)
from tests.goldens.uccl import (
    networks as uccl_networks,
)
from tests.goldens.uccl import (
    steps as uccl_steps,
)

KINDS = {
    "ckr_region": Kind(uccl_losses.ckr_region),
    "ckr_loss": Kind(uccl_losses.ckr_loss),
    "sbu": Kind(uccl_losses.sbu),
    "ohem": Kind(uccl_losses.ohem),
    "ignore_resize": Kind(uccl_data.ignore_resize),
    "lr_schedule": Kind(uccl_data.lr_schedule),
    "evaluate": Kind(uccl_data.evaluate),
    "cutmix_boxes": Kind(uccl_data.cutmix_boxes, NEUTRAL),
    "sample_train": Kind(uccl_data.sample, NEUTRAL),
    "colour_ops": Kind(uccl_data.colour_ops, NEUTRAL),
    "intersection_union": Kind(uccl_data.intersection_union, NEUTRAL),
    "step": Kind(uccl_steps.step),
    "network": Kind(uccl_networks.network, deep=True),
    "manifest": Kind(uccl_networks.manifest),
    "full_step": Kind(uccl_networks.full_step, deep=True),
}
