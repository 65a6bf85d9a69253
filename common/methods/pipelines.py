"""Every augmentation pipeline under the name by which streams ask for it."""

from __future__ import annotations

from common.methods import weak_crop as augment
from common.methods.cpcl import augment as augment_cpcl
from common.methods.uccl import augment as weak_to_strong
from common.methods.usrn import augment as augment_usrn

PIPELINES = {**augment.PIPELINES, **augment_cpcl.PIPELINES, **augment_usrn.PIPELINES, **weak_to_strong.PIPELINES}
