"""Every augmentation pipeline under the name by which streams ask for it."""

from __future__ import annotations

from common.data import augment, augment_cpcl, augment_usrn, weak_to_strong

PIPELINES = {**augment.PIPELINES, **augment_cpcl.PIPELINES, **augment_usrn.PIPELINES, **weak_to_strong.PIPELINES}
