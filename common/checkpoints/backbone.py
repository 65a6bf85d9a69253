"""Pretrained encoders from a file."""

from __future__ import annotations

import numpy as np

from common.checkpoints.checkpoint import read
from common.config.schema import NetworkConfig
from common.errors import UserError
from common.networks.initial import twin
from common.networks.tensors import Tensors
from common.paths import weights_path


def load_backbone(tensors: Tensors, config: NetworkConfig) -> str:
    """Overwrite the encoder's values in ``tensors`` by those of ``config.backbone_weights`` and return a one-line report.

    The file uses torchvision's names (``conv1``, ``bn1``, ``layer1``...). Every encoder tensor must be covered with its shape;
    of the file only ``fc`` and stages that the encoder does not have may stay unused.
    """
    path = weights_path(config.backbone_weights)
    if not path.is_file():
        raise UserError(
            f"backbone weights {path} are not there: put the file in place, set network.backbone_weights=FILE, "
            "or network.backbone_weights=null to start from random values"
        )
    weights = next(iter(read(path, dialect="torchvision").networks.values()))
    wanted = {n for n in tensors if n.startswith("encoder.") and not n.endswith("num_batches_tracked")}
    source = {name: twin(name) for name in wanted}
    missing = sorted(name for name in wanted if source[name] not in weights)
    wrong = sorted(n for n in wanted - set(missing) if weights[source[n]].shape != tensors[n].shape)
    if missing or wrong:
        problem = f"lacks {', '.join(missing[:5])}" if missing else f"has another shape for {', '.join(wrong[:5])}"
        raise UserError(
            f"backbone weights {path} do not fit {config.encoder} with stem {config.stem}: the file {problem}"
            f" ({len(missing)} missing, {len(wrong)} misshapen); choose a file of this architecture"
        )
    for name in wanted:
        tensors[name] = weights[source[name]].astype(np.float32)
    unused = sorted(set(weights) - set(source.values()) - {n for n in weights if n.endswith("num_batches_tracked")})
    fresh = sum(1 for name in tensors if not name.startswith("encoder."))
    return (
        f"backbone {path.name}: {len(wanted)} tensors loaded, {len(unused)} of the file unused"
        f"{' (' + ', '.join(sorted({'.'.join(n.split('.')[1:2]) for n in unused})) + ')' if unused else ''}, {fresh} start fresh"
    )
