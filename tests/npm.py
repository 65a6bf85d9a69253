"""A package as ``npm pack`` downloads it, with made-up files."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from converters.web import RUNTIME


def npm_package(path: Path, name: str = "onnxruntime-web", files: tuple[str, ...] = RUNTIME) -> Path:
    """Write a package of made-up files, packed as npm packs."""
    members = {"package.json": json.dumps({"name": name, "version": "9.9", "license": "MIT"}).encode()}
    members |= {f"dist/{file}": file.encode() for file in files}
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members.items():
            entry = tarfile.TarInfo(f"package/{member}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path
