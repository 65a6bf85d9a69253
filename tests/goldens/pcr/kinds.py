"""The kinds of PCR's golden files (``golden/pcr/README.md``)."""

from __future__ import annotations

from tests.goldens.kinds import NEUTRAL, Kind
from tests.goldens.pcr import (
    data as pcr_data,
)
from tests.goldens.pcr import (
    losses as pcr_losses,
)
from tests.goldens.pcr import (
    networks as pcr_networks,
)
from tests.goldens.pcr import (
    prototypes as pcr_prototypes,
)
from tests.goldens.pcr import (
    steps as pcr_steps,
)

KINDS = {
    "prototype_predict": Kind(pcr_prototypes.predict),
    "patch_select": Kind(pcr_prototypes.patch_select),
    "proto_loss": Kind(pcr_prototypes.proto_loss),
    "kmeans": Kind(pcr_prototypes.kmeans_centres, NEUTRAL),
    "init_prototypes": Kind(pcr_prototypes.init_prototypes, NEUTRAL),
    "update_prototypes": Kind(pcr_prototypes.update_prototypes),
    "ohem": Kind(pcr_losses.ohem),
    "pseudo_label": Kind(pcr_losses.pseudo_label),
    "cutmix": Kind(pcr_data.cutmix),
    "cutmix_box": Kind(pcr_data.cutmix_box, NEUTRAL),
    "schedules": Kind(pcr_data.schedules, NEUTRAL),
    "resize_align_corners": Kind(pcr_data.resize_align_corners),
    "miou": Kind(pcr_data.miou, NEUTRAL),
    "sliding": Kind(pcr_data.sliding),
    "train_step": Kind(pcr_steps.train_step),
    "net": Kind(pcr_networks.net, deep=True),
    "manifest": Kind(pcr_networks.manifest),
    "network_framework_differences": Kind(pcr_networks.differences, deep=True),
}
