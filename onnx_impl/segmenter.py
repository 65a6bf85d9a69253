"""An exported or packaged model ready to segment pictures in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.errors import UserError
from common.models.model_folder import model_file
from common.segmenting.segmenter import Segmenter, palette_of
from onnx_impl.predictor import OnnxPredictor
from onnx_impl.providers import Provider, ProviderOptions


class OnnxSegmenter(Segmenter):
    """Hands a graph of pictures the bytes as they are."""

    predictor: OnnxPredictor

    def check_windows(self) -> None:
        """Raise :class:`UserError` for a graph of class ids: windows are joined by their logits."""
        if self.predictor.metadata.output != "logits":
            raise UserError(f"{self.predictor.path}: --window needs a model with logits; export with --output logits")

    def class_ids(self, pictures: np.ndarray) -> np.ndarray:
        """Return uint8 ``[B,H,W]`` class ids of pictures of one size, uint8 RGB ``[B,H,W,3]``."""
        return self.predictor.picture_class_ids(pictures)


def open_segmenter(
    path: str | Path, provider: Provider | ProviderOptions = "cpu", threads: int | None = None
) -> Segmenter:
    """Return an exported model, or that of a packaged model's folder, on an execution provider.

    ``provider`` is its name, with ``threads`` CPU threads (None leaves it to ONNX Runtime), or all of its options. Raises
    :class:`common.errors.UserError` for a file that cannot be used and a provider that would not run all of it.
    """
    path = Path(path)
    predictor = OnnxPredictor(model_file(path, "onnx"), provider, threads)
    metadata = predictor.metadata
    palette = palette_of(path, metadata.experiment)
    return OnnxSegmenter(predictor, metadata.classes, metadata.normalisation, palette)
