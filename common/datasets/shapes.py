"""The drawn data set ``shapes``: no download, no files, the same pixels on every machine.

Discs, squares, triangles, rings and crosses of any size and turn, partly hidden by one another. Every class has its
colour, but tint, texture and noise change from image to image and bars of the same colours are background, so a dozen
labelled images show too little of it. Everything is integer arithmetic on NumPy's generator, so nothing depends on a
drawing library.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from common.arrays import IGNORE
from common.config.schema import DrawnShapes
from common.errors import UserError
from common.rng import generator

CLASSES = ("background", "disc", "square", "triangle", "ring", "cross")
COLOURS = ((210, 60, 60), (200, 190, 60), (60, 190, 80), (60, 110, 210), (180, 70, 190))
"""RGB of the shapes, in the order of their classes."""
TURNS = ((1, 0, 1), (4, 3, 5), (3, 4, 5), (12, 5, 13), (5, 12, 13), (15, 8, 17), (8, 15, 17))
"""Cosine and sine as fractions over the third number: exact turns in integers (each also by quarter turns)."""


class ShapesDataset:
    """Layout ``shapes``: ``config.images`` (training, validation) of ``config.size`` pixels, from ``config.seed``.

    Implements :class:`common.datasets.file_dataset.Dataset`.
    """

    def __init__(self, config: DrawnShapes) -> None:
        if config.classes != CLASSES:
            raise UserError(f"dataset.classes of layout shapes must be {', '.join(CLASSES)}")
        if min(config.images) < 1:
            raise UserError(
                f"dataset.images = {list(config.images)}: layout shapes needs at least one image of either kind"
            )
        self.config = config
        self.name = config.name
        self.classes = config.classes
        self.train_ids, self.val_ids = (
            tuple(f"{part}_{index:04d}" for index in range(count))
            for part, count in zip(("train", "val"), config.images)
        )
        self._ids = frozenset(self.train_ids + self.val_ids)

    @property
    def ignored_classes(self) -> frozenset[int]:
        """None: every class has its value."""
        return frozenset()

    def image(self, image_id: str) -> np.ndarray:
        """Return uint8 RGB ``[S,S,3]``."""
        return self._drawn(image_id)[0].copy()

    def label(self, image_id: str) -> np.ndarray:
        """Return uint8 ``[S,S]``: class ids, 255 on the border of some shapes."""
        return self._drawn(image_id)[1].copy()

    def _drawn(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        if image_id not in self._ids:
            raise UserError(
                f"image {image_id!r} is not one of the {len(self._ids)} drawn images of data set {self.name}"
            )
        return _draw_once(self.config.size, self.config.seed, image_id)


@functools.lru_cache(maxsize=1024)
def _draw_once(size: int, seed: int, image_id: str) -> tuple[np.ndarray, np.ndarray]:
    part, _, number = image_id.partition("_")
    return draw(size, generator(seed, f"shapes {part}", int(number)))


def draw(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image: uint8 RGB ``[size,size,3]`` and its label uint8 ``[size,size]``."""
    image = _paint(size, rng.integers(60, 181) + rng.integers(-20, 21, size=3), rng)
    label = np.zeros((size, size), dtype=np.uint8)
    for _ in range(int(rng.integers(0, 3))):
        bar = _clutter(size, rng)
        image = np.where(bar[..., None], _paint(size, _colour(int(rng.integers(1, len(CLASSES))), rng), rng), image)
    for kind in 1 + rng.permutation(len(CLASSES) - 1)[: rng.integers(2, 5)]:
        inside = _outline(kind, size, rng)
        if rng.integers(2):
            label[_grown(inside)] = IGNORE
        image = np.where(inside[..., None], _paint(size, _colour(kind, rng), rng), image)
        label[inside] = kind
    noise = int(rng.integers(20, 81))
    image = image * rng.integers(21, 30, size=3) // 25 + rng.integers(-noise, noise + 1, size=image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), label


def _colour(kind: int, rng: np.random.Generator) -> np.ndarray:
    """The colour of class ``kind``, varied, int64 ``[3]``."""
    return np.array(COLOURS[kind - 1]) + rng.integers(-30, 31, size=3)


def _paint(size: int, colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A surface, int64 ``[size,size,3]``: a gradient around ``colour``, half of the surfaces striped or chequered."""
    rows, columns = np.mgrid[:size, :size]
    slope = rng.integers(-30, 31, size=(2, 3))
    surface = colour + (rows[..., None] * slope[0] + columns[..., None] * slope[1]) // size
    kind, period = int(rng.integers(4)), int(rng.integers(2, 6))
    across, along = rng.integers(-2, 3, size=2)
    bands = (rows * across + columns * along) // period % 2
    if kind == 1:
        bands = (rows // period + columns // period) % 2
    return surface + bands[..., None] * rng.integers(-40, 41, size=3) * (kind < 2)


def _clutter(size: int, rng: np.random.Generator) -> np.ndarray:
    """A thin bar somewhere in the image, bool ``[size,size]``; clutter is background."""
    across, along = _local(size, rng)
    return (abs(across) <= int(rng.integers(size // 8, size // 2))) & (abs(along) <= int(rng.integers(1, 3)))


def _outline(kind: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """The pixels of one shape of class ``kind`` at a random place, size and turn, bool ``[size,size]``."""
    across, along = _local(size, rng)
    radius = int(rng.integers(size // 7, size * 3 // 8))
    if CLASSES[kind] in ("triangle", "ring", "cross"):
        radius = radius * 6 // 5  # they cover less of their circle than the others
    return OUTLINES[CLASSES[kind]](across, along, radius)


def _local(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates around a random centre, turned by a random angle and rounded to pixels."""
    row, column = rng.integers(size // 10, size - size // 10, size=2)
    cosine, sine, scale = TURNS[int(rng.integers(len(TURNS)))]
    for _ in range(int(rng.integers(4))):
        cosine, sine = -sine, cosine
    down, right = np.mgrid[:size, :size]
    down, right = down - row, right - column
    return (cosine * right + sine * down) // scale, (cosine * down - sine * right) // scale


def _disc(across: np.ndarray, along: np.ndarray, radius: int) -> np.ndarray:
    return across**2 + along**2 <= radius**2


def _square(across: np.ndarray, along: np.ndarray, radius: int) -> np.ndarray:
    return 5 * np.maximum(abs(across), abs(along)) <= 4 * radius


def _triangle(across: np.ndarray, along: np.ndarray, radius: int) -> np.ndarray:
    return (2 * along <= radius) & (7 * abs(across) <= 4 * (along + radius))


def _ring(across: np.ndarray, along: np.ndarray, radius: int) -> np.ndarray:
    distance = across**2 + along**2
    return (distance <= radius**2) & (5 * distance >= radius**2)


def _cross(across: np.ndarray, along: np.ndarray, radius: int) -> np.ndarray:
    near, far = np.minimum(abs(across), abs(along)), np.maximum(abs(across), abs(along))
    return (far <= radius) & (3 * near <= radius)


OUTLINES: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "ring": _ring,
    "cross": _cross,
}


def _grown(mask: np.ndarray) -> np.ndarray:
    """``mask`` and its neighbours in the four directions."""
    padded = np.pad(mask, 1)
    return padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
