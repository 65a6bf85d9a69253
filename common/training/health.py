"""How good the labels are that a run makes for itself: its network on unlabelled images whose labels are on disk after all."""

from __future__ import annotations

from typing import Any

from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import Dataset
from common.errors import UserError
from common.evaluation.evaluate import evaluate
from common.prediction.predictor import Predictor


class LabelAgreement:
    """Up to ``count`` images of the list ``unlabelled``, evenly spaced, those whose label can be read.

    Training never sees these labels. A benchmark has them, since there an unlabelled image is one whose label was put aside;
    real unlabelled images have none, and nothing is measured then.
    """

    def __init__(self, dataset: Dataset, unlabelled: tuple[str, ...], config: ExperimentConfig) -> None:
        self.dataset, self.config = dataset, config
        count = min(config.trainer.health_images, len(unlabelled))
        spaced = (unlabelled[place * len(unlabelled) // count] for place in range(count))
        self.ids = tuple(image_id for image_id in spaced if self._has_label(image_id))

    def measure(self, predictor: Predictor) -> dict[str, Any]:
        """Return ``images``, and ``miou`` and ``pixel_accuracy`` in 0..1 of the network on them; empty without labels."""
        try:
            outcome = evaluate(predictor, self.dataset, self.ids, self.config, progress=False) if self.ids else None
        except UserError:  # a label that does not fit: training does not need it
            self.ids, outcome = (), None
        if outcome is None:
            return {}
        return {"images": outcome.images, "miou": outcome.miou, "pixel_accuracy": outcome.pixel_accuracy}

    def _has_label(self, image_id: str) -> bool:
        try:
            self.dataset.label(image_id)
        except UserError:
            return False
        return True
