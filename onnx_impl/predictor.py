"""The evaluation's view of an ONNX file; runs on the execution provider that was asked for, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.arrays import Box, Size
from common.config.schema import Accumulate, Head
from common.errors import UserError
from common.images.normalise import planes
from common.images.resize import resize_bilinear
from common.models.exported_graph import GraphMetadata, read_properties
from common.prediction.predictor import UsedRuntime
from common.prediction.sliding import class_id_strips
from onnx_impl.binding import Buffers
from onnx_impl.file_contents import FileContents, read_contents
from onnx_impl.providers import Provider, ProviderOptions
from onnx_impl.session import first_line, onnxruntime, open_session

OUTPUTS = {
    "logits": {"logits": ("tensor(float)", 4), "coarse_logits": ("tensor(float)", 4)},
    "class_ids": {"class_ids": ("tensor(uint8)", 3)},
}
"""Type and number of axes of the outputs of a linear head's graph, by its metadata's ``output``."""

INPUTS = {"image": ("tensor(float)", 1, "[B,3,H,W]"), "picture": ("tensor(uint8)", 3, "[B,H,W,3]")}
"""Type of a graph's input, the axis of its channels and its shape in words, by its metadata's ``input``."""

ROUNDING = 1e-2
"""Largest distance from a whole number, in 0..255, of a pixel that was normalised and is taken back."""


def outputs_of(output: str, head: Head) -> dict[str, tuple[str, int]]:
    """Return type and number of axes of the outputs that a graph must have, by its metadata."""
    # Cosines must not be resized: a prototype head has no logits at another size than the image's.
    return {n: kind for n, kind in OUTPUTS[output].items() if head == "linear" or n != "coarse_logits"}


STAGE_PREFIX = "stages."
"""Names of the additional outputs of a graph exported with its intermediate results."""


class OnnxPredictor:
    """Runs an exported network; implements :class:`common.prediction.predictor.Predictor`.

    ``provider`` is a provider's name, with ``threads`` CPU threads (None leaves it to ONNX Runtime), or all of its options.
    Raises :class:`UserError` when ``path`` is not a model of this project, its nodes contradict what it says of itself, or
    the provider cannot really run it.
    """

    def __init__(
        self, path: str | Path, provider: Provider | ProviderOptions = "cpu", threads: int | None = None
    ) -> None:
        self.path = Path(path)
        named = not isinstance(provider, ProviderOptions)
        self.options = ProviderOptions(provider=provider, threads=threads) if named else provider
        self.contents = contents_of(self.path)
        self.metadata = read_properties(self.contents.properties, self.path)
        check_contents(self.contents, self.metadata, self.path)
        self.session = open_session(self.path, self.options, self.metadata)
        check_graph(self.session, self.metadata, self.path)
        self.classes = len(self.metadata.classes)
        ort = onnxruntime()
        self.runtime = UsedRuntime(name="onnx", version=ort.__version__, device=self.options.device)
        device = "cuda" if self.options.provider in ("cuda", "tensorrt") else "cpu"
        self._buffers = Buffers(ort, self.session, device, self.options.device_id, self.options.cuda_graph)

    def logits(self, images: np.ndarray, size: Size) -> np.ndarray:
        """Return float32 ``[B,K,h,w]`` logits at ``size`` for images ``[B,3,H,W]``.

        At the images' size the graph resizes; to another one its coarse logits are resized once, on the host.
        """
        self._needs_logits("logits")
        if tuple(size) == images.shape[2:]:
            return self.run(images, "logits")
        if self.metadata.head == "prototype":
            raise UserError(
                f"{self.path}: a prototype head gives logits at the images' own size {images.shape[2:]}, not at {tuple(size)}; "
                "evaluate with the protocol whole or slide"
            )
        return resize_bilinear(self.run(images, "coarse_logits"), tuple(size))

    def class_ids(self, images: np.ndarray, size: Size) -> np.ndarray:
        """Return uint8 ``[B,h,w]`` class ids at ``size``.

        A graph with class ids computes them on its device and only they travel; it knows no size but the images'.
        """
        if self.metadata.output == "class_ids":
            if tuple(size) != images.shape[2:]:
                self._needs_logits(f"class ids at {tuple(size)} from images of {images.shape[2:]}")
            return self.run(self._as_bytes(images) if self.metadata.input == "picture" else images, "class_ids")
        return self.logits(images, size).argmax(1).astype(np.uint8)

    def picture_class_ids(self, pictures: np.ndarray) -> np.ndarray:
        """Return uint8 ``[B,H,W]`` class ids of pictures as they are decoded, uint8 RGB ``[B,H,W,3]``."""
        if self.metadata.input == "picture":
            return self.run(pictures, "class_ids")
        images = np.stack([planes(picture, self.metadata.normalisation) for picture in pictures])
        return self.class_ids(images, pictures.shape[1:3])

    def sliding_class_ids(self, image: np.ndarray, windows: Sequence[Box], accumulate: Accumulate) -> np.ndarray:
        """Return uint8 ``[H,W]`` class ids of one image ``[1,3,H,W]`` from overlapping windows, joined on the host."""
        self._needs_logits("sliding windows")

        def values(window: Box) -> np.ndarray:
            logits = self.run(image[:, :, window.rows, window.columns], "logits")[0]
            return _softmax(logits) if accumulate == "sum_softmax" else logits

        layout = sorted(windows, key=lambda window: window.top)
        ids = np.empty(image.shape[2:], np.uint8)
        strips = class_id_strips(layout, map(values, layout), self.classes, ids.shape[1], accumulate == "mean_logits")
        for top, rows in strips:
            ids[top : top + len(rows)] = rows
        return ids

    def stages(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return every intermediate result for images ``[B,3,H,W]``, in order; empty unless exported with stages."""
        names = [output.name for output in self.session.get_outputs() if output.name.startswith(STAGE_PREFIX)]
        values = self.session.run(names, {"image": np.ascontiguousarray(images, np.float32)}) if names else []
        return {name.removeprefix(STAGE_PREFIX): value for name, value in zip(names, values)}

    def _needs_logits(self, purpose: str) -> None:
        if self.metadata.output != "logits":
            raise UserError(
                f"{self.path}: this graph gives class ids only, but {purpose} need logits; export with --output logits"
            )

    def _as_bytes(self, images: np.ndarray) -> np.ndarray:
        """Take back the normalisation of images ``[B,3,H,W]``; only whole pixel values can be what a picture held."""
        mean, std = np.float32(self.metadata.mean), np.float32(self.metadata.std)
        pixels = images.transpose(0, 2, 3, 1) * std + mean
        rounded = np.rint(pixels)
        if np.abs(pixels - rounded).max() > ROUNDING or rounded.min() < 0 or rounded.max() > 255:
            raise UserError(
                f"{self.path} takes pictures as bytes, and these images were padded or resized after normalising; evaluate "
                "with the protocol whole, or export with --input image"
            )
        return rounded.astype(np.uint8)

    def run(self, images: np.ndarray, output: str) -> np.ndarray:
        """Return one output of the graph for its input, ``[B,3,H,W]`` or ``[B,H,W,3]``; the others do not leave the device.

        A graph for exactly N images at a time gets others in portions of N, the last one filled up.
        """
        batch = self.metadata.batch
        if batch is None or len(images) == batch:
            return self._run(images, output)
        filled = np.concatenate([images, np.repeat(images[-1:], -len(images) % batch, axis=0)])
        results = [self._run(filled[at : at + batch], output) for at in range(0, len(filled), batch)]
        return np.concatenate(results)[: len(images)]

    def _run(self, images: np.ndarray, output: str) -> np.ndarray:
        name = self.metadata.input
        size = images.shape[2:] if name == "image" else images.shape[1:3]
        if self.metadata.size not in (None, tuple(size)):
            raise UserError(
                f"{self.path} takes images of exactly {'x'.join(map(str, self.metadata.size))} pixels, not "
                f"{'x'.join(map(str, size))}; export without --size, or use windows of that size"
            )
        kind = np.uint8 if name == "picture" else np.float32
        try:
            return self._buffers.run(name, np.ascontiguousarray(images, kind), output)
        except Exception as error:
            raise UserError(
                f"{self.path}: ONNX Runtime failed on images {list(images.shape)}: {first_line(error)}; "
                "if memory is short, use smaller images or windows (predict --window N, evaluation.protocol=slide)"
            ) from None


