"""``python -m converters.export_onnx CHECKPOINT MODEL.onnx``: export a network to ONNX and verify it against PyTorch.

The graph maps ``image``, normalised float32 ``[B,3,H,W]`` of any batch and size, to ``logits`` float32 ``[B,K,H,W]`` at
the image's size (bilinear, align_corners), or to ``class_ids`` uint8 ``[B,H,W]``. A linear head has ``coarse_logits`` beside
its logits, at the network's own smaller size for whoever wants another one; a prototype head's cannot be resized. With
``--input picture`` it maps ``picture``, uint8 RGB ``[B,H,W,3]``, to class ids and normalises inside: bytes in, bytes out.
``--size`` and ``--batch`` fix the shape. What the file holds is in its metadata (``common/models/exported_graph.py``). A file that
does not give PyTorch's answer is not left behind.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.arrays import Size
from common.command_line import positive, run_command, user_path
from common.config.schema import ExperimentConfig, Head
from common.config.strict import to_plain
from common.errors import CheckFailed, UserError
from common.files import atomic_path, sha256
from common.images.normalise import planes
from common.models.exported_graph import GraphMetadata
from common.models.model_folder import experiment_of
from common.models.stored_network import read_network
from common.rng import generator

Output = Literal["logits", "class_ids"]
Input = Literal["image", "picture"]

OPSET = 18
"""The exporter's own version: no conversion step, and every execution provider has kernels for it."""

TRACED = (2, 97, 129)
"""Batch, height and width of tracing: another size at every stride of the networks, so that no resize is left out."""

VERIFIED = ((1, 65, 65), (2, 97, 129), (1, 64, 96), (3, 33, 47), (1, 321, 193), (1, 16, 8), (2, 1, 1))
"""Batch, height and width of the images that the file is verified with."""

RELATIVE_GATE = 2e-4
"""Largest relative Frobenius error of the logits."""

