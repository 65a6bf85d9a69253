"""Every building block of the networks, forward and backward, in PyTorch and MindSpore."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ms = pytest.importorskip("mindspore")

import mindspore_impl.networks.deeplab as ms_deeplab  # noqa: E402
import mindspore_impl.networks.layers as ms_layers  # noqa: E402
import torch_impl.networks.deeplab as torch_deeplab  # noqa: E402
import torch_impl.networks.layers as torch_layers  # noqa: E402
from mindspore_impl.resize import resize as ms_resize  # noqa: E402
from tests.parity.pairs import array, mindspore_gradients, relative_error, torch_gradients  # noqa: E402
from torch_impl.resize import resize as torch_resize  # noqa: E402

RNG = np.random.default_rng(0)
TIGHT = 1e-5


def noise(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def copy_parameters(source, target) -> None:
    """Copy a torch layer's parameters to the MindSpore layer, in order of definition."""
    values = {name: array(tensor) for name, tensor in source.state_dict().items() if "num_batches" not in name}
    norms = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    for name, parameter in target.parameters_and_names():
        prefix, _, leaf = name.rpartition(".")
        key = name if name in values else f"{prefix}.{norms[leaf]}".lstrip(".")
        parameter.asnumpy()[...] = values.pop(key)
    assert not values


def worst(first: list, second: list) -> float:
    assert len(first) == len(second)
    return max(relative_error(b, a) for a, b in zip(first, second))


def both_gradients(first, second, x: np.ndarray, first_parameters=(), second_parameters=()) -> tuple[list, list]:
    """Return [output, gradient of the input, gradients of parameters] of both layers for one random cotangent."""
    cotangent = noise(*first(torch.tensor(x)).shape)
    return (
        torch_gradients(first, x, cotangent, first_parameters),
        mindspore_gradients(second, x, cotangent, second_parameters),
    )


@pytest.mark.parametrize(
    "kernel, stride, dilation, bias",
    [
        (1, 1, 1, False),
        (1, 2, 1, False),
        (3, 1, 1, True),
        (3, 2, 1, False),
        (3, 2, 2, False),
        (3, 1, 12, False),
        (7, 2, 1, True),
    ],
)
@pytest.mark.parametrize("size", [(12, 12), (9, 14)])
def test_convolution(kernel, stride, dilation, bias, size):
    first = torch_layers.conv(5, 6, kernel, stride, dilation, bias)
    second = ms_layers.conv(5, 6, kernel, stride, dilation, bias)
    copy_parameters(first, second)
    parameters = [second.weight, second.bias] if bias else [second.weight]
    assert worst(*both_gradients(first, second, noise(2, 5, *size), list(first.parameters()), parameters)) < TIGHT


def batch_norms(**changes):
    first, second = torch_layers.batch_norm(6), ms_layers.batch_norm(6)
    for name, value in changes.items():
        setattr(first, name, value)
    with torch.no_grad():
        for tensor in (first.weight, first.bias, first.running_mean):
            tensor.copy_(torch.tensor(noise(6)))
        first.running_var.uniform_(0.5, 1.5)
    copy_parameters(first, second)
    return first, second


def train_passes(first, second) -> float:
    """Return the largest relative error of outputs, gradients and running statistics after two passes in train mode."""
    first.train(), second.set_train()
    errors = []
    for _ in range(2):
        # The passes that find the gradients are the only ones: one more would move the statistics once more.
        x, cotangent = noise(3, 6, 5, 4) * 2 + 1, noise(3, 6, 5, 4)
        errors.append(
            worst(
                torch_gradients(first, x, cotangent, [first.weight, first.bias]),
                mindspore_gradients(second, x, cotangent, [second.gamma, second.beta]),
            )
        )
    errors.append(relative_error(second.moving_mean, first.running_mean))
    errors.append(relative_error(second.moving_variance, first.running_var))
    return max(errors)


def test_batch_norm_in_train_mode():
    assert train_passes(*batch_norms()) < TIGHT


@pytest.mark.parametrize("changes", [{"momentum": 0.9}, {"momentum": 0.11}, {"eps": 1e-3}])
def test_another_batch_norm_is_noticed(changes):
    assert train_passes(*batch_norms(**changes)) > 10 * TIGHT


def test_batch_norm_in_eval_mode():
    first, second = batch_norms()
    first.eval(), second.set_train(False)
    before = array(second.moving_mean)
    x, cotangent = noise(1, 6, 5, 4), noise(1, 6, 5, 4)
    expected = torch_gradients(first, x, cotangent, [first.weight, first.bias])
    assert worst(expected, mindspore_gradients(second, x, cotangent, [second.gamma, second.beta])) < TIGHT
    assert np.array_equal(before, array(second.moving_mean))


@pytest.mark.parametrize("mode", ["floor", "ceil", "same"])
@pytest.mark.parametrize("size", [(8, 8), (9, 9), (8, 11), (7, 10)])
@pytest.mark.parametrize("values", ["noise", "negative", "ties"])
def test_stem_pool(mode, size, values):
    x = noise(2, 3, *size)
    x = {"noise": x, "negative": -1 - np.abs(x), "ties": np.round(x)}[values]
    assert worst(*both_gradients(torch_layers.StemPool(mode), ms_layers.StemPool(mode), x)) == 0


