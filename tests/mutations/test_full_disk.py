"""A disk that is full: every writer ends in one line with exit code 2, keeps what was there and leaves no half file."""

from __future__ import annotations

import importlib
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from common.command_line import run_command  # noqa: E402
from tests.mutations.guard import contents  # noqa: E402
from tests.mutations.valid import BASELINE, SETTINGS, SUPONLY, USRN  # noqa: E402

pytestmark = pytest.mark.onnx
TINY, SMALL = 60, 6000
"""Bytes of the largest file that can be written: hardly anything, or a run's settings but no network."""


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file grow beyond ``size`` bytes: writing more is an ``OSError``, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


BEST, OUT = "{home}/run/best.pth", "{home}/out"
WRITERS = {
    "pth": (SMALL, "converters.convert_ckpt", BEST, f"{OUT}/a.pth"),
    "ckpt": (SMALL, "converters.convert_ckpt", BEST, f"{OUT}/a.ckpt"),
    "safetensors": (SMALL, "converters.convert_ckpt", BEST, f"{OUT}/a.safetensors"),
    "train": (TINY, "torch_impl.train", SUPONLY, *SETTINGS, "--run-dir", OUT),
    "train saves": (SMALL, "torch_impl.train", SUPONLY, *SETTINGS, "--run-dir", OUT),
    "resume": (TINY, "torch_impl.train", SUPONLY, *SETTINGS, "--run-dir", "{home}/run", "--resume"),
    "result": (TINY, "torch_impl.eval", SUPONLY, *SETTINGS, "--checkpoint", BEST, "--out", OUT),
    "dump": (TINY, "torch_impl.eval", SUPONLY, *SETTINGS, "--checkpoint", BEST, "--out", OUT, "--dump", OUT),
    "logits": (
        SMALL, "torch_impl.eval", SUPONLY, *SETTINGS, "--checkpoint", BEST, "--out", OUT, "--dump", OUT, "--dump-logits", "1",
    ),
    "images": (TINY, "torch_impl.eval", SUPONLY, *SETTINGS, "--checkpoint", BEST, "--out", OUT, "--save-images"),
    "cache": (TINY, "torch_impl.eval", SUPONLY, *SETTINGS, "dataset.cache=~/cache", "--checkpoint", BEST, "--out", OUT),
    "features": (TINY, "torch_impl.features", BASELINE, *SETTINGS, "--checkpoint", BEST, "--out", OUT),
    "subclasses": (
        TINY, "common.make_subclasses.__main__", USRN, *SETTINGS, "method.subclass_share=0.3", "--features", "{home}/features", "--checkpoint", BEST, "--out", OUT,
    ),
    "lists": (TINY, "common.splits.__main__", "make", "shapes/mine", "--count", "50", "--out", OUT),
    "import": (0, "common.splits.__main__", "import", "voc_mini/new", "{home}/lists/lists.zip", "--folder", OUT),
    "page": (SMALL, "common.check_data.__main__", SUPONLY, *SETTINGS, "--page", f"{OUT}/page.html"),
    "pictures": (TINY, "onnx_impl.predict", "{home}/model", "{home}/pictures/a.jpg", "--out", OUT),
    "bench": (TINY, "onnx_impl.bench", "{home}/model", "--size", "33", "33", "--runs", "1", "--json", f"{OUT}/b.json"),
    "graph": (SMALL, "converters.export_onnx", BEST, f"{OUT}/a.onnx"),
    "package": (SMALL, "converters.package", "{home}/run", OUT),
    "half": (SMALL, "onnx_impl.halve", "{home}/model", f"{OUT}/a.onnx", SUPONLY, *SETTINGS),
}  # fmt: skip
WHOLE_PARTS = ("train saves", "features", "logits", "images", "dump", "resume")
"""Writers of several files, of which those that were written before stay."""


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(writer, home, capsys):
    size, module, *arguments = WRITERS[writer]
    main = importlib.import_module(module).main
    before = contents(home)
    with room_for(size):
        code = run_command(main, [argument.format(home=home) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 2, (out, err)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and err.splitlines()[-1] == errors[0] and "Traceback" not in err
    assert "File too large" in errors[0], errors
    after = contents(home)
    assert {name: after.get(name) for name in before} == before
    new = [name for name in after.keys() - before.keys() if after[name] is not None]
    assert not [name for name in new if "/." in f"/{name}"]
    assert writer in WHOLE_PARTS or not new
