"""PCR's prototype functions and networks: PyTorch against MindSpore, the cheap forms against the plain ones."""

from __future__ import annotations

import dataclasses

import mindspore as ms
import numpy as np
import pytest
import torch

import mindspore_impl.methods.pcr.prototypes as their_steps
import mindspore_impl.networks.prototype_head as theirs
import mindspore_impl.predictor
import torch_impl.methods.pcr.prototypes as our_steps
import torch_impl.networks.prototype_head as ours
import torch_impl.predictor
from common.checkpoints.checkpoint import Checkpoint, read, write
from common.checkpoints.ckpt_file import read_ckpt
from common.checkpoints.meta import CheckpointMeta
from common.experiment import compose
from common.models.stored_network import read_network
from common.networks.initial import initial_tensors
from common.runtimes import FRAMEWORKS
from converters.convert import save
from converters.stages import run_stages
from experiments.stem_pools import POOLS, format_pools, pool_table, write_models
from mindspore_impl.losses import cross_entropy
from mindspore_impl.networks import build_network
from tests.oracles.prototypes import plain_prototype_map, plain_prototype_step
from tests.parity import steps
from tests.parity.methods.test_pcr import CONFIG, LABELLED, batches
from tests.parity.pairs import relative_error
from torch_impl.checkpoint import network_tensors

SIZES = [
    ((33, 47), (9, 13)),
    ((65, 65), (17, 17)),
    ((9, 13), (9, 13)),
    ((5, 1), (2, 1)),
    ((1, 1), (1, 1)),
    ((64, 50), (17, 13)),
]
RNG = np.random.default_rng(0)


def fused(*shape: int) -> np.ndarray:
    """Features as a network gives them: none below 0."""
    return np.maximum(RNG.standard_normal(shape), 0).astype(np.float32)


@pytest.mark.parametrize("rows", [None, 7])
@pytest.mark.parametrize(("size", "small"), SIZES)
def test_the_whole_map_is_the_plain_one(size, small, rows):
    features, prototypes = fused(2, 40, *small), RNG.standard_normal((5, 3, 40)).astype(np.float32)
    plain = plain_prototype_map(torch.from_numpy(features), torch.from_numpy(prototypes), size, 0.1).numpy()
    computed = ours.prototype_map(torch.from_numpy(features), torch.from_numpy(prototypes), size, 0.1, "torch", rows)
    other = theirs.prototype_map(ms.Tensor(features), ms.Tensor(prototypes), size, 0.1, "torch", rows)
    assert relative_error(computed.numpy(), plain) <= 2e-6
    assert relative_error(other.asnumpy(), plain) <= 2e-6


def test_resizing_cosines_is_something_else():
    """Why the order matters: cosines at the small size, resized, are not the cosines of resized features."""
    features, prototypes = torch.from_numpy(fused(1, 8, 5, 5)), torch.rand(3, 2, 8)
    small = plain_prototype_map(features, prototypes, (5, 5), 0.1)
    resized = torch.nn.functional.interpolate(small, (17, 17), mode="bilinear", align_corners=True)
    assert relative_error(resized.numpy(), plain_prototype_map(features, prototypes, (17, 17), 0.1).numpy()) > 1e-2


def test_a_step_is_the_plain_one_in_both_frameworks():
    """Loss, gradient and upkeep of the selected pixels, without the resized map."""
    size, features = (33, 33), fused(2, 24, 9, 9)
    prototypes = RNG.standard_normal((5, 3, 24)).astype(np.float32)
    labels = RNG.integers(0, 6, (2, *size)).astype(np.uint8)
    labels[labels == 5] = 255
    pixels = np.sort(RNG.choice(size[0] * size[1], 64, replace=False))
    mask = torch.zeros(size[0] * size[1], dtype=torch.bool)
    mask[torch.from_numpy(pixels)] = True

    plain = torch.from_numpy(features).requires_grad_()
    loss, moved = plain_prototype_step(
        plain, torch.from_numpy(labels).long(), torch.from_numpy(prototypes), mask.view(size), 0.1, 0.9
    )
    loss.backward()

    x = torch.from_numpy(features).requires_grad_()
    rows = our_steps.pixel_features(x, pixels, size)
    targets = our_steps.pixel_labels(torch.from_numpy(labels), pixels)
    logits, match = ours.prototype_logits(rows, torch.from_numpy(prototypes), 0.1)
    mean = torch.nn.functional.cross_entropy(logits, targets.long(), ignore_index=255)
    mean.backward()
    sums = our_steps.prototype_sums(rows, targets, match, (5, 3))
    upkeep = our_steps.updated_prototypes(torch.from_numpy(prototypes), *sums, 0.9)

    seen, labels, prototypes = {}, ms.Tensor(labels), ms.Tensor(prototypes)

    def in_mindspore(features):
        rows, targets = their_steps.pixel_features(features, pixels, size), their_steps.pixel_labels(labels, pixels)
        logits, match = theirs.prototype_logits(rows, prototypes, 0.1)
        seen["sums"] = their_steps.prototype_sums(rows, targets, match, (5, 3))
        return cross_entropy(logits, targets)

    value, gradient = ms.value_and_grad(in_mindspore)(ms.Tensor(features))
    other = their_steps.updated_prototypes(prototypes, *seen["sums"], 0.9)
    assert mean.item() == pytest.approx(loss.item(), rel=1e-5) and float(value) == pytest.approx(loss.item(), rel=1e-5)
    for result in (x.grad.numpy(), gradient.asnumpy()):
        assert relative_error(result, plain.grad.numpy()) <= 1e-5
    for result in (upkeep.numpy(), other.asnumpy()):
        assert relative_error(result, moved.numpy()) <= 1e-6


