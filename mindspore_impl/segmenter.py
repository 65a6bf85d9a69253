"""A checkpoint or packaged model ready to segment pictures in MindSpore; the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

from pathlib import Path

from common.config.schema import ExperimentConfig, Head, Normalisation
from common.models.model_folder import model_file
from common.models.stored_network import StoredNetwork, read_network
from common.segmenting.segmenter import Segmenter, config_of, palette_of
from mindspore_impl.checkpoint import load_network
from mindspore_impl.device import choose_device, processors
from mindspore_impl.networks import build_network
from mindspore_impl.predictor import MindSporePredictor


def open_segmenter(
    path: str | Path, device: str = "auto", role: str | None = None, experiment: str | None = None,
    head: Head | None = None, threads: int | None = None,
) -> Segmenter:  # fmt: skip
    """Return the network of a checkpoint, or of a packaged model's folder, on ``device``.

    ``role`` picks one of several networks (None: the one to deploy); ``experiment`` names what a file of another program
    holds; ``head`` is whose class ids are given (None: the packaged model's, else the classifier's). Raises
    :class:`common.errors.UserError` for a file that cannot be used.
    """
    path = Path(path)
    config = config_of(path, experiment)
    predictor, stored = load_predictor(model_file(path, "mindspore"), config, role, device, head, threads)
    normalisation = Normalisation(mean=stored.mean, std=stored.std)
    return Segmenter(predictor, stored.classes, normalisation, palette_of(path, stored.experiment))


def load_predictor(
    path: Path, config: ExperimentConfig | None, role: str | None, device: str, head: Head | None, threads: int | None
) -> tuple[MindSporePredictor, StoredNetwork]:
    """Return the predictor of a file's network of ``role``, and what the file says of it.

    ``config`` describes it where the file does not, and contradicts it nowhere; ``threads`` None leaves their number alone.
    """
    with processors(threads):
        chosen = choose_device(device)
    stored = read_network(path, role, config)
    network = build_network(stored.config, len(stored.classes))
    load_network(network, stored.tensors, str(path))
    head = head or (config.evaluation.head if config else "linear")
    return MindSporePredictor(network, chosen, head), stored