@pytest.mark.parametrize("modes", [("floor", "ceil"), ("floor", "same")])
def test_another_stem_pool_is_noticed_at_even_sizes(modes):
    x = noise(2, 3, 8, 8)
    expected, pooled = torch_layers.StemPool(modes[0])(torch.tensor(x)), ms_layers.StemPool(modes[1])(ms.Tensor(x))
    assert relative_error(pooled, expected) > 0.01


@pytest.mark.parametrize(
    "source, target", [((5, 7), (13, 9)), ((13, 9), (5, 7)), ((1, 1), (4, 6)), ((33, 33), (129, 129)), ((9, 9), (1, 1))]
)
def test_resize(source, target):
    x = noise(2, 3, *source)
    target = tuple(np.int64(length) for length in target)
    expected, computed = both_gradients(lambda x: torch_resize(x, target), lambda x: ms_resize(x, target), x)
    assert worst(expected, computed) < TIGHT


def test_resize_to_the_same_size_is_no_operation():
    x = ms.Tensor(noise(1, 2, 4, 5))
    assert ms_resize(x, [4, 5]) is x


def test_resize_without_aligned_corners_is_noticed():
    x = noise(2, 3, 5, 7)
    unaligned = torch.nn.functional.interpolate(torch.tensor(x), size=(13, 9), mode="bilinear", align_corners=False)
    assert relative_error(ms_resize(ms.Tensor(x), (13, 9)), unaligned) > 0.01


@pytest.mark.parametrize("slope", [0.0, 0.01])
def test_pooling_branch_and_its_slope(slope):
    first = torch_deeplab.PoolingBranch(5, 6, slope).eval()
    second = ms_deeplab.PoolingBranch(5, 6, slope).set_train(False)
    copy_parameters(first, second)
    x = noise(2, 5, 7, 4)
    expected, computed = both_gradients(first, second, x, [first.conv.weight], [second.conv.weight])
    assert (expected[0] <= 0).any() and (expected[0] > 0).any(), "both sides of the kink are needed"
    assert worst(expected, computed) < TIGHT
    second.negative_slope = 0.02
    assert relative_error(second(ms.Tensor(x)), expected[0]) > 1e-4


def test_a_single_image_in_train_mode_uses_the_running_statistics_and_leaves_them():
    x = noise(1, 5, 7, 4)
    first, second = torch_deeplab.PoolingBranch(5, 6).train(), ms_deeplab.PoolingBranch(5, 6).set_train()
    copy_parameters(first, second)
    before = first.bn.running_mean.clone(), first.bn.running_var.clone()
    weights = [first.conv.weight, first.bn.weight], [second.conv.weight, second.bn.gamma]
    expected, computed = both_gradients(first, second, x, *weights)
    assert worst(expected, computed) < TIGHT and np.abs(expected[2]).max() > 0
    np.testing.assert_array_equal(expected[0], first.eval()(torch.tensor(x)).detach().numpy())
    for kept, ours, theirs in zip(
        before, (first.bn.running_mean, first.bn.running_var), (second.bn.moving_mean, second.bn.moving_variance)
    ):
        assert torch.equal(ours, kept) and relative_error(theirs, kept) == 0


def test_dropout_takes_the_mask_of_its_site():
    x, masks = noise(2, 4, 3, 5), [noise(2, 4, 1, 1), noise(2, 4, 1, 1)]
    first, second = torch_layers.Dropout(0.3, "channel", 4).train(), ms_layers.Dropout(0.3, "channel", 4).set_train()
    first.site = second.site = 1
    expected, computed = both_gradients(
        lambda x: first(x, [torch.tensor(mask) for mask in masks]),
        lambda x: second(x, [ms.Tensor(mask) for mask in masks]),
        x,
    )
    assert worst(expected, computed) < TIGHT
    second.site = 0
    assert relative_error(second(ms.Tensor(x), [ms.Tensor(mask) for mask in masks]), expected[0]) > 0.1


@pytest.mark.parametrize(
    "layer", [ms_layers.Dropout(0.3, "channel", 4), ms_layers.Dropout(0.0, "channel", 4).set_train()]
)
def test_dropout_that_does_nothing(layer):
    x = ms.Tensor(noise(2, 4, 3, 5))
    assert layer(x, [ms.Tensor(noise(2, 4, 1, 1))]) is x


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["channel", "element"])
def test_drawn_dropout(kind, compiled):
    layer = ms_layers.Dropout(0.3, kind, 500).set_train()

    def drop(x):
        return layer(x)

    drop = ms.jit(drop) if compiled else drop
    ones = np.ones((4, 500, 4, 4), np.float32)
    output, gradient = mindspore_gradients(drop, ones, ones)
    assert np.array_equal(output, gradient), "backward must use the mask of forward"
    again = array(drop(ms.Tensor(ones)))
    assert (again != output).mean() > 0.3, "every pass must draw anew"
    assert np.isin(np.round(output * 0.7, 5), [0, 1]).all()
    assert abs((output == 0).mean() - 0.3) < 0.06
    whole = (output == output[:, :, :1, :1]).all(axis=(2, 3))
    assert whole.all() if kind == "channel" else not whole.all(axis=1).any()


def test_layers_can_be_copied():
    for layer in (ms_layers.Dropout(0.3, "channel", 4), ms_layers.StemPool("ceil"), ms_layers.ConvNorm(3, 4, 3)):
        assert type(copy.deepcopy(layer)) is type(layer)
