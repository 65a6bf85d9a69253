"""``python -m onnx_impl.serve FOLDER``: a packaged model behind HTTP: KServe version 2, ``/segment``, metrics, a page.

One process, one session, one request in the network at a time; others wait in a bounded queue. It listens to this machine
alone unless ``--host`` says otherwise, and ends on SIGTERM or Ctrl-C when the requests it has taken are answered.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.command_line import number, positive, run_command, user_path
from common.errors import UserError
from common.experiment import load
from common.files import read_json
from common.models.model_folder import CONFIG, is_model_folder, model_file
from common.reports.palettes import colours
from onnx_impl.providers import add_provider_options, mebibytes, provider_options
from onnx_impl.serving.refusal import Limits
from onnx_impl.web.page import FILES, describe_page

if TYPE_CHECKING:
    from onnx_impl.predictor import OnnxPredictor

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""A model's name in addresses."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parser().parse_args(arguments)
    name, predictor, app = open_model(options)

    from onnx_impl.serving.listening import ended_by_signals, listen, server_of

    with listen(options.host, options.port) as listener:
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        server = server_of(app, limits_of(options))
        with ended_by_signals(server):
            print(f"{name} on {predictor.runtime.device}: {address}/ and {address}/v2/models/{name}", flush=True)
            server.run(sockets=[listener])
    print("stopped")


def open_model(options: argparse.Namespace) -> tuple[str, OnnxPredictor, Any]:
    """Return the name, the predictor and the ASGI application of the model that the command's options name.

    All that is read of a folder is read here, but for the files of its page. Raises :class:`UserError`.
    """
    file = model_file(options.model, "onnx")
    name = options.name or (options.model.resolve().name if options.model.is_dir() else file.stem)
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot stand in an address; name the model with --name, letters, digits, . _ -")

    from onnx_impl.predictor import OnnxPredictor

    predictor = OnnxPredictor(file, provider_options(options, options.threads))
    table = colours(options.palette or palette_of(home_of(options.model)), predictor.classes)
    return name, predictor, application(predictor, name, table, limits_of(options), options.model)


def limits_of(options: argparse.Namespace) -> Limits:
    """Return the limits that the command's options name."""
    return Limits(
        bytes=options.max_bytes, pixels=options.max_pixels, queue=options.queue, seconds=options.timeout,
        connections=options.connections,
    )  # fmt: skip


def application(predictor: OnnxPredictor, name: str, table: np.ndarray, limits: Limits, model: Path) -> Any:
    """Return the ASGI application for a model that was opened from ``model``, a packaged model's folder or a file."""
    from onnx_impl.serving.app import Service

    metadata = predictor.metadata
    home = home_of(model)
    folder = home / "web"
    made = is_model_folder(home) and (folder / "page.json").is_file()
    stored = _stored(folder / "page.json") if made else {}
    page = describe_page(name, metadata.classes, table, metadata.size) | {
        "server": {
            "url": f"v2/models/{name}/infer",
            "precision": predictor.contents.precision,
            "pixels": limits.pixels,
        },
        "models": stored.get("models", []),
        "runtime": stored.get("runtime"),
    }
    return Service(
        predictor, name, table, limits, (metadata.batch, metadata.size), page, folder if made else FILES
    ).app()  # fmt: skip


def _stored(path: Path) -> dict[str, Any]:
    try:
        stored = read_json(path)
    except ValueError:
        stored = None
    if not isinstance(stored, dict):
        raise UserError(f"{path} is not what converters.package --web writes; package the model again")
    return stored


def home_of(model: Path) -> Path:
    """Return the folder that a model is, or lies in; it may be a packaged model."""
    return model if model.is_dir() else model.parent


def palette_of(home: Path) -> str:
    """Return the palette of the data set that a packaged model was trained on, else VOC's."""
    return load(home / CONFIG).dataset.palette if is_model_folder(home) else "voc"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    defaults = Limits()
    made = argparse.ArgumentParser(
        prog="python -m onnx_impl.serve", description="Serve an exported model over HTTP, with a page to try it."
    )
    made.add_argument(
        "model", type=user_path, metavar="FOLDER", help="a packaged model's folder, or a .onnx file (of one)"
    )
    made.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    made.add_argument(
        "--port", type=number(0, 65535, int), default=8000, help="0 takes a free one (default: %(default)s)"
    )
    made.add_argument("--name", help="the model's name in addresses (default: the folder's)")
    made.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all)")
    made.add_argument(
        "--max-bytes", type=mebibytes, default=defaults.bytes, metavar="MIB",
        help=f"largest body (default: {defaults.bytes >> 20})",
    )  # fmt: skip
    made.add_argument(
        "--max-pixels", type=positive, default=defaults.pixels, metavar="N",
        help="most pixels in a request, looked at before decoding (default: %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--queue", type=positive, default=defaults.queue, metavar="N",
        help="requests that may wait; the next one is answered with 503 (default: %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--timeout", type=number(0.001, 86399), default=defaults.seconds, metavar="S",
        help="seconds for a body, and then for its answer (default: %(default)g)",
    )  # fmt: skip
    made.add_argument(
        "--connections", type=positive, default=defaults.connections, metavar="N",
        help="most clients at a time (default: %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--palette", choices=("voc", "cityscapes", "camvid"), help="colours (default: a packaged model's own, else voc)"
    )
    add_provider_options(made)
    return made


if __name__ == "__main__":
    raise SystemExit(run_command(main))
