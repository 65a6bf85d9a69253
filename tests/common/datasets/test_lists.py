"""Lists of every form, layouts and suffixes: which images a data set has."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from common.config.schema import FixedFolders, Folders
from common.datasets.file_dataset import open_dataset
from common.datasets.lists import read_list, reduce_to_id
from common.errors import UserError
from tests.common.datasets.small import CITYSCAPES, IMAGE, LABEL, config_of, save


def test_folders_layout(root):
    data = open_dataset(config_of(root))
    assert (data.name, data.classes, data.train_ids, data.val_ids) == ("own", ("a", "b", "c"), ("one",), ("two",))
    assert data.image("one").dtype == data.label("one").dtype == np.uint8
    np.testing.assert_array_equal(data.image("one"), IMAGE)
    np.testing.assert_array_equal(data.label("one"), LABEL)
    assert data.image("one").flags.writeable


def test_any_suffix(root):
    save(root / "images" / "one_rgb.bmp", IMAGE)
    save(root / "labels" / "one_gt.tif", LABEL)
    (root / "train.txt").write_text("images/one_rgb.bmp labels/one_gt.tif\n")
    data = open_dataset(config_of(root, image_suffix="_rgb.bmp", label_suffix="_gt.tif"))
    assert data.train_ids == ("one",)
    np.testing.assert_array_equal(data.image("one"), IMAGE)
    np.testing.assert_array_equal(data.label("one"), LABEL)


def test_data_set_travels_to_other_processes(root):
    data = pickle.loads(pickle.dumps(open_dataset(config_of(root))))
    np.testing.assert_array_equal(data.label("one"), LABEL)


def test_relative_root_starts_at_data_root(root, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(root.parent))
    assert open_dataset(config_of(root.name)).train_ids == ("one",)


@pytest.mark.parametrize(
    ("name", "content", "ids"),
    [
        ("bom.txt", b"\xef\xbb\xbf2007_000032\n2007_000039\n", ("2007_000032", "2007_000039")),
        ("crlf.txt", b"b\r\n\r\na\r\n  \r\n", ("b", "a")),
        ("no_end.txt", b"\n\nb\na", ("b", "a")),
        ("fields.txt", b"/JPEGImages/b.jpg /SegmentationClassAug/b.png\n  JPEGImages/a.JPG\n", ("b", "a")),
        ("twice.txt", b"b\na\nb\n", ("b", "a")),
        ("utf16le.txt", "\ufeffb\r\nä\r\n".encode("utf-16-le"), ("b", "ä")),
        ("utf16be.txt", "\ufeffb\nä".encode("utf-16-be"), ("b", "ä")),
        ("utf32.txt", "b\nä\n".encode("utf-32"), ("b", "ä")),
        ("spaces.txt", b"my photo 3\n my photo 4.jpg \nJPEGImages/my photo 5.jpg  masks/my photo 5.png\n",
         ("my photo 3", "my photo 4", "my photo 5")),
        ("tabs.txt", b"my photo 3\tmasks/my photo 3.png\na\tb\n", ("my photo 3", "a")),
        ("table.txt", b"b.jpg,b.png\na.jpg;a.png\n", ("b", "a")),
        ("folders.txt", b"A/0000.jpg\nJPEGImages/B/0000.jpg\n/data/x/JPEGImages/C/D/0000.jpg\n./0000.jpg\n",
         ("A/0000", "B/0000", "C/D/0000", "0000")),
        ("windows.txt", b"A\\0000.jpg\r\nC:\\data\\JPEGImages\\B\\0000.jpg\r\nD:\\0000.jpg\r\n",
         ("A/0000", "B/0000", "0000")),
        ("elsewhere.txt", b"/other/place/b.jpg\n", ("b",)),
        ("cases.txt", b"b.JPG\na.Jpeg\nc.png\n", ("b", "a", "c")),
    ],
)  # fmt: skip
def test_lists_are_read_whatever_their_form(root, name, content, ids):
    (root / name).write_bytes(content)
    config = config_of(root, train_list=name, image_suffix=".jpg", image_dir="JPEGImages")
    assert open_dataset(config).train_ids == ids
    (root / "again.txt").write_text("".join(f"{image_id}\n" for image_id in ids))
    assert tuple(entry.id for entry in read_list(root / "again.txt", config)) == ids, (
        "an id in a list is read otherwise"
    )


@pytest.mark.parametrize(
    ("layout", "lines", "image_id"),
    [
        ("cityscapes", ("A/0000.png", "B/0000.png"), "0000"),
        ("folders", ("a.jpg", "a.png"), "a"),
        ("folders", ("a.jpg", "a.JPG"), "a"),
        ("voc", ("/one/a.jpg", "/two/a.jpg"), "a"),
        ("folders", ("images/a.jpg", "images/images/a.jpg"), "a"),
    ],
)
def test_two_lines_that_would_become_one_image_are_named(root, layout, lines, image_id):
    (root / "train.txt").write_text("\n".join(["x", *lines]))
    config = config_of(root, layout=layout, classes=CITYSCAPES)
    with pytest.raises(UserError) as caught:
        open_dataset(config).train_ids  # noqa: B018
    assert f"line 2 ({lines[0]}) and line 3 ({lines[1]}) would both become the image {image_id};" in str(caught.value)


def test_an_image_named_twice_in_one_way_is_one_image(root):
    (root / "train.txt").write_text("images/one.png\none\n/one.png\n")
    assert open_dataset(config_of(root)).train_ids == ("one",)


@pytest.mark.parametrize("line", ["../secret", "images/../../secret.png", ".."])
def test_a_line_cannot_leave_the_folder_of_images(root, line):
    (root / "train.txt").write_text(f"one\n{line}\n")
    with pytest.raises(UserError, match="train.txt, line 2: .* names no file in the folder of images"):
        open_dataset(config_of(root)).train_ids  # noqa: B018


def test_sub_folders_hold_different_images(root):
    for number, name in enumerate(("0000", "A/0000", "B/0000", "my photo 3")):
        save(root / "images" / f"{name}.png", IMAGE + np.uint8(number))
        save(root / "labels" / f"{name}.png", np.full_like(LABEL, number % 3))
    (root / "train.txt").write_text("0000.png\nA/0000.png\nB\\0000.png\nmy photo 3.png\n")
    data = open_dataset(config_of(root))
    assert data.train_ids == ("0000", "A/0000", "B/0000", "my photo 3")
    for number, image_id in enumerate(data.train_ids):
        np.testing.assert_array_equal(data.image(image_id), IMAGE + np.uint8(number))
        assert (data.label(image_id) == number % 3).all()


def test_suffixes_may_be_mixed(root):
    save(root / "images" / "two.bmp", IMAGE)
    (root / "images" / "two.png").unlink()
    (root / "images" / "one.png").rename(root / "images" / "one.PNG")
    (root / "labels" / "one.png").rename(root / "labels" / "one.PNG")
    (root / "labels" / "two.png").unlink()
    save(root / "labels" / "two.jpg", Image.fromarray(IMAGE))
    save(root / "labels" / "two.tif", LABEL)
    data = open_dataset(config_of(root))
    for image_id in ("one", "two"):
        np.testing.assert_array_equal(data.image(image_id), IMAGE)
        np.testing.assert_array_equal(data.label(image_id), LABEL)
    save(root / "images" / "two.TIF", IMAGE)
    with pytest.raises(UserError, match="two.png does not exist, and both two.* and two.* could stand for it"):
        data.image("two")


def test_a_label_beside_its_image_is_not_taken_for_one(root):
    config = config_of(root, label_dir="images", label_suffix=".bmp")
    save(root / "images" / "one.bmp", LABEL)
    (root / "images" / "one.png").unlink()
    with pytest.raises(UserError, match="image .*one.png does not exist"):
        open_dataset(config).image("one")


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("data/one.png", "but .*one.png does: a path in a list begins below dataset.image_dir"),
        ("one 1", "but .*one.png does: a field of a list ends at a tab"),
    ],
)
def test_a_line_that_is_read_otherwise_than_meant_says_how(root, line, hint):
    (root / "train.txt").write_text(f"{line}\n")
    data = open_dataset(config_of(root))
    with pytest.raises(UserError, match=hint):
        data.image(data.train_ids[0])


def test_entries_know_their_lines(root):
    (root / "train.txt").write_bytes(b"\r\n\r\none\r\n\r\ntwo")
    assert [entry.line for entry in read_list(root / "train.txt", config_of(root))] == [3, 5]


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("2007_000733", "2007_000733"),
        ("/JPEGImages/2007_000733.jpg", "2007_000733"),
        ("leftImg8bit/train/hamburg/hamburg_000000_080169_leftImg8bit.png", "hamburg_000000_080169"),
        ("images/train/hamburg_000000_080169_leftImg8bit.png", "hamburg_000000_080169"),
        ("gtFine/val/lindau/lindau_000000_000019_gtFine_labelTrainIds.png", "lindau_000000_000019"),
        ("frame.0001", "frame.0001"),
    ],
)
def test_ids_of_other_peoples_lists(field, expected):
    cityscapes = FixedFolders(name="x", layout="cityscapes", classes=("a", "b"))
    config = cityscapes if "_0000" in field else Folders(name="x", layout="voc", classes=("a", "b"))
    assert reduce_to_id(field, config) == expected


@pytest.fixture
def cityscapes(tmp_path):
    for part, image_id in (("train", "hamburg_000000_080169"), ("val", "lindau_000001_000019")):
        city = image_id.partition("_")[0]
        save(tmp_path / "leftImg8bit" / part / city / f"{image_id}_leftImg8bit.png", IMAGE)
        ids = np.array([[7, 8, 33, 0, 29, 255]] * 4, dtype=np.uint8)
        save(tmp_path / "gtFine" / part / city / f"{image_id}_gtFine_labelIds.png", ids)
        train_ids = np.array([[0, 1, 18, 255, 255, 255]] * 4, dtype=np.uint8)
        save(tmp_path / "gtFine" / part / city / f"{image_id}_gtFine_labelTrainIds.png", train_ids)
    (tmp_path / "train.txt").write_text("leftImg8bit/train/hamburg/hamburg_000000_080169_leftImg8bit.png\n")
    (tmp_path / "val.txt").write_text("lindau_000001_000019\n")
    return tmp_path


@pytest.mark.parametrize("encoding", ["index", "cityscapes_ids"])
def test_cityscapes_layout_and_ids(cityscapes, encoding):
    config = config_of(cityscapes, layout="cityscapes", classes=CITYSCAPES, label_encoding=encoding)
    data = open_dataset(config)
    assert data.train_ids == ("hamburg_000000_080169",) and data.val_ids == ("lindau_000001_000019",)
    for image_id in data.train_ids + data.val_ids:
        np.testing.assert_array_equal(data.image(image_id), IMAGE)
        np.testing.assert_array_equal(data.label(image_id)[0], [0, 1, 18, 255, 255, 255])


def test_cityscapes_ids_need_the_mapping(cityscapes):
    path = cityscapes / "gtFine/train/hamburg/hamburg_000000_080169_gtFine_labelTrainIds.png"
    config = config_of(cityscapes, layout="cityscapes", classes=CITYSCAPES)
    path.unlink()
    with pytest.raises(UserError, match="label_encoding=cityscapes_ids"):
        open_dataset(config).label("hamburg_000000_080169")
    path.write_bytes(path.with_name("hamburg_000000_080169_gtFine_labelIds.png").read_bytes())
    with pytest.raises(UserError, match="has the value 33"):
        open_dataset(config).label("hamburg_000000_080169")


def test_cityscapes_ids_need_nineteen_classes(cityscapes):
    with pytest.raises(UserError, match="19 classes"):
        open_dataset(config_of(cityscapes, layout="cityscapes", label_encoding="cityscapes_ids"))
