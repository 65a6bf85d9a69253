"""Files as the authors' programs write them, made from a golden manifest and seeded weights, with the logits they give.

The goldens lie beside the checkout (``../shared/golden``, or ``SHARED``), else in ``tests/goldens``; every network file
found there is a case.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.checkpoints.ckpt_file import write_ckpt
from tests.goldens.seeded import seeded_state
from tests.places import SHARED

TESTS = Path(__file__).resolve().parents[1]
OTHER_SEED = 1000
"""Added to the seed of a network that must not be taken for the wanted one."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """One input and what the authors' network gives for it: logits at stride 4, at full size, every so many pixels."""

    images: np.ndarray
    coarse: np.ndarray
    full: np.ndarray | None = None
    step: int = 1


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file of one layout: what it holds by role, and the logits of one role, from the golden file ``path``."""

    dialect: str
    path: Path
    role: str
    classes: int
    networks: dict[str, dict[str, np.ndarray]]
    expected: tuple[Expected, ...]
    settings: tuple[str, ...] = ()
    wrapper: dict = field(default_factory=dict)

    @property
    def suffix(self) -> str:
        """The format of the authors' file."""
        return ".ckpt" if self.dialect == "pcr-mindspore" else ".pth"

    def write(self, path: Path) -> dict:
        """Write the file as the authors' program does and return its networks' tensors by top-level key."""
        if self.suffix == ".ckpt":
            content = {f"module.{name}": array for name, array in self.networks["teacher"].items()}
            write_ckpt(path, content)
            return {"": content}
        import torch

        places = {"student": "model_state", "teacher": "teacher_state"} if self.dialect in ("u2pl", "pcr") else {}
        key = {"cpcl": "model", "cps": "model", "usrn": "state_dict", "uccl": "model"}.get(self.dialect, "")
        prefix = "" if self.dialect in ("cpcl", "cps") else "module."
        parts = {
            places.get(role, key): {f"{prefix}{name}": array for name, array in tensors.items()}
            for role, tensors in self.networks.items()
        }
        payload = {
            name: {n: torch.from_numpy(np.array(a)) for n, a in parts[name].items()} if name in parts else value
            for name, value in self.wrapper.items()
        }
        torch.save(payload, path)
        return parts


def folder(method: str) -> Path | None:
    """Return where the golden files of a method lie, None where they are not here."""
    return next((path for path in (SHARED / method, TESTS / "goldens" / method) if path.is_dir()), None)


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes in a manifest, whatever its form."""
    content = json.loads(path.read_text(encoding="utf-8"))
    entries = next(
        content[key] for key in ("state_dict", "shapes", "parameters") if not isinstance(content.get(key, 0), int)
    )
    return {name: tuple(shape) for name, shape in (entries.items() if isinstance(entries, dict) else entries)}


def optimizer() -> dict:
    """The state of an optimiser, as little as it takes to have lists and nested dicts."""
    return {"state": {0: {"momentum_buffer": None}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}


def u2pl(path: Path) -> Iterator[Case]:
    """``net_VARIANT_SIZE``: student and teacher, of which the teacher counts; a supervised file has the student only."""
    arrays = np.load(path)
    variant = path.stem.removeprefix("net_").rpartition("_")[0]
    shapes, seed = shapes_of(path.with_name(f"manifest_{variant}.json")), int(arrays["seed"])
    role = "teacher" if "semi" in variant else "student"
    networks = {"student": seeded_state(shapes, seed if role == "student" else seed + OTHER_SEED)}
    if role == "teacher":
        networks["teacher"] = seeded_state(shapes, seed)
    yield Case(
        dialect="u2pl", path=path, role=role, classes=arrays["pred"].shape[1], networks=networks,
        expected=(Expected(images=arrays["input"], coarse=arrays["pred"]),), wrapper=_u2pl_wrapper(networks),
    )  # fmt: skip


def pcr(path: Path) -> Iterator[Case]:
    """``net_DATA_FRAMEWORK_names_SIZE``, with the max-pooling of PyTorch and that of the authors' MindSpore release."""
    arrays = np.load(path)
    data, framework = path.stem.split("_")[1:3]
    shapes = shapes_of(path.with_name(f"manifest_{data}_{framework}.json"))
    teacher = seeded_state(shapes, int(arrays["seed"]))
    networks = {"teacher": teacher}
    if framework == "torch":
        networks = {"student": seeded_state(shapes, int(arrays["seed"]) + OTHER_SEED), "teacher": teacher}
    preds = {"ceil": arrays["pred_torch_ceil"]}
    if framework == "mindspore" and not arrays["pools_agree"]:
        preds["same"] = arrays["pred_mindspore"]
    experiment = {"voc": "voc/366/pcr", "city": "cityscapes/744/pcr"}[data]
    for pool, pred in preds.items():
        settings = () if pool == "ceil" else (experiment, f"network.stem_pool={pool}")
        yield Case(
            dialect="pcr" if framework == "torch" else "pcr-mindspore", path=path, role="teacher",
            classes=pred.shape[1], networks=networks, expected=(Expected(images=arrays["input"], coarse=pred),),
            settings=settings, wrapper=_u2pl_wrapper(networks),
        )  # fmt: skip