FLIP_GATE = 2e-4
"""Largest share of pixels whose class differs; a single pixel may differ at any size, as where two classes tie."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far ONNX Runtime is from PyTorch on one batch.

    ``output`` is the graph's output, ``shape`` batch, height and width of the images. ``relative`` is the Frobenius
    norm of the difference over that of PyTorch's logits, ``largest`` the largest absolute difference (both None for
    class ids), ``flips`` the share of the ``pixels`` of the output whose class differs.
    """

    output: str
    shape: tuple[int, int, int]
    pixels: int
    relative: float | None
    largest: float | None
    flips: float

    @property
    def passed(self) -> bool:
        """Whether the gates hold; a NaN does not pass."""
        few = self.flips <= max(FLIP_GATE, 1 / self.pixels)
        return few and (self.relative is None or self.relative <= RELATIVE_GATE)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A verified file: where it is, its opset, its metadata and the comparisons."""

    path: Path
    opset: int
    metadata: GraphMetadata
    comparisons: tuple[Comparison, ...]


def export(
    checkpoint: str | Path,
    path: str | Path,
    output: Output = "logits",
    stages: bool = False,
    role: str | None = None,
    opset: int = OPSET,
    experiment: ExperimentConfig | None = None,
    say: Callable[[str], None] = print,
    head: Head = "linear",
    *,
    input: Input = "image",
    batch: int | None = None,
    size: Size | None = None,
) -> Exported:
    """Export a network of ``checkpoint`` to ``path`` and verify the file with ONNX Runtime on the CPU.

    With ``stages`` the graph also gives every intermediate result of ``DeepLab.stages`` as ``stages.NAME``. ``role``
    picks one of several networks; ``experiment`` describes a file that does not describe itself; ``say`` gets the table
    of comparisons; ``head`` is the predictor whose logits the graph gives; ``input`` what it takes, ``batch`` and ``size``
    (height, width) its fixed shape. Raises :class:`UserError` for a checkpoint that cannot be exported and
    :class:`CheckFailed` when a gate is missed; ``path`` is then as it was before.
    """
    require_packages()
    if input == "picture" and (output != "class_ids" or stages):
        raise UserError(
            "a graph of pictures gives class ids and nothing else: use --input picture with --output class_ids"
        )
    from onnx_impl import graphs

    network, metadata = load(Path(checkpoint), output, role, experiment, head)
    metadata = replace(metadata, input=input, batch=batch, size=size)
    module = export_module(network, output, stages, head)
    model = graphs.with_global_pooling(trace(module, opset))
    if input == "picture":
        model = graphs.with_picture_input(model, metadata.mean, metadata.std)
    model = graphs.with_fixed_shape(model, batch, size)
    with atomic_path(path) as temporary:
        graphs.save(model, metadata, temporary)
        comparisons = verify(module, temporary)
        say(format_table(comparisons))
        failed = [comparison for comparison in comparisons if not comparison.passed]
        if failed:
            raise CheckFailed(
                f"{path} was not written: it differs from PyTorch at {_shapes(failed)}, past the gates above"
            )
        metadata = replace(metadata, gates=measured(comparisons))
        graphs.save(model, metadata, temporary)
    return Exported(path=Path(path), opset=opset, metadata=metadata, comparisons=comparisons)


def require_packages() -> None:
    """Raise :class:`UserError` naming the extras to install unless everything is there that exporting needs."""
    missing = [
        name for name in ("torch", "onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise UserError(
            f"exporting needs {', '.join(missing)}, not installed here; install the extras: pip install '.[torch,onnx]'"
        )


def load(
    checkpoint: Path, output: Output, role: str | None, experiment: ExperimentConfig | None, head: Head = "linear"
) -> tuple[Any, GraphMetadata]:
    """Return the network of a checkpoint in eval mode and the metadata of its graph."""
    from torch_impl.checkpoint import load_network
    from torch_impl.networks import build_network

    stored = read_network(checkpoint, role, experiment)
    if head == "prototype" and not stored.config.prototypes:
        raise UserError(f"{checkpoint} has no prototypes: head=prototype needs a network trained by pcr; use linear")
    network = build_network(stored.config, len(stored.classes))
    load_network(network, stored.tensors, str(checkpoint))
    metadata = GraphMetadata(
        output=output,
        classes=stored.classes,
        mean=stored.mean,
        std=stored.std,
        experiment=stored.experiment,
        role=stored.role,
        checkpoint_sha256=sha256(checkpoint),
        network=to_plain(stored.config),
        head=head,
    )
    return network.eval(), metadata


def export_module(network: Any, output: Output, stages: bool, head: Head = "linear") -> Any:
    """Return a module that maps images ``[B,3,H,W]`` to the graph's outputs, a tuple named by ``output_names``."""
    import torch
    from torch import Tensor, nn

    from onnx_impl.predictor import outputs_of
    from torch_impl.resize import resize

    class ExportModule(nn.Module):
        """The network with logits at the image's size, or with class ids."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.output_names = list(outputs_of(output, head))
            if stages:
                with torch.no_grad():
                    self.output_names += [f"stages.{name}" for name in network.stages(torch.zeros(1, 3, 33, 33))]

        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            results = network.stages(image) if stages else network(image)
            size = image.shape[2:]
            if head == "prototype":
                logits = network.prototype_logits(results["features"], size)
            else:
                logits = resize(results["logits"], size)
            outputs = (logits.argmax(1).to(torch.uint8),) if output == "class_ids" else (logits,)
            if "coarse_logits" in self.output_names:
                outputs += (results["logits"],)
            return (*outputs, *results.values()) if stages else outputs

    return ExportModule().eval()


def trace(module: Any, opset: int) -> Any:
    """Return the ONNX model of ``module`` with symbolic batch, height and width, without notes on the source code."""
    import torch

    with _quiet():
        program = torch.onnx.export(
            module,
            (torch.zeros(TRACED[0], 3, *TRACED[1:]),),
            dynamo=True,
            input_names=["image"],
            output_names=module.output_names,
            dynamic_shapes={"image": {0: "batch", 2: "height", 3: "width"}},
            opset_version=opset,
            verbose=False,
        )
        model = program.model_proto
    if model.opset_import[0].version != opset:
        raise UserError(
            f"--opset {opset}: this PyTorch cannot export to it; use {OPSET}, its own, or a later one that ONNX knows"
        )
    # The exporter writes stack traces with the paths of this machine, several times as long as the graph itself.
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    return model


def verify(module: Any, path: Path) -> tuple[Comparison, ...]:
    """Compare the file with PyTorch at the sizes of ``VERIFIED`` that it takes, on coarse coloured blocks with fine noise."""
    import torch

    from onnx_impl.predictor import STAGE_PREFIX, OnnxPredictor

    predictor = OnnxPredictor(path, threads=torch.get_num_threads())
    metadata = predictor.metadata
    comparisons = []
    for shape in verified_shapes(metadata.batch, metadata.size):
        images = inputs = _images(shape)
        if metadata.input == "picture":
            inputs = _pictures(images, metadata)
            images = np.stack([planes(picture, metadata.normalisation) for picture in inputs])
        with torch.no_grad():
            expected = module(torch.from_numpy(images))
        for name, value in zip(module.output_names, expected):
            if not name.startswith(STAGE_PREFIX):
                comparisons.append(compare(name, shape, value.numpy(), predictor.run(inputs, name)))
    return tuple(comparisons)


def verified_shapes(batch: int | None, size: Size | None) -> tuple[tuple[int, int, int], ...]:
    """Return the batches, heights and widths of ``VERIFIED`` with what is fixed put in, each once."""
    shapes = [(batch or images, *(size or (height, width))) for images, height, width in VERIFIED]
    return tuple(dict.fromkeys(shapes))


def measured(comparisons: tuple[Comparison, ...]) -> dict[str, Any]:
    """Return the largest differences and the limits that they kept, for the file's metadata."""
    relative = [comparison.relative for comparison in comparisons if comparison.relative is not None]
    return {
        "reference": "PyTorch on made-up images",
        "relative_error": max(relative, default=None),
        "flips": max(comparison.flips for comparison in comparisons),
        "limits": {"relative_error": RELATIVE_GATE, "flips": FLIP_GATE},
    }