def test_zero_features_and_prototypes_give_zeros_and_no_gradient():
    rows, prototypes = np.zeros((3, 4), np.float32), np.zeros((2, 2, 4), np.float32)
    prototypes[0] = 1
    x = torch.from_numpy(rows).requires_grad_()
    logits, match = ours.prototype_logits(x, torch.from_numpy(prototypes), 0.1)
    logits.sum().backward()
    value, gradient = ms.value_and_grad(lambda f: theirs.prototype_logits(f, ms.Tensor(prototypes), 0.1)[0].sum())(
        ms.Tensor(rows)
    )
    assert not logits.any() and not x.grad.any() and not match.any()
    assert float(value) == 0 and not gradient.asnumpy().any()


@steps.IN_EACH
def test_without_any_label_training_goes_on(make):
    """Labels all ignored, in the images that prototypes start from and in the batch: zero prototypes, zero losses."""
    method = make(
        dataclasses.replace(
            CONFIG, method=dataclasses.replace(CONFIG.method, sup_only_epochs=0, confidence_threshold=0.0)
        )
    )
    batch = batches(1)[0]
    batch["labelled"]["label"][:] = 255
    unlabelled = [(image, np.full_like(label, 255)) for image, label in LABELLED]
    assert "0 labelled pixels" in method.before_epoch(steps.clock(0), unlabelled)[0]
    assert not method.networks()["student"]["prototypes"].any()
    losses = method.step(batch, steps.clock(0))
    assert losses["sup"] == 0 and losses["sup_proto"] == 0 and losses["unsup"] > 0
    assert losses["unsup_proto"] == pytest.approx(CONFIG.method.proto_weight * np.log(6), rel=1e-5)
    won = method.state()["prototypes.pixels"]
    assert won.sum() == 2 * 64 and (won[:, 1:] == 0).all()  # of equal prototypes the first wins
    moved = method.networks()["student"]["prototypes"].reshape(6, 3, -1)
    assert moved[won[:, 0] > 0, 0].any() and not moved[:, 1:].any()
    assert np.isfinite(method.step(batches(2)[1], steps.clock(1))["loss"])


@steps.IN_EACH
def test_absent_class_and_few_pixels(make):
    """One class has no labelled pixel, another fewer than prototypes."""
    method = make(dataclasses.replace(CONFIG, method=dataclasses.replace(CONFIG.method, sup_only_epochs=0)))
    image, label = LABELLED[0]
    label = np.where(label == 2, 255, label)
    label[label == 1] = 255
    label[16, 16] = 1
    notes = method.before_epoch(steps.clock(0), [(image, label)])
    grid = method.networks()["student"]["prototypes"].reshape(6, 3, -1)
    assert "2" in notes[0].partition("no pixel of class")[2]
    assert not grid[2].any() and grid[1].any() and (grid[1] == grid[1, 0]).all()
    assert np.isfinite(method.step(batches(1)[0], steps.clock(0))["loss"])


SMALL = compose(
    "shapes/12/pcr",
    [
        "network.preset=pcr", "network.encoder=resnet18", "network.multi_grid=[1, 2]", "network.width=16",
        "network.low_level_channels=16", "network.aspp_dilations=[1, 2, 3]", "network.backbone_weights=null",
        "network.prototypes=2", "network.auxiliary=true",
    ],
)  # fmt: skip
"""The authors' decoder around a smaller ResNet with their stem."""


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A file of the layout in which the authors released their checkpoints: flat, MindSpore's names, no auxiliary bias."""
    folder = tmp_path_factory.mktemp("released")
    network = build_network(SMALL.network, len(SMALL.dataset.classes))
    from mindspore_impl.checkpoint import network_tensors as named

    shapes = {name: array.shape for name, array in named(network).items()}
    tensors = initial_tensors(shapes, dataclasses.replace(SMALL.network, zero_init_residual=False), 1, "student")
    tensors["auxiliary.conv.bias"] = np.zeros_like(tensors["auxiliary.conv.bias"])
    tensors["prototypes"] = np.abs(tensors["prototypes"])
    meta = CheckpointMeta(role="teacher")
    write(folder / "released.ckpt", Checkpoint(meta=meta, networks={"model": tensors}), "pcr-mindspore")
    return folder / "released.ckpt", tensors