def cpcl(path: Path) -> Iterator[Case]:
    """``logits_DATA_BACKBONE``: both branches in one state dict, in CPCL's and in CPS's wrapper."""
    arrays = np.load(path)
    whole = seeded_state(
        shapes_of(path.with_name(f"manifest_{path.stem.removeprefix('logits_')}.json")), int(arrays["seed"])
    )
    numbers = sorted(name.removeprefix("input_") for name in arrays.files if name.startswith("input_"))
    first = tuple(
        Expected(images=arrays[f"input_{n}"], coarse=arrays[f"logits_low_{n}"], full=_optional(arrays, f"logits_{n}"))
        for n in numbers
    )
    second = (Expected(images=arrays["input_0"], coarse=arrays["logits_branch2_0"]),)
    for dialect, names, role, expected in (
        ("cpcl", ("optimizer_1", "optimizer_2"), "branch1", first),
        ("cps", ("optimizer_l", "optimizer_r"), "branch2", second),
    ):
        wrapper = {"model": None} | {name: optimizer() for name in names} | {"epoch": 33, "iteration": 1239}
        yield Case(
            dialect=dialect, path=path, role=role, classes=first[0].coarse.shape[1], networks={"whole": whole},
            expected=expected, wrapper=wrapper,
        )  # fmt: skip


def usrn(path: Path) -> Iterator[Case]:
    """``net_KIND_LAYERS_SPLIT``: the baseline, or the network with two branches, each branch on its own."""
    arrays = np.load(path)
    shapes = shapes_of(path.with_name(f"manifest_{path.stem.removeprefix('net_')}.json"))
    networks = {"student": seeded_state(shapes, int(arrays["hp_seed"]))}
    numbers = sorted(name.removeprefix("in_image_") for name in arrays.files if name.startswith("in_image_"))
    expected = tuple(
        Expected(
            images=arrays[f"in_image_{n}"], coarse=arrays[f"out_low_{n}"],
            full=arrays[f"out_logits_every_third_{n}"], step=3,
        ) for n in numbers
    )  # fmt: skip
    roles = {"class" if "usrn" in path.stem else "student": expected}
    for number in numbers:
        if f"out_low_sub_{number}" in arrays.files:
            low = Expected(images=arrays[f"in_image_{number}"], coarse=arrays[f"out_low_sub_{number}"])
            roles["subclass"] = (low,)
    wrapper = {"arch": "DistributedDataParallel", "epoch": 61, "state_dict": None, "monitor_best": 71.23}
    for role, wanted in roles.items():
        yield Case(
            dialect="usrn", path=path, role=role, classes=wanted[0].coarse.shape[1], networks=networks, expected=wanted,
            wrapper=wrapper,
        )  # fmt: skip


def uccl(path: Path) -> Iterator[Case]:
    """``network_BACKBONE_DATA``; the manifest has VOC's 21 classes."""
    arrays = np.load(path)
    classes = int(arrays["nclass"])
    shapes = shapes_of(path.with_name(f"manifest_{path.stem.split('_')[1]}.json"))
    shapes = {n: (classes, *shape[1:]) if n.startswith("classifier.") else shape for n, shape in shapes.items()}
    expected = Expected(images=arrays["image"], coarse=arrays["low_logits"], full=arrays["logits"])
    wrapper = {"model": None, "optimizer": optimizer(), "epoch": 79, "previous_best": np.float64(77.08)}
    yield Case(
        dialect="uccl", path=path, role="student", classes=classes,
        networks={"student": seeded_state(shapes, int(arrays["seed"]))}, expected=(expected,), wrapper=wrapper,
    )  # fmt: skip


PLACES = {
    "u2pl": ("net_*.npz", u2pl),
    "pcr": ("net_*.npz", pcr),
    "cpcl": ("network/logits_*.npz", cpcl),
    "usrn": ("net_*.npz", usrn),
    "uccl": ("network_*.npz", uccl),
}
"""Where a method's network files lie in its folder, and what reads them."""


def network_files() -> list[tuple[str, Path]]:
    """Return method and path of every network golden that is here."""
    here = ((method, folder(method), pattern) for method, (pattern, _) in PLACES.items())
    return [(method, path) for method, where, pattern in here if where for path in sorted(where.glob(pattern))]


def cases(method: str, path: Path) -> list[Case]:
    """Return the cases of one network golden."""
    return list(PLACES[method][1](path))


def _optional(arrays: np.lib.npyio.NpzFile, name: str) -> np.ndarray | None:
    return arrays[name] if name in arrays.files else None


def _u2pl_wrapper(networks: dict) -> dict:
    keys = {"epoch": 80, "model_state": None, "optimizer_state": optimizer(), "teacher_state": None}
    kept = {key: value for key, value in keys.items() if key != "teacher_state" or "teacher" in networks}
    return kept | {"best_miou": np.float64(0.7949)}
