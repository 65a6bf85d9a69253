"""The drawn data set: the same everywhere, balanced, and shaped as its names say."""

from __future__ import annotations

import hashlib
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from common.config.schema import DrawnShapes
from common.datasets.file_dataset import open_dataset
from common.datasets.shapes import CLASSES, COLOURS, OUTLINES
from common.errors import UserError

DIGEST = "800827e0d12d6228cb38ed25eb004a43d6ffa89ebaf98ebc1beb4de937a3065d"


def shapes(**changes):
    values = {"name": "shapes", "classes": CLASSES, "images": (40, 20)}
    return open_dataset(DrawnShapes(**{**values, **changes}))


def digest(data, ids) -> str:
    pixels = b"".join(array.tobytes() for image_id in ids for array in (data.image(image_id), data.label(image_id)))
    return hashlib.sha256(pixels).hexdigest()


def test_pixels_are_the_same_on_every_machine():
    data = shapes()
    assert digest(data, data.train_ids[:8] + data.val_ids[:8]) == DIGEST
    other = shapes(seed=1)
    assert digest(other, other.train_ids[:8] + other.val_ids[:8]) != DIGEST


def test_an_image_depends_on_its_id_alone():
    few, many = shapes(images=(3, 1)), shapes(images=(400, 100))
    for image_id in reversed(few.train_ids):
        np.testing.assert_array_equal(few.image(image_id), many.image(image_id))
    assert not np.array_equal(many.image("train_0000"), many.image("val_0000"))
    assert not np.array_equal(many.image("train_0000"), many.image("train_0001"))


def test_arrays_belong_to_the_caller():
    data = shapes()
    image, label = data.image("train_0000"), data.label("train_0000")
    kept = image.copy(), label.copy()
    image[:], label[:] = 0, 0
    np.testing.assert_array_equal(data.image("train_0000"), kept[0])
    np.testing.assert_array_equal(data.label("train_0000"), kept[1])


@pytest.mark.parametrize("size", [16, 64, 97])
def test_sizes_and_types(size):
    data = shapes(size=size)
    for image_id in data.train_ids:
        image, label = data.image(image_id), data.label(image_id)
        assert (image.shape, label.shape) == ((size, size, 3), (size, size))
        assert image.dtype == label.dtype == np.uint8
        assert set(np.unique(label)) <= {*range(len(CLASSES)), 255}


def test_every_class_is_common_and_ignore_occurs():
    data = shapes(images=(400, 100))
    labels = np.stack([data.label(image_id) for image_id in data.train_ids])
    share = np.bincount(labels.ravel(), minlength=256) / labels.size
    assert 0.4 < share[0] < 0.7
    assert (share[1:6] > 0.04).all() and 0.01 < share[255] < 0.06
    assert all((labels == kind).any(axis=(1, 2)).mean() > 0.4 for kind in range(1, 6))


def test_colour_alone_does_not_tell_the_class():
    data = shapes(images=(200, 1))
    palette = np.array([(120, 120, 120), *COLOURS])
    right = total = 0
    for image_id in data.train_ids:
        image, label = data.image(image_id).astype(int), data.label(image_id)
        nearest = ((image[..., None, :] - palette) ** 2).sum(-1).argmin(-1)
        right += (nearest == label)[label != 255].sum()
        total += (label != 255).sum()
    assert 0.2 < right / total < 0.8


def test_outlines_have_the_form_of_their_names():
    along, across = np.mgrid[-20:21, -20:21]
    drawn = {name: outline(across, along, 16) for name, outline in OUTLINES.items()}
    centre = (20, 20)
    assert [name for name, mask in drawn.items() if not mask[centre]] == ["ring"]
    for name in ("disc", "square", "ring", "cross"):
        np.testing.assert_array_equal(drawn[name], np.rot90(drawn[name]))
    assert not np.array_equal(drawn["triangle"], np.rot90(drawn["triangle"]))
    np.testing.assert_array_equal(drawn["triangle"], drawn["triangle"][:, ::-1])
    assert drawn["disc"][20, 36] and not drawn["disc"][32, 32]
    assert drawn["square"][32, 32] and not drawn["square"][20, 36]
    assert drawn["cross"][20, 36] and not drawn["cross"][27, 27]


def test_works_in_threads_and_other_processes():
    data = pickle.loads(pickle.dumps(shapes(seed=3)))
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(data.image, data.train_ids))
    for image_id, image in zip(data.train_ids, images):
        np.testing.assert_array_equal(image, shapes(seed=3).image(image_id))


@pytest.mark.parametrize("image_id", ["train_0040", "val_0020", "train_1", "2007_000032", ""])
def test_unknown_ids(image_id):
    with pytest.raises(UserError, match="not one of the 60 drawn images"):
        shapes().image(image_id)


def test_settings_that_make_no_data_set():
    with pytest.raises(UserError, match="at least one image of either kind"):
        shapes(images=(10, 0))
    with pytest.raises(UserError, match="dataset.classes of layout shapes must be background, disc"):
        shapes(classes=("background", "blob"))