def compare(output: str, shape: tuple[int, int, int], expected: np.ndarray, computed: np.ndarray) -> Comparison:
    """Compare logits ``[B,K,h,w]``, with sums in float64, or class ids ``[B,h,w]``, with the expected ones."""
    if expected.ndim == 3:
        differs, relative, largest = expected != computed, None, None
    else:
        differs = expected.argmax(1) != computed.argmax(1)
        difference = computed.astype(np.float64) - expected
        norm = float(np.linalg.norm(expected.astype(np.float64)))
        relative = float(np.linalg.norm(difference)) / norm if norm else math.nan
        largest = float(np.abs(difference).max())
    return Comparison(
        output=output, shape=shape, pixels=differs.size, relative=relative, largest=largest, flips=float(differs.mean())
    )


def format_table(comparisons: tuple[Comparison, ...]) -> str:
    """Return the comparisons as text for a terminal, the gates in the last line."""
    lines = [f"{'output':<13} {'batch':>5} {'height':>6} {'width':>5}  {'relative':>8}  {'largest':>8}  {'flips':>8}"]
    for comparison in comparisons:
        batch, height, width = comparison.shape
        numbers = "  ".join(_number(value) for value in (comparison.relative, comparison.largest, comparison.flips))
        verdict = "ok" if comparison.passed else "FAILED"
        lines.append(f"{comparison.output:<13} {batch:>5} {height:>6} {width:>5}  {numbers}  {verdict}")
    return "\n".join([*lines, f"{'gates':>32}  {_number(RELATIVE_GATE)}  {'':>8}  {_number(FLIP_GATE)}"])


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m converters.export_onnx", description=__doc__.split("\n")[0].split(": ", 1)[1]
    )
    parser.add_argument("checkpoint", type=user_path, help=".pth, .ckpt or .safetensors of this project")
    parser.add_argument("model", type=user_path, help="the .onnx file to write")
    parser.add_argument(
        "--input",
        choices=("image", "picture"),
        default="image",
        help="what the graph takes: normalised planes, or a picture's bytes (default: image)",
    )
    parser.add_argument(
        "--output",
        choices=("logits", "class_ids"),
        help="what the graph gives (default: logits; of a picture class_ids)",
    )
    parser.add_argument(
        "--size", type=positive, nargs=2, metavar=("H", "W"), help="only images of this size (default: any)"
    )
    parser.add_argument("--batch", type=positive, metavar="B", help="only this many images at a time (default: any)")
    parser.add_argument(
        "--head", choices=("linear", "prototype"), default="linear",
        help="whose logits: the classifier's or those of PCR's prototypes (default: linear)",
    )  # fmt: skip
    parser.add_argument(
        "--opset", type=positive, default=OPSET, help=f"version of the ONNX operators (default: {OPSET})"
    )
    parser.add_argument("--role", help="which network of a file of several, e.g. teacher (default: the one to deploy)")
    parser.add_argument(
        "--experiment",
        metavar="NAME",
        help="what a file of another program holds, e.g. voc/366/u2pl, or a run's folder",
    )
    parsed = parser.parse_args(arguments)
    if parsed.model.suffix != ".onnx":
        raise UserError(f"{parsed.model}: the file to write must be called .onnx")
    experiment = experiment_of(parsed.experiment, []) if parsed.experiment else None
    done = export(
        parsed.checkpoint, parsed.model, parsed.output or ("class_ids" if parsed.input == "picture" else "logits"),
        role=parsed.role, opset=parsed.opset, experiment=experiment, head=parsed.head, input=parsed.input,
        batch=parsed.batch, size=tuple(parsed.size) if parsed.size else None,
    )  # fmt: skip
    size = done.path.stat().st_size / 1e6
    print(
        f"{done.path}: {done.metadata.input} to {done.metadata.output} of {done.metadata.experiment or 'an unnamed experiment'} "
        f"({done.metadata.role}, {len(done.metadata.classes)} classes), opset {done.opset}, {size:.1f} MB, "
        "agrees with PyTorch"
    )


def _images(shape: tuple[int, int, int]) -> np.ndarray:
    batch, height, width = shape
    rng = generator(0, "export verification", *shape)
    blocks = rng.standard_normal((batch, 3, -(-height // 16), -(-width // 16)), np.float32)
    blocks = blocks.repeat(16, axis=2).repeat(16, axis=3)[:, :, :height, :width]
    return 1.5 * blocks + 0.3 * rng.standard_normal((batch, 3, height, width), np.float32)


def _pictures(images: np.ndarray, metadata: GraphMetadata) -> np.ndarray:
    """Return the pictures, uint8 ``[B,H,W,3]``, that images ``[B,3,H,W]`` come nearest to when normalised."""
    pixels = images.transpose(0, 2, 3, 1) * np.float32(metadata.std) + np.float32(metadata.mean)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _shapes(comparisons: list[Comparison]) -> str:
    return ", ".join(dict.fromkeys("x".join(map(str, comparison.shape)) for comparison in comparisons))


def _number(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{value:8.1e}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks about packages and conversions; what went wrong is checked afterwards."""
    names = ("torch.onnx", "onnxscript", "onnx_ir")
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