def test_the_released_layout_carries_prototypes_through_every_format(released, tmp_path):
    """Read by itself, described by the experiment, converted to and fro: bit for bit."""
    path, tensors = released
    stored = read_network(path, None, SMALL)
    assert stored.config == SMALL.network and stored.role == "teacher"
    chain = ["a.pth", "b.ckpt", "c.safetensors", "d.pth"]
    checkpoint = read(path)
    for name in chain:
        save(tmp_path / name, checkpoint)
        checkpoint = read(tmp_path / name)
    kept = checkpoint.only().networks["model"]
    for name, array in tensors.items():
        np.testing.assert_array_equal(kept[name], array, err_msg=name)
    write(tmp_path / "back.ckpt", checkpoint, "pcr-mindspore")
    back, first = read_ckpt(tmp_path / "back.ckpt"), read_ckpt(path)
    assert set(back) == set(first) and "module.proto_net.proto_list" in first
    assert all(np.array_equal(back[name], first[name]) for name in first)


@pytest.fixture(scope="module")
def pools(released, tmp_path_factory):
    """The stages of a released file with both pools in both frameworks, on an image of 64 x 50."""
    models = write_models(released[0], SMALL, tmp_path_factory.mktemp("pools"))

    def get(height: int, width: int):
        images = np.random.default_rng(3).standard_normal((1, 3, height, width)).astype(np.float32)
        return {(f, pool): run_stages(f, model, images) for f in FRAMEWORKS for pool, model in models.items()}

    return get


def test_the_pools_part_at_the_pool_and_nowhere_else(pools):
    """An even stem: same shapes up to the pool, other sizes from there on; each pool alone is equal in both frameworks."""
    rows = pool_table(pools(64, 50), (64, 50))
    by_name = {row["stage"]: row for row in rows}
    assert list(by_name)[:3] == ["stem", "pool", "layer1"]
    assert by_name["stem"]["pools"] == 0
    assert by_name["pool"]["shape_same"] == [128, 16, 13] and by_name["pool"]["shape_ceil"] == [128, 17, 13]
    assert by_name["pool"]["pools"] is None and by_name["logits"]["pools"] is None
    assert all(row[f"frameworks_{pool}"] <= 2e-4 for row in rows for pool in POOLS)
    for name in ("full-size logits", "full-size prototype logits"):
        assert by_name[name]["pools"] > 1e-2 and by_name[name]["flips"] > 0
    text = format_pools({"64x50": rows})
    assert "the pools part at pool" in text and "sizes differ" in text


def test_the_pools_agree_on_sides_of_one_modulo_four(pools):
    rows = pool_table(pools(65, 49), (65, 49))
    assert all(row["pools"] is not None and row["pools"] <= 2e-4 for row in rows)
    assert "both pools give the same" in format_pools({"65x49": rows})


@pytest.mark.parametrize("head", ["linear", "prototype"])
def test_either_head_of_the_predictors(pools, released, head):
    """Class ids of whole images and of sliding windows, bounded by strips."""
    from mindspore_impl.checkpoint import load_network as load_theirs
    from torch_impl.checkpoint import load_network
    from torch_impl.networks import build_network as build_torch

    _, tensors = released
    first, second = build_torch(SMALL.network, 6), build_network(SMALL.network, 6)
    load_network(first, tensors, "released")
    load_theirs(second, tensors, "released")
    one, two = (
        torch_impl.predictor.TorchPredictor(first, "cpu", head),
        mindspore_impl.predictor.MindSporePredictor(second, "CPU", head),
    )
    images = np.random.default_rng(4).standard_normal((1, 3, 65, 49)).astype(np.float32)
    assert relative_error(two.logits(images, (70, 50)), one.logits(images, (70, 50))) <= 2e-4
    assert (two.class_ids(images, (65, 49)) != one.class_ids(images, (65, 49))).mean() <= 1e-3
    assert "prototypes" in network_tensors(first)
    if head == "prototype":
        resized = torch_impl.predictor.TorchPredictor(first).features(images)
        plain = plain_prototype_map(torch.from_numpy(resized), first.prototype_grid(), (65, 49), 0.1)
        assert relative_error(one.logits(images, (65, 49)), plain.numpy()) <= 1e-5


def test_strips_bound_the_memory(monkeypatch):
    """The similarities of all prototypes at the image's size would be 57 maps; a strip of them is a part of that."""
    features, prototypes, size = fused(1, 16, 32, 64), RNG.random((19, 3, 16)).astype(np.float32), (512, 1024)
    matmul, largest = theirs.ops.matmul, []

    def noted(*operands):
        result = matmul(*operands)
        largest[-1] = max(largest[-1], result.size / (size[0] * size[1]))
        return result

    monkeypatch.setattr(theirs.ops, "matmul", noted)
    for rows in (None, 32):
        largest.append(0)
        theirs.prototype_map(ms.Tensor(features), ms.Tensor(prototypes), size, 0.1, "torch", rows)
    assert largest == [57, 57 * 32 / size[0]]
