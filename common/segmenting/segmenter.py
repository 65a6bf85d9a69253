"""A network ready to segment pictures as they are decoded, in whatever runtime it runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.arrays import Box, Size
from common.config.schema import ExperimentConfig, Normalisation
from common.errors import UserError
from common.experiment import compose, load
from common.images.normalise import planes
from common.images.picture_rows import PictureRows, WholePicture
from common.models.model_folder import CONFIG, is_model_folder
from common.prediction.predictor import Predictor
from common.prediction.sliding import class_id_strips, joining_order, windows

PALETTE = "voc"
"""Colours of a network that does not say what it was trained on."""


@dataclass
class Segmenter:
    """Runs ``predictor`` on pictures, uint8 RGB ``[H,W,3]``, which it normalises.

    ``classes`` are the names of the ids; ``palette`` is the name of their colours (:func:`common.reports.palettes.colours`).
    """

    predictor: Predictor
    classes: tuple[str, ...]
    normalisation: Normalisation
    palette: str = PALETTE

    def check_windows(self) -> None:
        """Raise :class:`UserError` where the network cannot give the logits that windows need."""

    def segment(
        self, picture: np.ndarray, window: int | None = None, stride: int | None = None, batch: int = 1
    ) -> np.ndarray:
        """Return uint8 ``[H,W]`` class ids of a picture, with ``window`` from overlapping parts; see :meth:`slide`."""
        if window is None:
            return self.class_ids(picture[None])[0]
        return self.slide(WholePicture(picture), window, stride, batch)

    def class_ids(self, pictures: np.ndarray) -> np.ndarray:
        """Return uint8 ``[B,H,W]`` class ids of pictures of one size, uint8 RGB ``[B,H,W,3]``."""
        images = np.stack([planes(picture, self.normalisation) for picture in pictures])
        return self.predictor.class_ids(images, pictures.shape[1:3])

    def slide(self, rows: PictureRows, window: int, stride: int | None = None, batch: int = 1) -> np.ndarray:
        """Return uint8 ``[H,W]`` class ids of a picture of any size from overlapping windows.

        Windows are squares of ``window`` pixels every ``stride`` pixels (None: two thirds of the side), ``batch`` at a
        time; their logits are averaged. Smaller pictures are padded with the mean colour. Beside the result, memory holds
        the rows that two rows of windows show and the logits of those that both show.
        """
        self.check_windows()
        height, width = rows.size
        ids = np.empty(rows.size, np.uint8)
        padded = (max(height, window), max(width, window))
        top, left = ((side - length) // 2 for side, length in zip(padded, rows.size))
        layout = joining_order(windows(*padded, window, stride or max(2 * window // 3, 1), "shift_back"))
        values = self._window_logits(rows, layout, (top, left), batch)
        for at, strip in class_id_strips(layout, values, self.predictor.classes, padded[1], mean=True):
            first, last = max(at, top), min(at + len(strip), top + height)
            ids[first - top : last - top] = strip[first - at : last - at, left : left + width]
        return ids

    def _window_logits(
        self, rows: PictureRows, layout: Sequence[Box], margin: Size, batch: int
    ) -> Iterator[np.ndarray]:
        """Yield float32 ``[K,h,w]`` logits of every window of a picture that has ``margin`` (above, left) of the mean colour."""
        size = (layout[0].bottom - layout[0].top, layout[0].right - layout[0].left)
        highest = list(itertools.accumulate((box.top for box in reversed(layout)), min))[::-1]
        for start in range(0, len(layout), batch):
            boxes = layout[start : start + batch]
            images = np.zeros((len(boxes), 3, *size), np.float32)
            for box, first, plane in zip(boxes, highest[start:], images):
                # Rows that a window that follows shows as well must not be forgotten.
                first, top, bottom = (max(row - margin[0], 0) for row in (first, box.top, box.bottom))
                columns = slice(max(box.left - margin[1], 0), box.right - margin[1])
                part = rows.read(first, min(bottom, rows.size[0]), columns)[top - first :]
                above, before = max(margin[0] - box.top, 0), max(margin[1] - box.left, 0)
                plane[:, above : above + part.shape[0], before : before + part.shape[1]] = planes(
                    part, self.normalisation
                )
            yield from self.predictor.logits(images, size)


def palette_of(model: Path, experiment: str) -> str:
    """Return the palette of the data set that a packaged model, or else one of the experiment's name, was trained on."""
    if is_model_folder(model):
        return load(model / CONFIG).dataset.palette
    try:
        return compose(experiment).dataset.palette if experiment else PALETTE
    except UserError:  # of another program, or of a configuration that is not here
        return PALETTE


def config_of(model: Path, experiment: str | None) -> ExperimentConfig | None:
    """Return the configuration of a packaged model's folder or of the experiment that is named; None: the file says it all."""
    if experiment is not None:
        return compose(experiment)
    return load(model / CONFIG) if is_model_folder(model) else None
