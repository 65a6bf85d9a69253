"""The command that checks an experiment's data: every problem with its place, the right exit code, nothing changed."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from common.check_data.__main__ import main
from common.check_data.findings import Histogram
from common.command_line import run_command


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data set in CamVid's layout: six training and two validation images."""
    root = tmp_path / "camvid"
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    names = [f"t{index}" for index in range(6)] + ["v0", "v1"]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
        Image.fromarray(rng.integers(0, 3, (48, 64), dtype=np.uint8)).save(root / "SegmentationClass" / f"{name}.png")
    write_lists(root, names[:6], names[6:])
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    folder = tmp_path / "splits" / "camvid" / "few"
    folder.mkdir(parents=True)
    (folder / "labeled.txt").write_text("t0\nt1\n")
    return root


def write_lists(root, train, val) -> None:
    for name, ids in (("train", train), ("val", val)):
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("".join(f"{image_id}\n" for image_id in ids))


def check(root, capsys, *overrides) -> tuple[int, list[str], str]:
    """Exit code, the lines about problems, and everything else that was printed."""
    folder = f"split.folder={root.parent / 'splits'}"
    code = run_command(main, ["camvid/few/suponly", folder, *overrides, "--page", str(root.parent / "page.html")])
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    problems = [line.removeprefix("problem: ") for line in lines if line.startswith("problem: ")]
    return code, problems, "\n".join(line for line in lines if not line.startswith("problem: ")) + captured.err


def state(root) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "page.html")
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_clean_data(data, capsys):
    before = state(data.parent)
    code, problems, rest = check(data, capsys)
    assert (code, problems) == (0, [])
    assert "camvid: 2 labelled, 4 unlabelled, 2 validation" in rest and "no problem found" in rest
    sky = next(line for line in rest.splitlines() if line.startswith("sky"))
    assert sky.split()[3::3] == ["2", "2"] and abs(float(sky.split()[1]) - 33.3) < 3
    assert state(data.parent) == before


def test_every_problem_is_listed_and_nothing_is_changed(data, capsys):
    image, label = data / "JPEGImages", data / "SegmentationClass"
    (image / "t0.jpg").write_bytes((image / "t0.jpg").read_bytes()[:900])
    Image.fromarray(np.full((48, 64), 11, np.uint8)).save(label / "t1.png")
    (image / "t2.jpg").unlink()
    Image.fromarray(np.zeros((48, 60), np.uint8)).save(label / "v0.png")
    (label / "v1.png").unlink()
    (label / "t4.png").unlink()
    before = state(data.parent)
    code, problems, rest = check(data, capsys)
    assert code == 1 and "error: 5 problem(s) in the data of camvid/few/suponly" in rest
    train, val = (data / "ImageSets" / "Segmentation" / f"{part}.txt" for part in ("train", "val"))
    expected = [
        ("t0.jpg cannot be decoded", f"(line 1 of {train})"),
        ("t1.png has the value 11 at row 0, column 0, outside the classes 0..10", f"(line 2 of {train})"),
        ("t2.jpg does not exist", f"(line 3 of {train})"),
        ("v0.png is 60x48 pixels but its image is 64x48", f"(line 1 of {val})"),
        ("v1.png does not exist", f"(line 2 of {val})"),
    ]
    assert len(problems) == len(expected)
    for problem, (text, place) in zip(problems, expected):
        assert text in problem and problem.endswith(place)
    assert state(data.parent) == before


def test_lines_that_name_an_image_again(data, capsys):
    write_lists(data, ["t0", "t1", "t2", "t3", "t4", "t5"], ["v0", "v1", "v0"])
    labelled = data.parent / "splits/camvid/few/labeled.txt"
    labelled.write_text("t0\nt1.jpg\nJPEGImages/t0.jpg\n")
    code, problems, _ = check(data, capsys)
    val = data / "ImageSets" / "Segmentation" / "val.txt"
    expected = [f"{val} names v0 in lines 1, 3; keep one", f"{labelled} names t0 in lines 1, 3; keep one"]
    assert (code, problems) == (1, expected)


