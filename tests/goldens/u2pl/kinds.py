"""The kinds of U2PL's golden files."""

from __future__ import annotations

from tests.goldens.kinds import NEUTRAL, Kind
from tests.goldens.u2pl import (
    ael as u2pl_ael,
)
from tests.goldens.u2pl import (
    contrastive as u2pl_contrastive,
)
from tests.goldens.u2pl import (
    data as u2pl_data,
)
from tests.goldens.u2pl import (
    files as u2pl_files,
)
from tests.goldens.u2pl import (
    losses as u2pl_losses,
)
from tests.goldens.u2pl import (
    networks as u2pl_networks,
)
from tests.goldens.u2pl import (
    steps as u2pl_steps,
)

KINDS = {
    "unsup_loss": Kind(u2pl_losses.unsup_loss),
    "ohem": Kind(u2pl_losses.ohem),
    "ce": Kind(u2pl_losses.ce),
    "onehot_rce": Kind(u2pl_losses.onehot_rce),
    "contra": Kind(u2pl_contrastive.contra),
    "queue": Kind(u2pl_contrastive.queue),
    "mix_cutmix": Kind(u2pl_data.mix_cutmix),
    "mix_cutout": Kind(u2pl_data.mix_cutout),
    "mix_classmix": Kind(u2pl_data.mix_classmix),
    "transform": Kind(u2pl_data.transform, NEUTRAL),
    "metric": Kind(u2pl_data.metric, NEUTRAL),
    "lr_poly": Kind(u2pl_data.lr_poly),
    "sliding": Kind(u2pl_data.sliding),
    "net": Kind(u2pl_networks.net, deep=True),
    "manifest": Kind(u2pl_networks.manifest),
    "train_step": Kind(u2pl_steps.train_step),
    "checkpoint_layout": Kind(u2pl_files.checkpoint_layout, ("torch",)),
    "edge_cases": Kind(u2pl_files.edge_cases),
    "ael_confidence": Kind(u2pl_ael.confidence),
    "ael_sample_from_bank": Kind(u2pl_ael.sample_from_bank, NEUTRAL),
    "ael_cutmix_mask": Kind(u2pl_ael.cutmix_mask, NEUTRAL),
    "ael_bank_update": Kind(u2pl_ael.bank_update),
    "ael_copy_paste": Kind(u2pl_ael.copy_paste, NEUTRAL),
    "ael_consistency": Kind(u2pl_ael.consistency),
    "ael_contra_conf_weight": Kind(u2pl_ael.contra_conf_weight),
}
