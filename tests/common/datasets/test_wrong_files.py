"""One clear line for whatever is wrong with a list or a file."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from common.datasets.file_dataset import FileDataset, open_dataset
from common.errors import UserError
from tests.common.datasets.small import IMAGE, LABEL, config_of, save


def broken(root, *what: str) -> FileDataset:
    """The data set after one thing went wrong."""
    image, label = root / "images" / "one.png", root / "labels" / "one.png"
    match what:
        case ("folder",):
            return open_dataset(config_of(root / "nowhere"))
        case ("list", "missing"):
            (root / "train.txt").unlink()
        case ("list", "empty"):
            (root / "train.txt").write_text("\n  \r\n")
        case ("list", "unset"):
            return open_dataset(config_of(root, train_list=""))
        case ("list", "binary"):
            (root / "train.txt").write_bytes(b"\xff\x00one")
        case ("list", "unmarked"):
            (root / "train.txt").write_bytes("one\ntwo\n".encode("utf-16-le"))
        case ("list", "folder"):
            return open_dataset(config_of(root, train_list="images"))
        case ("image", "missing"):
            image.unlink()
        case ("image", "empty"):
            image.write_bytes(b"")
        case ("image", "text"):
            image.write_text("<html>404</html>")
        case ("image", "cut"):
            save(image, np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))
            image.write_bytes(image.read_bytes()[:5000])
        case ("image", "deep"):
            for name in ("one", "two"):
                save(
                    root / "images" / f"{name}.tif",
                    Image.fromarray(IMAGE[..., 0].astype(np.int32 if name == "one" else np.uint8)),
                )
            return open_dataset(config_of(root, image_suffix=".tif"))
        case ("label", "missing"):
            label.unlink()
        case ("label", "colour"):
            save(label, IMAGE)
        case ("label", "size"):
            save(label, LABEL.T)
        case ("label", "value"):
            save(label, np.where(LABEL == 2, 3, LABEL).astype(np.uint8))
    return open_dataset(config_of(root))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("folder", "data folder .*nowhere of data set own does not exist.*DATA_ROOT or dataset.root"),
        ("list missing", "list .*train.txt of data set own does not exist"),
        ("list empty", "list .*train.txt of data set own is empty"),
        ("list unset", "dataset.train_list of data set own is not set"),
        ("list binary", "list .*train.txt is not UTF-8 text"),
        (
            "list unmarked",
            "list .*train.txt is not UTF-8 text .*zero, as in UTF-16 without a byte-order mark.; save it as",
        ),
        ("list folder", "list .*images of data set own cannot be read"),
    ],
)
def test_what_is_wrong_with_a_list(root, what, message):
    with pytest.raises(UserError, match=message) as caught:
        broken(root, *what.split()).train_ids  # noqa: B018
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("image missing", "image .*one.png does not exist"),
        ("image empty", "image .*one.png is empty"),
        ("image text", "image .*one.png is not an image"),
        ("image cut", "image .*one.png cannot be decoded .*truncated"),
        ("image deep", "image .*one.tif has 32-bit whole numbers"),
        ("label missing", "label .*one.png does not exist"),
        ("label colour", "label .*one.png is a colour image"),
        ("label size", "label .*one.png is 4x6 pixels but its image is 6x4"),
        (
            "label value",
            r"label .*one.png has the value 3 at row 0, column 2, outside the classes 0..2 .*4 such pixels",
        ),
    ],
)
def test_what_is_wrong_with_a_file(root, what, message):
    data = broken(root, *what.split())
    with pytest.raises(UserError, match=message + r".*\(line 1 of .*train.txt\)$"):
        data.image("one")
        data.label("one")
    data.image("two"), data.label("two")


def test_unlabelled_images_need_no_label_file(root):
    assert broken(root, "label", "missing").image("one").shape == IMAGE.shape