def test_lists_that_overlap(data, capsys):
    write_lists(data, ["t0", "t1", "t2", "t0", "v1"], ["v0", "v1", "t1"])
    (data.parent / "splits/camvid/few/unlabeled.txt").write_text("t0\nt2\nv1\n")
    code, problems, _ = check(data, capsys)
    train, val = (data / "ImageSets" / "Segmentation" / f"{part}.txt" for part in ("train", "val"))
    assert code == 1
    assert problems == [
        f"{train} names t0 in lines 1, 4; keep one",
        f"t1 is labelled and also in the validation list; take it out of one (line 2 of {train}, line 3 of {val})",
        f"v1 is unlabelled and also in the validation list; take it out of one (line 5 of {train}, line 2 of {val})",
        f"t0 is labelled and also in the unlabelled list; take it out of one (line 1 of {train}, line 4 of {train})",
    ]


def test_lists_that_cannot_be_read(data, capsys):
    (data / "ImageSets/Segmentation/train.txt").unlink()
    (data / "ImageSets/Segmentation/val.txt").write_text("\n")
    code, problems, _ = check(data, capsys)
    assert code == 1 and len(problems) == 2
    assert any("train.txt of data set camvid does not exist" in problem for problem in problems)
    assert any("val.txt of data set camvid is empty" in problem for problem in problems)


def test_nothing_to_check_is_bad_use(data, capsys):
    code, problems, rest = check(data, capsys, "dataset.root=elsewhere")
    assert (code, problems) == (2, []) and rest.startswith("error: data folder") and rest.count("\n") == 1
    assert run_command(main, ["camvid/few/nomethod"]) == 2


def test_the_drawn_data_set(tmp_path, capsys):
    assert run_command(main, ["shapes/12/u2pl", "dataset.images=[200,3]", "--page", str(tmp_path / "page.html")]) == 0
    assert "shapes: 12 labelled, 188 unlabelled, 3 validation" in capsys.readouterr().out


def test_histogram_counts_pixels_images_and_ignored():
    histogram = Histogram(3)
    histogram.add(np.array([[0, 2], [2, 255]], np.uint8))
    histogram.add(np.array([[0, 0]], np.uint8))
    assert histogram.pixels == [3, 0, 2, 1] and histogram.images == [2, 0, 1, 1]


def test_the_page_is_one_file_with_problems_histogram_and_samples(data, capsys):
    (data / "SegmentationClass" / "v0.png").unlink()
    check(data, capsys)
    page = (data.parent / "page.html").read_text()
    assert page.startswith("<!doctype html>") and "http" not in page.replace("http-equiv", "")
    assert "1 problem(s)" in page and "v0.png does not exist" in page and "line 1 of" in page
    assert "classes in no labelled image" in page and page.count('class="bar"') == 2 * 12
    pictures = page.count("data:image/jpeg;base64,")
    assert pictures == 2 * 2 + 4 + 1 * 2  # labelled and validation with their labels, unlabelled alone, the bad one not
    check(data, capsys, "--samples", "3")
    assert (data.parent / "page.html").read_text().count("data:image/jpeg;base64,") == 2 + 1 + 2 - 2


def test_classes_that_are_not_there_and_empty_labels_are_remarks(data, capsys):
    Image.fromarray(np.full((48, 64), 255, np.uint8)).save(data / "SegmentationClass" / "t0.png")
    code, problems, rest = check(data, capsys)
    assert (code, problems) == (0, [])
    assert "note: the label of t0 has no pixel of any class, all are ignored" in rest
    assert "note: 8 of 11 classes in no validation image: road, " in rest


def palette_label(path, order, ids) -> None:
    """A palette label whose first colours are black, red and blue in this ``order``."""
    image = Image.fromarray(ids, mode="P")
    image.putpalette([value for index in order for value in ((0, 0, 0), (200, 0, 0), (0, 0, 200), (9, 9, 9))[index]])
    image.save(path)


