"""The augmentation of U2PL with AEL: the weak one, and another range for the images that copy-paste takes pixels from."""

from __future__ import annotations

from dataclasses import dataclass, replace

from common.config.strict import ranged
from common.methods.weak_crop import WeakCrop, check_around_one


@dataclass(frozen=True, kw_only=True)
class WeakCropAndPaste(WeakCrop):
    """``paste_resize_range`` takes the place of ``resize_range`` for images to paste from (``with_AEL``)."""

    paste_resize_range: tuple[float, float] = ranged((0.1, 2.0), low=0.01)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_around_one("paste_resize_range", self.paste_resize_range)

    @property
    def paste(self) -> WeakCropAndPaste:
        """The augmentation of the images to paste from."""
        return replace(self, resize_range=self.paste_resize_range)
