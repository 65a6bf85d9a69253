"""One valid file of every kind that the commands read, in a folder small enough to be copied for every mutation.

The folder is the home of the commands: their settings name data and lists by ``~``.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

import common.make_subclasses.__main__ as make_subclasses
import converters.convert_ckpt as convert_ckpt
import converters.package as package
import experiments.campaign.__main__ as campaign_command
import torch_impl.eval as torch_eval
import torch_impl.features as torch_features
import torch_impl.train as torch_train
from common.checkpoints.checkpoint import read
from common.checkpoints.ckpt_file import write_ckpt
from common.checkpoints.dialects import mindspore_norms
from common.command_line import run_command
from common.config.layers import dataset_config
from common.files import write_json_atomic
from common.runs.run_folder import RunFolder
from common.segmenting.video import VideoFile
from experiments.campaign.plan import read_campaign, runs_of
from experiments.campaign.rows import Rows
from experiments.campaign.seconds import Seconds
from tests.npm import npm_package
from tests.torch_files import tar_of

SETTINGS = [
    "dataset.name=own", "dataset.root=~/data", "split.folder=~/splits", "network.preset=tiny", "augment.crop=32",
    "loader.workers=0", "loader.batch_labelled=2", "trainer.epochs=2", "trainer.iterations_per_epoch=1",
    "trainer.pictures=1", "trainer.log_every=1", "evaluation.protocol=whole", "trainer.device=cpu",
]  # fmt: skip
CACHED = "dataset.cache=~/cache"
SUPONLY, BASELINE, USRN, PCR = (f"voc_mini/few/{method}" for method in ("suponly", "usrn_baseline", "usrn", "pcr"))
LISTS = {
    "data/ImageSets/Segmentation/train.txt": "abcd",
    "data/ImageSets/Segmentation/val.txt": "ef",
    "splits/own/few/labeled.txt": "ab",
    "splits/own/few/unlabeled.txt": "cd",
    "splits/voc_mini/few/labeled.txt": "ab",
}
SHAPE = (40, 48)


def build(home: Path) -> None:
    """Fill ``home``, which must be what ``~`` means."""
    pictures(home)
    for name, ids in LISTS.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("".join(f"{image}\n" for image in ids))
    film = VideoFile(home / "videos/film.avi", 25.0)
    for shade in (0, 90, 200):
        film.write(np.full((32, 40, 3), shade, np.uint8))
    film.close()
    archives(home)
    (home / "dataset.yaml").write_text(json.dumps({"dataset": {"classes": list(dataset_config("voc_mini").classes)}}))
    succeed(torch_train.main, SUPONLY, *SETTINGS, "--run-dir", str(home / "run"))
    best = ["--checkpoint", str(home / "run/best.pth"), "--out", str(home / "out")]
    succeed(torch_eval.main, SUPONLY, *SETTINGS, CACHED, *best)
    shutil.rmtree(home / "out")
    checkpoints(home)
    subclasses(home)
    campaign(home)
    np.savez(home / "prototypes.npz", prototypes=np.random.default_rng(0).random((21, 3, 48), np.float32))
    scores = {"miou_percent": 1.0, "device": "cpu", "version": "1", "images": 2}
    write_json_atomic(home / "parity.json", {"scores": {"torch": scores}})
    npm_package(home / "ort.tgz")
    with_pages = ["--web", str(home / "ort.tgz"), "--triton"]
    succeed(package.main, str(home / "run"), str(home / "model"), "--parity", str(home / "parity.json"), *with_pages)


def succeed(main, *arguments: str) -> None:
    """Run a command that must work."""
    assert run_command(main, list(arguments)) == 0, arguments


def pictures(home: Path) -> None:
    """Six pictures with labels in the layout ``voc``, and pictures of other formats to be segmented."""
    rng = np.random.default_rng(0)
    for folder in ("data/JPEGImages", "data/SegmentationClass", "pictures", "videos"):
        (home / folder).mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 3
    for name in "abcdef":
        picture = Image.fromarray(rng.integers(0, 256, (*SHAPE, 3), np.uint8))
        picture.save(home / f"data/JPEGImages/{name}.jpg", exif=turned if name == "b" else Image.Exif())
        label = Image.fromarray(rng.integers(0, 5, SHAPE, np.uint8))
        if name in "ace":
            label.putpalette(list(range(256)) * 3)
        label.save(home / f"data/SegmentationClass/{name}.png")
    rgb = rng.integers(0, 256, (33, 41, 3), np.uint8)
    for name, picture in {
        "a.jpg": Image.fromarray(rgb), "b.png": Image.fromarray(rgb).convert("P"), "c.bmp": Image.fromarray(rgb),
        "d.webp": Image.fromarray(rgb), "e.tif": Image.fromarray(rgb[..., 0].astype(np.uint16) * 257),
        "f.ppm": Image.fromarray(rgb), "g.png": Image.fromarray(rgb).convert("LA"),
    }.items():  # fmt: skip
        picture.save(home / "pictures" / name)


def archives(home: Path) -> None:
    """The lists as a zip and as a tar archive."""
    (home / "lists").mkdir()
    files = {name: (home / name).read_bytes() for name in LISTS if name.startswith("splits/own")}
    with zipfile.ZipFile(home / "lists/lists.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    for name, mode in {"lists.tar": "w:", "lists.tgz": "w:gz"}.items():
        with tarfile.open(home / "lists" / name, mode) as archive:
            for file, content in files.items():
                entry = tarfile.TarInfo(file)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    (home / "lists/one.txt").write_text("a\nb\n")


def checkpoints(home: Path) -> None:
    """The run's best network in every format, and the run as MindSpore would have left it."""
    import torch

    folder = home / "checkpoints"
    best, network = home / "run/best.pth", read(home / "run/best.pth").networks["model"]
    for name in ("one.safetensors", "two.ckpt", "three.pth"):
        succeed(convert_ckpt.main, str(best), str(folder / name))
    torch.save(torch.load(best, weights_only=True), folder / "legacy.pth", _use_new_zipfile_serialization=False)
    tar_of(folder / "tar.pth", {name: array for name, array in network.items() if array.dtype == np.float32})
    named = mindspore_norms(network)
    moments = {f"moments.{name}": array for name, array in named.items() if not name.endswith(("mean", "variance"))}
    rate = {"learning_rate": np.float32([0.1]), "global_step": np.int32([3]), "epoch_num": np.array(1)}
    write_ckpt(folder / "training.ckpt", named | moments | rate)
    shutil.copy(home / "run/last.pth", folder / "last.pth")
    for name in ("last", "best"):
        succeed(convert_ckpt.main, str(home / f"run/{name}.pth"), str(home / f"mindspore_run/{name}.ckpt"))
    for name in ("config.yaml", "log.jsonl", "result.json"):
        shutil.copy(home / "run" / name, home / "mindspore_run")


def campaign(home: Path) -> None:
    """A campaign of one run, which is there."""
    file = home / "trial.yaml"
    settings = [*SETTINGS, "trainer.epochs=2", "trainer.evaluate_every=1"]
    group = {"experiments": [SUPONLY], "torch": [1]}
    file.write_text(json.dumps({"title": "A trial", "overrides": settings, "groups": [group]}, indent=1))
    (run,) = runs_of(read_campaign(file))
    Rows(home / "trial").add(run, RunFolder(home / "run"), 1, Seconds(home / "run.seconds.json", run))
    succeed(campaign_command.main, str(file), "--page")


def subclasses(home: Path) -> None:
    """Features of the baseline, and subclass labels made from them."""
    checkpoint = ["--checkpoint", str(home / "run/best.pth")]
    succeed(torch_features.main, BASELINE, *SETTINGS, *checkpoint, "--out", str(home / "features"))
    make = [
        USRN,
        *SETTINGS,
        "method.subclass_share=0.3",
        "--features",
        str(home / "features"),
        *checkpoint,
        "--out",
        str(home / "subclasses"),
    ]
    succeed(make_subclasses.main, *make)
