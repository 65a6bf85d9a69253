"""Bilinear resizing with aligned corners: by hand, against the authors' frameworks, and against straight lines."""

import numpy as np
import pytest

from common.images.resize import resize_bilinear
from tests.places import SHARED

GOLDEN = SHARED / "golden"


def golden(name: str) -> dict[str, np.ndarray]:
    path = GOLDEN / name
    if not path.is_file():
        pytest.skip(f"optional real data beside the checkout is absent: {path}")
    with np.load(path) as arrays:
        return dict(arrays)


def maps(*rows) -> np.ndarray:
    return np.array(rows, dtype=np.float32)[None, None]


def test_by_hand():
    result = resize_bilinear(maps([0, 2], [4, 6]), (3, 5))
    np.testing.assert_array_equal(result[0, 0], [[0, 0.5, 1, 1.5, 2], [2, 2.5, 3, 3.5, 4], [4, 4.5, 5, 5.5, 6]])
    assert result.dtype == np.float32


def test_shrinking_keeps_the_corners():
    rng = np.random.default_rng(1)
    source = rng.normal(size=(2, 3, 9, 13)).astype(np.float32)
    result = resize_bilinear(source, (4, 5))
    np.testing.assert_array_equal(result[..., [0, -1], :][..., [0, -1]], source[..., [0, -1], :][..., [0, -1]])


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 1)])
def test_a_side_of_one_takes_the_first_row_or_column(size):
    source = maps([1, 2, 3], [4, 5, 6])
    result = resize_bilinear(source, size)
    assert result.shape[2:] == size
    assert result[0, 0, 0, 0] == 1


def test_single_pixel_is_repeated():
    np.testing.assert_array_equal(resize_bilinear(maps([7]), (3, 2))[0, 0], np.full((3, 2), 7))


def test_same_size_is_returned_as_it_is():
    source = maps([1, 2], [3, 4])
    assert resize_bilinear(source, (2, 2)) is source


def test_a_plane_stays_a_plane_at_full_size():
    # A linear ramp is reproduced exactly by linear interpolation, so every position of a large output is checked.
    row, column = np.linspace(0, 1, 65), np.linspace(0, 1, 129)
    ramp = (3 * row[:, None] - 2 * column).astype(np.float32)[None, None]
    expected = 3 * np.linspace(0, 1, 513)[:, None] - 2 * np.linspace(0, 1, 1025)
    np.testing.assert_allclose(resize_bilinear(ramp, (513, 1025))[0, 0], expected, atol=2e-6)


def test_source_is_not_changed():
    source = np.random.default_rng(2).normal(size=(1, 2, 5, 6)).astype(np.float32)
    before = source.copy()
    resize_bilinear(source, (10, 11))
    np.testing.assert_array_equal(source, before)


def test_wrong_input_is_refused():
    with pytest.raises(TypeError, match="float32"):
        resize_bilinear(np.zeros((1, 1, 2, 2)), (3, 3))
    with pytest.raises(ValueError, match="at least 1"):
        resize_bilinear(maps([1, 2]), (0, 3))


def test_golden():
    arrays = golden("pcr/resize_align_corners.npz")
    for name, source in (
        ("to_17_25", "input"),
        ("to_9_7", "input"),
        ("to_3_4", "input"),
        ("from_1x1_to_4_6", "from_1x1"),
    ):
        expected = arrays[name]
        np.testing.assert_allclose(resize_bilinear(arrays[source], expected.shape[2:]), expected, atol=1e-6)


def test_golden_notices_half_pixel_centres():
    cv2 = pytest.importorskip("cv2")
    arrays = golden("pcr/resize_align_corners.npz")
    other_rule = cv2.resize(arrays["input"][0, 0], (25, 17), interpolation=cv2.INTER_LINEAR)
    assert np.abs(other_rule - arrays["to_17_25"][0, 0]).max() > 1e-2


@pytest.mark.parametrize("size", [(33, 47), (8, 97), (129, 40)])
def test_agrees_with_torch(size):
    torch = pytest.importorskip("torch")
    source = np.random.default_rng(3).normal(size=(2, 4, 17, 25)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(source), size, mode="bilinear", align_corners=True)
    np.testing.assert_allclose(resize_bilinear(source, size), expected.numpy(), atol=1e-5)
