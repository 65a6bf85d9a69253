"""Every augmentation pipeline under the name by which streams ask for it."""

from __future__ import annotations

from common.data import augment, weak_to_strong

PIPELINES = {**augment.PIPELINES, **weak_to_strong.PIPELINES}
