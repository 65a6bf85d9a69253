"""Names as wrappers and training leave them: each layout is read as if they were not there, and what is left out is named."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest

from common.checkpoints.checkpoint import Checkpoint, read, write
from common.checkpoints.ckpt_file import write_ckpt
from common.checkpoints.dialects import mindspore_norms
from common.checkpoints.formats import content_format
from common.checkpoints.layouts import DIALECTS
from common.checkpoints.meta import CheckpointMeta
from common.checkpoints.wrappers import unwrapped, without_holder
from common.errors import UserError

LAYOUTS = [name for name, layout in DIALECTS.items() if not layout.marks.same_as and not layout.native]


def payload_of(dialect: str, wrap) -> dict:
    """A file of the layout with a few names of each of its rules, each name as ``wrap`` writes it."""
    layout, content = DIALECTS[dialect], {}
    number = 0
    for slot in layout.slots:
        part = content.setdefault(slot.key, {})
        for _, foreign in layout.rules:
            for leaf in ("0.conv1.weight", "0.bn1.bias"):
                number += 1
                part[wrap(f"{slot.prefix}{foreign}.{leaf}")] = np.array([number, 0], np.float32)
    content |= {entry: {} for entry in layout.marks.entries}
    return content | content.pop("", {})


WRAPS = {
    "module": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "compiled, parallel": lambda name: f"_orig_mod.module.{name}",
    "parallel, compiled, averaged": lambda name: f"module.module._orig_mod.{name}",
    "a part compiled": lambda name: name.replace(".0.", "._orig_mod.0.", 1),
    "sharded": lambda name: f"_fsdp_wrapped_module.{name.replace('.0.', '._checkpoint_wrapped_module.0.', 1)}",
    "held": lambda name: f"net.{name}",
    "held and parallel": lambda name: f"lit.module.net.{name}",
}


@pytest.mark.parametrize("dialect", LAYOUTS)
@pytest.mark.parametrize("wrap", WRAPS)
def test_wrappers_are_taken_off_in_every_layout(dialect, wrap):
    layout = DIALECTS[dialect]
    plain, wrapped = layout.networks(payload_of(dialect, str)), layout.networks(payload_of(dialect, WRAPS[wrap]))
    assert not plain.homeless and not wrapped.homeless and plain.by_role.keys() == wrapped.by_role.keys()
    assert all(same(wrapped.by_role[role], tensors) for role, tensors in plain.by_role.items())
    if dialect != "pcr-mindspore":  # told apart from PCR by its BatchNorms, which these names lack
        assert layout.fits(payload_of(dialect, str)) and layout.fits(payload_of(dialect, WRAPS[wrap]))


def test_names_that_would_become_one_stay_as_they_are():
    tensors = {"module.a.weight": np.zeros(1), "a.weight": np.ones(1)}
    assert unwrapped(tensors) == tensors


@pytest.mark.parametrize(
    ("names", "known", "expected"),
    [
        (["net.a.w", "net.b.w"], {"a"}, ["a.w", "b.w"]),
        (["net.a.w", "net.b.w"], {"net"}, ["net.a.w", "net.b.w"]),
        (["net.a.w", "net.b.w"], {"other"}, ["net.a.w", "net.b.w"]),
        (["net.a.w", "loss.w"], {"a"}, ["net.a.w", "loss.w"]),
        (["net.w", "net.a.w"], {"other"}, ["net.w", "net.a.w"]),
    ],
)
def test_a_holder_is_taken_off_only_where_known_names_appear(names, known, expected):
    assert list(without_holder(dict.fromkeys(names, np.zeros(1)), known)) == expected


def own_tensors() -> dict[str, np.ndarray]:
    names = [
        "encoder.conv1.weight",
        "encoder.bn1.weight",
        "encoder.bn1.running_mean",
        "classifier.project.weight",
        "prototypes",
    ]
    return {name: np.full((2, 3), number, np.float32) for number, name in enumerate(names)}


def same(tensors: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return tensors.keys() == expected.keys() and all(np.array_equal(tensors[name], expected[name]) for name in tensors)


def test_mindspore_s_own_training_file_is_read_without_its_bookkeeping(tmp_path):
    network = mindspore_norms(own_tensors())
    beside = {f"moments.{name}": np.zeros_like(array) for name, array in network.items()}
    beside |= {"learning_rate": np.linspace(0, 1, 7, dtype=np.float32), "momentum": np.float32(0.9)}
    beside |= {"global_step": np.zeros(1, np.int32), "epoch_num": np.array(3), "step_num": np.array(12)}
    beside |= {"learning_rate_group_0": np.zeros(7, np.float32)}
    write_ckpt(tmp_path / "a.ckpt", network | {name: np.asarray(array) for name, array in beside.items()})
    checkpoint = read(tmp_path / "a.ckpt")
    assert same(checkpoint.networks["model"], own_tensors())
    assert set(checkpoint.not_read) == set(beside)


def test_an_optimiser_s_array_without_its_parameter_is_no_bookkeeping(tmp_path):
    network = mindspore_norms(own_tensors())
    write_ckpt(tmp_path / "a.ckpt", network | {"moments.elsewhere.weight": np.zeros(2, np.float32)})
    with pytest.raises(UserError, match="no known layout"):
        read(tmp_path / "a.ckpt")


def test_what_mindspore_saves_of_a_training_is_read(tmp_path):
    ms = pytest.importorskip("mindspore")
    from mindspore import nn

    class Own(nn.Cell):
        def __init__(self):
            super().__init__()
            self.encoder = nn.SequentialCell([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)])
            self.classifier = nn.SequentialCell(OrderedDict(project=nn.Conv2d(4, 2, 1)))

        def construct(self, x):
            return self.classifier(self.encoder(x))

    net = Own()
    rates = nn.cosine_decay_lr(0.0, 0.1, 6, 2, 3)
    for optimiser in (nn.Momentum(net.trainable_params(), rates, 0.9), nn.Adam(net.trainable_params(), 1e-3)):
        train = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), optimiser)
        ms.save_checkpoint(train, str(tmp_path / "a.ckpt"), append_dict={"epoch_num": 3, "step_num": 5})
        checkpoint = read(tmp_path / "a.ckpt")
        assert len(checkpoint.networks["model"]) == len(list(net.get_parameters()))
        assert {"global_step", "learning_rate", "epoch_num"} <= set(checkpoint.not_read)


def test_an_averaged_model_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    network = torch.nn.Module()
    network.encoder = torch.nn.Conv2d(3, 2, 1)
    network.classifier = torch.nn.Module()
    network.classifier.project = torch.nn.Conv2d(2, 2, 1)
    averaged = torch.optim.swa_utils.AveragedModel(network)
    for name, state in {
        "flat": averaged.state_dict(),
        "inside": {"state_dict": averaged.state_dict(), "epoch": 3},
    }.items():
        torch.save(state, tmp_path / f"{name}.pth")
        checkpoint = read(tmp_path / f"{name}.pth")
        assert same(checkpoint.networks["model"], {k: v.numpy() for k, v in network.state_dict().items()})
        assert "n_averaged" in checkpoint.not_read


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".safetensors", ".bin", ""])
def test_the_content_tells_the_format_whatever_the_name_is(tmp_path, suffix):
    torch = pytest.importorskip("torch")
    whole = Checkpoint(meta=CheckpointMeta(role="student"), networks={"model": own_tensors()})
    for made in (".safetensors", ".ckpt"):
        write(tmp_path / f"made{made}", whole)
    arrays = {name: torch.from_numpy(array) for name, array in own_tensors().items()}
    torch.save(arrays, tmp_path / "made.pth")
    torch.save(arrays, tmp_path / "stream.pth", _use_new_zipfile_serialization=False)
    for source in sorted(tmp_path.glob("*.*")):
        target = tmp_path / f"{source.stem}_{source.suffix[1:]}_renamed{suffix}"
        target.write_bytes(source.read_bytes())
        assert content_format(target) == source.suffix
        assert same(read(target).networks["model"], own_tensors()), target.name


def test_a_file_of_no_format_is_named_by_its_suffix(tmp_path):
    for name, message in {
        "a.pth": "not a PyTorch file", "a.ckpt": "not a readable MindSpore checkpoint", "a.bin": "unknown suffix",
        "a.safetensors": "not a readable safetensors file", "a.onnx": "an exported model",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(b"<html>404</html>" * 50)
        with pytest.raises(UserError, match=message):
            read(tmp_path / name)


def test_memory_that_runs_out_is_one_line(tmp_path, monkeypatch):
    write(tmp_path / "a.ckpt", Checkpoint(meta=CheckpointMeta(), networks={"model": own_tensors()}))

    def fail(*_arguments):
        raise MemoryError

    monkeypatch.setattr(np, "frombuffer", fail)
    with pytest.raises(UserError, match="a.ckpt needs more memory than there is"):
        read(tmp_path / "a.ckpt")
