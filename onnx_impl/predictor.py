"""The evaluation's view of an ONNX file; runs on the execution provider that was asked for, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from common.arrays import Size, Window
from common.config.schema import Accumulate, Head
from common.errors import UserError
from common.evaluation.predictor import UsedRuntime
from common.images.resize import resize_bilinear
from common.models.exported_graph import GraphMetadata, read_properties

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


def outputs_of(output: str, head: Head) -> dict[str, tuple[str, int]]:
    """Return type and number of axes of the outputs that a graph must have, by its metadata."""
    # Cosines must not be resized: a prototype head has no logits at another size than the image's.
    return {n: kind for n, kind in OUTPUTS[output].items() if head == "linear" or n != "coarse_logits"}


STAGE_PREFIX = "stages."
"""Names of the additional outputs of a graph exported with its intermediate results."""


class OnnxPredictor:
    """Runs an exported network; implements :class:`common.evaluation.predictor.Predictor`.

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
            return self.run(images, "class_ids")
        return self.logits(images, size).argmax(1).astype(np.uint8)

    def sliding_class_ids(self, image: np.ndarray, windows: Sequence[Window], accumulate: Accumulate) -> np.ndarray:
        """Return uint8 ``[H,W]`` class ids of one image ``[1,3,H,W]`` from overlapping windows, joined on the host."""
        self._needs_logits("sliding windows")
        total = np.zeros((self.classes, *image.shape[2:]), np.float32)
        visits = np.zeros(image.shape[2:], np.float32)
        for window in windows:
            rows, columns = slice(window.top, window.bottom), slice(window.left, window.right)
            logits = self.run(image[:, :, rows, columns], "logits")[0]
            total[:, rows, columns] += _softmax(logits) if accumulate == "sum_softmax" else logits
            visits[rows, columns] += 1
        if accumulate == "mean_logits":
            total /= visits
        return total.argmax(0).astype(np.uint8)

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

    def run(self, images: np.ndarray, output: str) -> np.ndarray:
        """Return one output of the graph for images ``[B,3,H,W]``; the others do not leave the device."""
        binding = self.session.io_binding()
        value = _onnxruntime().OrtValue.ortvalue_from_numpy(np.ascontiguousarray(images, np.float32), self._device, 0)
        binding.bind_ortvalue_input("image", value)
        binding.bind_output(output, "cpu")
        try:
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
    """Raise :class:`UserError` unless the graph maps ``image`` float32 [B,3,H,W] to what its metadata says."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if [(i.name, i.type, len(i.shape), i.shape[1:2]) for i in inputs] != [("image", "tensor(float)", 4, [3])]:
        raise UserError(
            f"{path}: not a segmentation model: its input is {_signature(inputs)}, not image tensor(float) [B,3,H,W]"
        )
    wanted = outputs_of(metadata.output, metadata.head)
    if not wanted.items() <= {item.name: (item.type, len(item.shape)) for item in outputs}.items():
        listed = ", ".join(f"{name} {kind} of {axes} axes" for name, (kind, axes) in wanted.items())
        raise UserError(f"{path}: not a segmentation model: it gives {_signature(outputs)}, not {listed}")
    channels = next(item.shape[1] for item in outputs if item.name in wanted)
    if metadata.output == "logits" and channels != len(metadata.classes):
        raise UserError(
            f"{path}: its metadata names {len(metadata.classes)} classes but its logits have {channels}; "
            "export the checkpoint again"
        )


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
