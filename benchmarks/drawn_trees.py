"""Drawn images in the official layouts of Cityscapes and Pascal VOC, as large as the real files in pixels and bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from common.rng import generator

CITYSCAPES, VOC = (1024, 2048), (375, 500)
"""Height and width."""
CITYSCAPES_IDS = np.array([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 0], np.uint8)


def draw_cityscapes(root: Path, count: int) -> None:
    """Write images whose PNG files have 2 to 3 MB, and labels of large regions, official ids."""
    for index in range(count):
        name, rng = f"drawn_{index:06}_000000", generator(0, "drawn cityscapes", index)
        image = root / "leftImg8bit" / "train" / "drawn" / f"{name}_leftImg8bit.png"
        label = root / "gtFine" / "train" / "drawn" / f"{name}_gtFine_labelIds.png"
        _save(_photo(CITYSCAPES, rng), image)
        _save(CITYSCAPES_IDS[_regions(CITYSCAPES, len(CITYSCAPES_IDS), rng)], label)


def draw_voc(root: Path, count: int) -> None:
    """Write JPEG images of about 100 kB, palette labels and the list of training images."""
    palette = generator(0, "drawn voc palette").integers(0, 256, 768).tolist()
    for index in range(count):
        name, rng = f"2007_{index:06}", generator(0, "drawn voc", index)
        _save(_photo(VOC, rng), root / "JPEGImages" / f"{name}.jpg", quality=92)
        classes = np.append(np.arange(21), 255).astype(np.uint8)
        label = Image.fromarray(classes[_regions(VOC, len(classes), rng)], mode="P")
        label.putpalette(palette)
        path = root / "SegmentationClassAug" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        label.save(path)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "train_aug.txt").write_text("".join(f"2007_{index:06}\n" for index in range(count)))


def _photo(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A smooth picture with a little noise, uint8 ``[H,W,3]``."""
    coarse = Image.fromarray(rng.integers(0, 256, (16, 32, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC), np.int16)
    return np.clip(smooth + rng.integers(-2, 3, smooth.shape, dtype=np.int16), 0, 255).astype(np.uint8)


def _regions(size: tuple[int, int], count: int, rng: np.random.Generator) -> np.ndarray:
    """Blocks of numbers below ``count``, int64 ``[H,W]``."""
    coarse = rng.integers(0, count, (32, 64))
    return coarse[np.arange(size[0]) * 32 // size[0]][:, np.arange(size[1]) * 64 // size[1]]


def _save(pixels: np.ndarray, path: Path, **options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
