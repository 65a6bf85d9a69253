"""Drawn splits: the same for the same seed, nested, showing every class, and CPS's rule."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from common.config.layers import dataset_config
from common.config.schema import Folders
from common.datasets.file_dataset import open_dataset
from common.errors import UserError
from common.splits.__main__ import main
from common.splits.draw import classes_of, covering, covering_order, every, seeded, seeded_order
from common.splits.registry import canonical, registry
from tests.places import SHARED

CLASSES = {
    "a": frozenset({0}), "b": frozenset({0, 1}), "c": frozenset({0, 2}), "d": frozenset({0, 1, 3}), "e": frozenset({0, 1}),
}  # fmt: skip


def test_rare_classes_come_first_and_nothing_is_taken_twice():
    order, needed = covering_order(("a", "b", "c", "d", "e"), CLASSES)
    assert (order, needed) == (("c", "d", "a", "b", "e"), 2)


@pytest.mark.parametrize("seed", range(3))
def test_draws_are_nested_cover_and_repeat(seed):
    data = open_dataset(dataset_config("shapes"))
    everything = frozenset().union(*classes_of(data, data.train_ids).values())
    before: set[str] = set()
    for count in (10, 12, 25, 50):
        drawn = covering(data, count, seed)
        assert len(set(drawn)) == count and before < set(drawn) and drawn == covering(data, count, seed)
        assert frozenset().union(*classes_of(data, drawn).values()) == everything
        before = set(drawn)
    assert set(seeded(data.train_ids, 5, seed)) < set(seeded(data.train_ids, 9, seed))
    assert seeded_order(data.train_ids, seed) != seeded_order(data.train_ids, seed + 1)


def test_too_few_images_to_show_every_class():
    with pytest.raises(UserError, match="1 images drawn with seed 0 do not show every class of shapes, . do; raise"):
        covering(open_dataset(dataset_config("shapes")), 1, 0)


def test_images_without_masks_stay_unlabelled(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for index in range(8):
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "images" / f"{index}.png")
    for index in (1, 4, 6):
        Image.fromarray(np.array([[0, 1], [255, 1]], np.uint8)).save(tmp_path / "labels" / f"{index}.png")
    (tmp_path / "train.txt").write_text("\n".join(map(str, range(8))))
    dataset = Folders(
        name="own", layout="folders", root=str(tmp_path), classes=("a", "b"), image_dir="images", label_dir="labels",
        image_suffix=".png", train_list="train.txt",
    )  # fmt: skip
    assert set(covering(open_dataset(dataset), 2, 0)) < {"1", "4", "6"}
    with pytest.raises(UserError, match="cannot draw 4 labelled images from a training list of 3 with labels"):
        covering(open_dataset(dataset), 4, 0)
    (tmp_path / "labels").rename(tmp_path / "masks")
    with pytest.raises(UserError, match="no training image of own has a label, looked for .*labels/0.png"):
        covering(open_dataset(dataset), 1, 0)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no optional real data beside the checkout (SHARED)")
def test_real_data_is_covered(monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(SHARED / "data"))
    data = open_dataset(dataset_config("voc_mini"))
    shown = classes_of(data, covering(data, 28, 0))
    # aeroplane, bicycle, motorbike and train occur in no training image at all.
    assert frozenset().union(*shown.values()) == frozenset(range(21)) - {1, 2, 14, 19}


def test_cps_s_rule_and_the_sizes_of_a_split_of_one_s_own(tmp_path, capsys):
    train = canonical(open_dataset(dataset_config("shapes")).train_ids)
    folder = ["--folder", str(tmp_path)]
    for ratio in (16, 8):
        main(["make", f"shapes/every{ratio}", "--every", str(ratio), *folder])
    sixteenth, eighth = ((tmp_path / "shapes" / f"every{r}" / "labeled.txt").read_text().split() for r in (16, 8))
    assert tuple(sixteenth) == train[::16] == every(train, 16) and set(sixteenth) < set(eighth)
    main(["make", "shapes/part", "--ratio", "8", "--seed", "1", *folder])
    assert len((tmp_path / "shapes" / "part" / "labeled.txt").read_text().split()) == 25
    with pytest.raises(UserError, match="by one of --count N, --ratio R, --every R"):
        main(["make", "shapes/other", "--ratio", "8", "--every", "8", *folder])


def test_the_counts_of_cps_s_rule_are_those_of_its_lists():
    for name, known in registry().items():
        for entry in known.lists.values():
            if entry.way == "every":
                assert len(every(range(known.train.count), entry.ratio)) == entry.labelled.count, name
