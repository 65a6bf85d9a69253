"""``package --web``: a static folder that runs the model in a browser and fetches nothing from elsewhere.

It holds the page, the model's picture graphs, one per precision, and two files of onnxruntime-web, which come from its npm
package as ``npm pack onnxruntime-web`` downloads it. Any web server can give it out: ``python -m http.server --directory OUT/web``.
"""

from __future__ import annotations

import shutil
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import parse_json, require_ordinary, sha256, write_json_atomic
from common.reports.palettes import colours

WEB = "web"
"""The folder's name in a packaged model."""
NPM = "npm pack onnxruntime-web@1.30.0"
"""The command that downloads what ``--web`` takes, in the version that was tested."""
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")


def write_web(folder: Path, name: str, palette: str, sources: Sequence[Path], package: Path) -> Path:
    """Write ``folder`` for the exported graphs ``sources`` and return it.

    ``palette`` names the colours of the classes; ``package`` is onnxruntime-web's .tgz or unpacked folder. Raises
    :class:`UserError` when that is something else.
    """
    from onnx_impl.picture_graph import write_picture_graph
    from onnx_impl.web.page import FILES, describe_page

    shutil.copytree(FILES, folder)
    runtime = copy_runtime(package, folder / "runtime")
    models: list[dict[str, Any]] = []
    for source in sources:
        scratch = folder / "model.onnx"
        metadata = write_picture_graph(source, scratch)
        file = scratch.rename(folder / f"{metadata.precision}.onnx")
        models.append(
            {"file": file.name, "precision": metadata.precision, "bytes": file.stat().st_size, "sha256": sha256(file)}
        )
    models.sort(key=lambda model: model["bytes"])
    page = describe_page(name, metadata.classes, colours(palette, len(metadata.classes)), metadata.size)
    write_json_atomic(folder / "page.json", page | {"models": models, "runtime": runtime})
    return folder


def copy_runtime(package: Path, folder: Path) -> dict[str, Any]:
    """Copy onnxruntime-web's files from its npm package to ``folder``; return its name, version, licence and their digests."""
    members = {"package.json": "package.json"} | {name: f"dist/{name}" for name in RUNTIME}
    folder.mkdir()
    try:
        if package.is_dir():
            for name, path in members.items():
                shutil.copyfile(package / path, folder / name)
        else:
            require_ordinary(package)
            with tarfile.open(package) as archive:
                for name, path in members.items():
                    file = archive.extractfile(f"package/{path}")
                    if file is None:
                        raise KeyError(path)
                    with file, open(folder / name, "wb") as target:
                        shutil.copyfileobj(file, target)
        described = parse_json((folder / "package.json").read_bytes())
        if described["name"] != "onnxruntime-web":
            raise KeyError(described["name"])
    except (OSError, KeyError, TypeError, ValueError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"{package} is not the npm package onnxruntime-web ({error}); get it with {NPM}") from None
    (folder / "package.json").unlink()
    return {
        "package": described["name"], "version": described.get("version"), "licence": described.get("license"),
        "sha256": {name: sha256(folder / name) for name in RUNTIME},
    }  # fmt: skip
