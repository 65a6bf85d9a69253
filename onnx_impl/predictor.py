"""The evaluation's view of an ONNX file; runs on the execution provider that was asked for, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from common.arrays import Box, Size
from common.config.schema import Accumulate, Head, Normalisation
from common.errors import UserError
from common.images.normalise import normalise
from common.images.resize import resize_bilinear
from common.models.exported_graph import GraphMetadata, read_properties
from common.prediction.predictor import UsedRuntime
from common.prediction.sliding import join_windows
from onnx_impl.file_contents import FileContents, read_contents

Provider = Literal["cpu", "cuda", "tensorrt"]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}

SHAPE_OPERATORS = {
    "Shape", "Size", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Cast", "Add", "Sub", "Mul", "Div", "Mod",
    "Neg", "Max", "Min", "Equal", "Where", "Range", "Identity", "Constant", "ConstantOfShape", "Reshape", "Expand",
}  # fmt: skip
"""Arithmetic on a handful of integers, which ONNX Runtime puts on the CPU on purpose even when a GPU does the work."""

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

    ``threads`` is the number of CPU threads, None leaves it to ONNX Runtime. Raises :class:`UserError` when ``path`` is
    not a model of ``converters.export_onnx`` or ``provider`` cannot really run it.
    """

    def __init__(self, path: str | Path, provider: Provider = "cpu", threads: int | None = None) -> None:
        self.path = Path(path)
        self.session = open_session(self.path, provider, threads)
        self.metadata = read_properties(self.session.get_modelmeta().custom_metadata_map, self.path)
        self.classes = len(self.metadata.classes)
        self.runtime = UsedRuntime(
            name="onnx", version=_onnxruntime().__version__, device=self.session.get_providers()[0]
        )
        self._device = "cpu" if provider == "cpu" else "cuda"
        check_graph(self.session, self.metadata, self.path)
        self.contents = check_contents(self.metadata, self.path)

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
        scale = Normalisation(mean=self.metadata.mean, std=self.metadata.std)
        images = np.stack([normalise(picture, scale).transpose(2, 0, 1) for picture in pictures])
        return self.class_ids(images, pictures.shape[1:3])

    def sliding_class_ids(self, image: np.ndarray, windows: Sequence[Box], accumulate: Accumulate) -> np.ndarray:
        """Return uint8 ``[H,W]`` class ids of one image ``[1,3,H,W]`` from overlapping windows, joined on the host."""
        self._needs_logits("sliding windows")

        def values(window: Box) -> np.ndarray:
            logits = self.run(image[:, :, window.rows, window.columns], "logits")[0]
            return _softmax(logits) if accumulate == "sum_softmax" else logits

        total = np.zeros((self.classes, *image.shape[2:]), np.float32)
        visits = np.zeros(image.shape[2:], np.float32) if accumulate == "mean_logits" else None
        return join_windows(windows, values, total, visits).argmax(0).astype(np.uint8)

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
        binding = self.session.io_binding()
        try:
            value = _onnxruntime().OrtValue.ortvalue_from_numpy(np.ascontiguousarray(images, kind), self._device, 0)
            binding.bind_ortvalue_input(name, value)
            binding.bind_output(output, "cpu")
            self.session.run_with_iobinding(binding)
        except Exception as error:
            raise UserError(
                f"{self.path}: ONNX Runtime failed on images {list(images.shape)}: {first_line(error)}; "
                "if memory is short, use smaller images or windows"
            ) from None
        return binding.copy_outputs_to_cpu()[0]


def open_session(path: Path, provider: Provider, threads: int | None):
    """Return a session that runs on ``provider``; raises :class:`UserError` instead of falling back to another one."""
    if provider not in PROVIDERS:
        raise UserError(f"provider {provider!r} is not one of {', '.join(PROVIDERS)}")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; make one with python -m converters.export_onnx")
    ort, wanted = _onnxruntime(), PROVIDERS[provider]
    if wanted not in ort.get_available_providers():
        raise UserError(
            f"the installed ONNX Runtime {ort.__version__} has no {wanted}: uninstall onnxruntime and install "
            "onnxruntime-gpu (both together break each other)"
        )
    if provider != "cpu":
        ort.preload_dlls()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = ort.InferenceSession(str(path), options, providers=_providers(provider))
    except Exception as error:
        raise UserError(f"{path}: ONNX Runtime cannot load it, export it again: {first_line(error)}") from None
    check_provider(session, provider)
    return session


def check_provider(session, provider: Provider) -> None:
    """Raise :class:`UserError` unless ``session`` runs on ``provider`` with all of the network's operators."""
    ort, wanted, found = _onnxruntime(), PROVIDERS[provider], session.get_providers()[0]
    if found != wanted:
        libraries = f"CUDA {getattr(ort, 'cuda_version', '') or 13} and cuDNN 9" + (
            " and TensorRT" if provider == "tensorrt" else ""
        )
        raise UserError(
            f"{wanted} was asked for but ONNX Runtime {ort.__version__} fell back to {found}: it needs a GPU with its "
            f"driver and the libraries of {libraries} (see its message above); install them or use --provider cpu"
        )
    if provider == "cpu":
        return
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise UserError(
            f"ONNX Runtime {ort.__version__} cannot say where each operator runs; install onnxruntime-gpu 1.24 or newer"
        )
    placed = placement(session)
    if placed.get(PROVIDERS["cpu"]) or not placed.get(wanted):
        listed = "; ".join(f"{name}: {', '.join(operators)}" for name, operators in placed.items())
        raise UserError(f"{wanted} would not run this network alone ({listed}); use --provider cpu")


def placement(session) -> dict[str, list[str]]:
    """Return the types of the operators that each provider runs, sorted, arithmetic on shapes left out."""
    placed: dict[str, set[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        placed.setdefault(part.ep_name, set()).update(node.op_type for node in part.get_nodes())
    return {
        name: sorted(operators - SHAPE_OPERATORS) for name, operators in placed.items() if operators - SHAPE_OPERATORS
    }


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


def check_contents(metadata: GraphMetadata, path: Path) -> FileContents:
    """Return what the file holds; raises :class:`UserError` unless its precision is what its metadata says."""
    contents = read_contents(path)
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
    return contents


def first_line(error: Exception) -> str:
    """Return the first line of one of ONNX Runtime's exceptions, which share no base class."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def _signature(items) -> str:
    return ", ".join(f"{item.name} {item.type} {item.shape}" for item in items) or "absent"


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(0))
    return powers / powers.sum(0)


def _providers(provider: Provider) -> list:
    # TF32 keeps 10 bits of the mantissa: the answers would differ from float32 by more than the gates of parity allow.
    # The exhaustive search for convolution algorithms would start anew for every image size.
    cuda = (PROVIDERS["cuda"], {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})
    return {"cpu": [PROVIDERS["cpu"]], "cuda": [cuda], "tensorrt": [PROVIDERS["tensorrt"], cuda]}[provider]


def _onnxruntime():
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            "ONNX Runtime is not installed; install the extra onnx (CPU) or onnx-gpu, e.g. pip install '.[onnx]'"
        ) from None
    if not hasattr(onnxruntime, "InferenceSession"):
        raise UserError(
            "ONNX Runtime is damaged, as after uninstalling one of onnxruntime and onnxruntime-gpu: "
            "uninstall both, then install one"
        )
    return onnxruntime
