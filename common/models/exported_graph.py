"""What an exported ONNX file says about itself: what goes in and comes out, its precision, where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from common.config.schema import Head, Normalisation
from common.config.strict import build, ranged, to_plain
from common.errors import UserError
from common.files import parse_json

FORMAT = "2"
"""Version of the properties below; a reader refuses a later one."""

READ = ("1", FORMAT)
"""Format 1 knew float32 graphs of free size that take normalised images, which is what the defaults say."""

TEXTS = ("output", "experiment", "role", "checkpoint_sha256", "head", "input", "precision")
"""Properties stored as they are; all others are JSON."""


@dataclass(frozen=True, kw_only=True)
class GraphMetadata:
    """The ``metadata_props`` of an exported graph.

    ``output`` is what its first output holds; ``mean`` and ``std`` normalise RGB pixels in 0..255 per channel;
    ``checkpoint_sha256`` is the file that was exported and ``role`` its network; ``network`` is the plain form of
    :class:`common.config.schema.NetworkConfig`; ``head`` the predictor whose logits or class ids these are.

    ``input`` is ``image`` (normalised float32 ``[B,3,H,W]``) or ``picture`` (uint8 RGB ``[B,H,W,3]``, normalised inside).
    ``batch`` and ``size`` (height, width) are None where they are free. ``precision`` is that of weights and arithmetic;
    a reduced one names the float32 graph it was made from (``source_sha256``) and, for int8, how (``quantization``).
    ``gates`` holds what was measured when the file was made, and the limits that it had to keep.
    """

    output: Literal["logits", "class_ids"]
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    experiment: str
    role: str
    checkpoint_sha256: str
    network: Any
    head: Head = "linear"
    input: Literal["image", "picture"] = "image"
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    batch: int | None = ranged(None, low=1)
    size: tuple[int, int] | None = ranged(None, low=1)
    source_sha256: str | None = None
    quantization: Any = None
    gates: Any = None

    def __post_init__(self) -> None:
        if self.input == "picture" and self.output != "class_ids":
            raise ValueError(f"a graph of pictures gives class_ids, not {self.output}")
        if (self.quantization is None) != (self.precision != "int8"):
            raise ValueError(f"precision {self.precision} does not go with quantization = {self.quantization}")

    @property
    def normalisation(self) -> Normalisation:
        """What images are normalised with, or a graph of pictures normalises by itself."""
        return Normalisation(mean=self.mean, std=self.std)

    def properties(self) -> dict[str, str]:
        """Return the properties to be written into the file, all text."""
        values = to_plain(self)
        return {"format_version": FORMAT} | {k: v if k in TEXTS else json.dumps(v) for k, v in values.items()}


KEYS = {field.name for field in fields(GraphMetadata)}


def read_properties(properties: Mapping[str, str], path: Path) -> GraphMetadata:
    """Return what :meth:`GraphMetadata.properties` wrote; what other tools added, such as quantisers, is left alone.

    Raises :class:`UserError` naming ``path`` for a file without these properties or with damaged ones.
    """
    version = properties.get("format_version")
    if version is None:
        raise UserError(
            f"{path}: not a model of this project (no metadata); make it with python -m converters.export_onnx"
        )
    if version not in READ:
        raise UserError(
            f"{path}: metadata format {version}, but this program reads {' and '.join(READ)}; export the checkpoint again"
        )
    try:
        values = {key: value if key in TEXTS else parse_json(value) for key, value in properties.items() if key in KEYS}
    except ValueError as error:
        raise UserError(f"{path}: its metadata is damaged ({error}); export the checkpoint again") from None
    return build(GraphMetadata, values, {"": str(path)})