def contents_of(path: Path) -> FileContents:
    """Return what the file holds; raises :class:`UserError` for a file that is missing, cut short or no ONNX model."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; make one with python -m converters.export_onnx")
    try:
        return read_contents(path)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no ONNX file, or a part of one ({error}); export it again") from None


def check_graph(session, metadata: GraphMetadata, path: Path) -> None:
    """Raise :class:`UserError` unless the graph maps its input to what its metadata says."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    kind, channel_axis, shape = INPUTS[metadata.input]
    if [(i.name, i.type, len(i.shape), i.shape[channel_axis]) for i in inputs] != [(metadata.input, kind, 4, 3)]:
        raise UserError(
            f"{path}: not a segmentation model: its input is {_signature(inputs)}, not {metadata.input} {kind} {shape}"
        )
    lengths = [length for axis, length in enumerate(inputs[0].shape) if axis != channel_axis]
    promised = [metadata.batch, *(metadata.size or (None, None))]
    if [length if isinstance(length, int) else None for length in lengths] != promised:
        raise UserError(
            f"{path}: its metadata says batch {metadata.batch} and size {metadata.size} but its input is "
            f"{_signature(inputs)}; export the checkpoint again"
        )
    expected = outputs_of(metadata.output, metadata.head)
    if not expected.items() <= {item.name: (item.type, len(item.shape)) for item in outputs}.items():
        listed = ", ".join(f"{name} {kind} of {axes} axes" for name, (kind, axes) in expected.items())
        raise UserError(f"{path}: not a segmentation model: it gives {_signature(outputs)}, not {listed}")
    channels = next(item.shape[1] for item in outputs if item.name in expected)
    if metadata.output == "logits" and channels != len(metadata.classes):
        raise UserError(
            f"{path}: its metadata names {len(metadata.classes)} classes but its logits have {channels}; "
            "export the checkpoint again"
        )


def check_contents(contents: FileContents, metadata: GraphMetadata, path: Path) -> None:
    """Raise :class:`UserError` unless the file's precision and 8-bit types are what its metadata says."""
    if contents.precision != metadata.precision:
        raise UserError(
            f"{path}: its metadata says {metadata.precision} but its nodes are {contents.precision} {contents.scheme}".rstrip()
            + "; make such a file with python -m onnx_impl.quantize or converters.export_onnx --precision, which measure it"
        )
    claimed = (metadata.quantization or {}).get("scheme", "")
    if contents.scheme != claimed:
        raise UserError(
            f"{path}: its metadata says quantised {claimed} but its nodes are {contents.scheme}; quantise it again"
        )


def _signature(items) -> str:
    return ", ".join(f"{item.name} {item.type} {item.shape}" for item in items) or "absent"


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(0))
    return powers / powers.sum(0)
