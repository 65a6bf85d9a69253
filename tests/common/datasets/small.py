"""Two images with labels, in a folder that a test may spoil."""

from __future__ import annotations

import numpy as np
from PIL import Image

from common.config.schema import FileDatasetConfig, Layout
from common.config.strict import build

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
LABEL = np.array([[0, 1, 2, 255, 0, 1]] * 4, dtype=np.uint8)
CITYSCAPES = tuple(f"class{index}" for index in range(19))


def config_of(root, layout="folders", **changes) -> FileDatasetConfig:
    values = {
        "name": "own", "layout": layout, "root": str(root), "classes": ("a", "b", "c"),
        "train_list": "train.txt", "val_list": "val.txt",
    }  # fmt: skip
    if layout in ("folders", "voc"):
        values |= {"image_suffix": ".png", "image_dir": "images", "label_dir": "labels"}
    return build(Layout, {**values, **changes}, {})


def save(path, array, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)


def palette_image(indices: np.ndarray) -> Image.Image:
    """A palette image whose colours, turned to grey, are nothing like the indices."""
    image = Image.fromarray(indices, mode="P")
    image.putpalette([value for index in range(256) for value in (index * 7 % 256, 255 - index, index * 3 % 256)])
    return image