def test_palettes_that_disagree_are_named(data, capsys):
    masks = data / "SegmentationClass"
    ids = np.tile(np.array([[0, 1, 2, 1]], np.uint8), (48, 16))
    for name in ("t0", "t1", "v0"):
        palette_label(masks / f"{name}.png", (0, 1, 2), ids)
    assert check(data, capsys)[:2] == (0, [])
    palette_label(masks / "v1.png", (0, 2, 1), ids)
    code, problems, _ = check(data, capsys)
    assert code == 1 and len(problems) == 1
    assert (
        f"the palettes of the labels {masks / 't0.png'} and {masks / 'v1.png'} differ: class building is" in problems[0]
    )
    assert "which is the colour of pole; save all labels with one order" in problems[0]
    palette_label(masks / "v1.png", (0, 1, 3), ids)
    code, problems, rest = check(data, capsys)
    assert (code, problems) == (
        0,
        [],
    ) and f"{masks / 'v1.png'} differ: class pole is (0, 0, 200) in the first and (9, 9, 9)" in rest
    palette_label(masks / "v1.png", (0, 2, 1), np.zeros_like(ids))  # colours of classes that are not there say nothing
    assert check(data, capsys)[:2] == (0, [])


def test_masks_of_0_and_255_are_remarked_on(data, capsys):
    for path in (data / "SegmentationClass").iterdir():
        Image.fromarray(np.tile(np.array([[0, 255]], np.uint8), (48, 32))).save(path)
    code, problems, rest = check(data, capsys, "dataset.classes=[background, disc]")
    assert (code, problems) == (0, [])
    assert (
        "note: 1 of 2 classes in no labelled image: disc; the labels hold 0 and 255 alone, and 255 is ignored" in rest
    )
    assert (
        "1 of 2 classes" not in check(data, capsys, "dataset.classes=[background, disc]", "dataset.ignore_index=1")[2]
    )


def test_unusual_pictures_are_counted(data, capsys):
    exif = Image.Exif()
    exif[0x0112] = 3
    for name in ("t0", "v1"):
        with Image.open(data / "JPEGImages" / f"{name}.jpg") as image:
            image.save(data / "JPEGImages" / f"{name}.jpg", exif=exif)
    code, problems, rest = check(data, capsys)
    assert (code, problems) == (0, [])
    assert "note: 2 of 8 images carry an orientation tag and are read upright, e.g. t0" in rest


def test_the_line_of_a_split_list_is_named_where_the_data_set_s_lists_do_not_name_an_image(data, capsys):
    folder = data.parent / "splits" / "camvid" / "few"
    (folder / "unlabeled.txt").write_text("t2\nelsewhere\n")
    code, problems, _ = check(data, capsys)
    assert code == 1 and len(problems) == 1
    assert problems[0].endswith(f"elsewhere.jpg does not exist (line 2 of {folder / 'unlabeled.txt'})")


def test_unlabelled_images_need_no_masks_and_nothing_is_read_twice(data, capsys):
    for name in ("t2", "t3", "t4", "t5"):
        (data / "SegmentationClass" / f"{name}.png").unlink()
    assert check(data, capsys, "--workers", "1")[:2] == (0, [])


def test_a_split_with_both_lists_needs_no_training_list(data, capsys):
    (data.parent / "splits/camvid/few/unlabeled.txt").write_text("t2\nt3\n")
    (data / "JPEGImages" / "t3.jpg").unlink()
    for setting in (), ("dataset.name=mine", "dataset.train_list=''"):
        lists = data.parent / "splits" / "mine" / "few"
        lists.mkdir(parents=True, exist_ok=True)
        for name in ("labeled.txt", "unlabeled.txt"):
            (lists / name).write_bytes((data.parent / "splits/camvid/few" / name).read_bytes())
        code, problems, _ = check(data, capsys, *setting)
        assert (code, len(problems)) == (1, 1), problems
        assert "t3.jpg does not exist (line" in problems[0]
