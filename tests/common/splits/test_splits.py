"""Labelled and unlabelled lists: rules, imports, digests, and what is said when a list is missing or another one."""

from __future__ import annotations

import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from common.config.layers import dataset_config
from common.config.schema import SplitConfig
from common.datasets.file_dataset import open_dataset
from common.errors import CheckFailed, UserError
from common.splits import import_lists as split_import
from common.splits import resolve as resolve_module
from common.splits.__main__ import DigestMismatch, main, seeded
from common.splits.registry import KnownSplit, ListFacts, canonical, digest, identify, known_splits, registry
from common.splits.resolve import resolve
from tests.places import SHARED

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no optional real data beside the checkout (SHARED)")
NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture
def shapes():
    return open_dataset(dataset_config("shapes"))


def split(identifier: str, folder: Path | str = "no-such-folder") -> SplitConfig:
    return SplitConfig(id=identifier, folder=str(folder))


def write(path: Path, ids, line: str = "{}\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line.format(name) for name in ids))
    return path


def test_digest_is_of_the_canonical_form():
    assert digest(["b", "a", "b"]) == digest(("a", "b")) != digest(["a"])
    assert digest(["2007_000032"]) == "1f8323e6461bac9bd3f230179abb3914a8588ceeecbcbc84372bb4c5250baf44"
    assert digest([]) == NOTHING


def test_the_registry_is_consistent():
    for dataset, known in registry().items():
        digests = [entry.labelled.digest for entry in known.lists.values()]
        assert len(set(digests)) == len(digests), dataset
        for identifier, entry in known.lists.items():
            if entry.unlabelled:
                assert entry.labelled.count + entry.unlabelled.count == known.train.count, identifier
            if entry.way == "every":
                assert entry.labelled.count == -(-known.train.count // entry.ratio)
            if entry.way == "all":
                assert entry.labelled == known.train and entry.unlabelled == ListFacts(count=0, digest=NOTHING)


@needs_shared
def test_u2pl_lists_are_those_of_the_specification():
    row = re.compile(
        r"\| `(pascal|cityscapes)/(\d+)/(un)?labeled\.txt` \| (\d+) \|.* `([0-9a-f]{64})` \|$", re.MULTILINE
    )
    rows = row.findall((SHARED / "specs" / "splits_u2pl.md").read_text())
    assert len(rows) == 2 * (9 + 4)
    for folder, size, rest, count, value in rows:
        dataset = {"pascal": "voc"}.get(folder, folder)
        known = known_splits(dataset).get(size) or known_splits(dataset)[f"u2pl_{size}"]
        assert (known.unlabelled if rest else known.labelled) == ListFacts(count=int(count), digest=value)


@needs_shared
def test_every_published_digest_is_in_a_specification():
    text = "".join(path.read_text() for path in sorted((SHARED / "specs").glob("splits_*.md")))
    for dataset in ("voc", "cityscapes"):
        for identifier, entry in registry()[dataset].lists.items():
            stated = [facts.digest in text for facts in (entry.labelled, entry.unlabelled) if facts and facts.count]
            assert all(stated), identifier


def test_seeded_lists_are_nested_and_depend_on_the_seed_alone(shapes):
    ids = shapes.train_ids
    assert set(seeded(ids, 12, 0)) < set(seeded(ids, 24, 0))
    assert seeded(reversed(ids), 12, 0) == seeded(ids, 12, 0) != seeded(ids, 12, 1)
    with pytest.raises(UserError, match="cannot draw 201 labelled images from a training list of 200"):
        seeded(ids, 201, 0)


@pytest.mark.parametrize("identifier", ["12", "24", "all"])
def test_drawn_splits_have_the_registered_digest(shapes, identifier):
    drawn = resolve(shapes, split(identifier))
    known = known_splits("shapes")[identifier]
    assert (drawn.digest, drawn.unlabelled_digest) == (known.labelled.digest, known.unlabelled.digest)
    assert canonical(drawn.labelled + drawn.unlabelled) == canonical(shapes.train_ids)
    assert not set(drawn.labelled) & set(drawn.unlabelled)


@needs_shared
@pytest.mark.parametrize(
    "name", ["camvid/1_8", "camvid/1_4", "camvid/1_2", "camvid/all", "voc_mini/1_8", "voc_mini/1_4"]
)
def test_splits_of_the_real_data_verify(name, monkeypatch, capsys):
    monkeypatch.setenv("DATA_ROOT", str(SHARED / "data"))
    main(["verify", name])
    assert capsys.readouterr().out.endswith("verified\n")


def every(order: str, ids, train) -> dict:
    facts = ListFacts(count=len(ids), digest=digest(ids))
    whole = ListFacts(count=len(train), digest=digest(train))
    entry = KnownSplit(origin="the authors' copy", way="every", ratio=3, order=order, labelled=facts)
    return {"known": {"third": entry}, "registry": {"shapes": type("Known", (), {"train": whole})}}


@pytest.mark.parametrize("order", ["sorted", "file"])
def test_every_rth_of_the_sorted_or_of_the_listed_ids(monkeypatch, shapes, order):
    listed = tuple(reversed(shapes.train_ids))
    monkeypatch.setattr(shapes, "train_ids", listed)
    rule = (sorted(listed) if order == "sorted" else listed)[::3]
    fake = every(order, rule, listed)
    monkeypatch.setattr(resolve_module, "known_splits", lambda name: fake["known"])
    monkeypatch.setattr(resolve_module, "registry", lambda: fake["registry"])
    assert resolve(shapes, split("third")).labelled == canonical(rule)
    monkeypatch.setattr(shapes, "train_ids", tuple(sorted(listed)))
    if order == "file":
        with pytest.raises(DigestMismatch, match="goes by the order .* import shapes/third"):
            resolve(shapes, split("third"))
    else:
        assert resolve(shapes, split("third")).labelled == canonical(rule)


def test_a_missing_list_names_the_command_that_gets_it():
    voc = open_dataset(dataset_config("voc"))
    with pytest.raises(
        UserError, match=r"data/splits/pascal/92 of Haochen-Wang409/U2PL.*common.splits import voc/92 PATH"
    ):
        resolve(voc, split("92"))
    with pytest.raises(UserError, match="make voc/mine --count N --seed S.*import voc/mine PATH"):
        resolve(voc, split("mine"))


def test_a_list_in_the_folder_is_checked_and_another_one_is_named(shapes, tmp_path):
    other = resolve(shapes, split("24"))
    file = write(tmp_path / "shapes" / "12" / "labeled.txt", other.labelled)
    with pytest.raises(
        DigestMismatch, match=r"labelled list of shapes/12 is not the right one: it is shapes/24 \(labelled\)"
    ):
        resolve(shapes, split("12", tmp_path))
    write(file, other.labelled[:-1])
    with pytest.raises(DigestMismatch) as caught:
        resolve(shapes, split("12", tmp_path))
    assert digest(other.labelled[:-1]) in str(caught.value) and known_splits("shapes")["12"].labelled.digest in str(
        caught.value
    )
    write(file, resolve(shapes, split("12")).labelled)
    write(file.with_name("unlabeled.txt"), other.unlabelled)
    with pytest.raises(DigestMismatch, match=r"unlabelled list of shapes/12 .* it is shapes/24 \(unlabelled\)"):
        resolve(shapes, split("12", tmp_path))


def test_a_changed_training_list_is_the_reason_given(shapes, monkeypatch):
    monkeypatch.setattr(shapes, "train_ids", shapes.train_ids[:-1])
    with pytest.raises(DigestMismatch, match="the training list of shapes is not the right one: 199 ids"):
        resolve(shapes, split("12"))


def test_lists_of_one_s_own(shapes, tmp_path, capsys):
    main(["make", "shapes/mine", "--plain", "--count", "5", "--seed", "3", "--folder", str(tmp_path)])
    made = resolve(shapes, split("mine", tmp_path))
    assert made.labelled == canonical(seeded(shapes.train_ids, 5, 3)) and len(made.unlabelled) == 195
    assert made.digest in capsys.readouterr().out
    main(["make", "shapes/mine", "--plain", "--count", "5", "--seed", "3", "--folder", str(tmp_path)])
    with pytest.raises(UserError, match="holds another list"):
        main(["make", "shapes/mine", "--plain", "--count", "5", "--seed", "4", "--folder", str(tmp_path)])
    write(tmp_path / "shapes" / "mine" / "labeled.txt", ["train_0000", "elsewhere"])
    (tmp_path / "shapes" / "mine" / "unlabeled.txt").unlink()
    with pytest.raises(UserError, match="labels 1 images that are not in the data set's training list.*'elsewhere'"):
        resolve(shapes, split("mine", tmp_path))


def test_make_writes_a_registered_split_where_it_is_told(shapes, tmp_path):
    main(["make", "shapes/12", "--out", str(tmp_path / "out")])
    lists = {name: (tmp_path / "out" / name).read_text() for name in ("labeled.txt", "unlabeled.txt")}
    registered = resolve(shapes, split("12"))
    assert lists == {
        "labeled.txt": "\n".join(registered.labelled) + "\n",
        "unlabeled.txt": "\n".join(registered.unlabelled) + "\n",
    }
    with pytest.raises(UserError, match="registered and cannot be drawn anew"):
        main(["make", "shapes/12", "--count", "3"])
    with pytest.raises(UserError, match="say how many images are labelled"):
        main(["make", "shapes/mine"])


@pytest.fixture
def authors_copy(tmp_path, shapes) -> Path:
    """A folder like an authors' repository: lists under strange names, shuffled, with paths, CRLF and no last line end."""
    root = tmp_path / "repository"
    for identifier in ("12", "24"):
        resolved = resolve(shapes, split(identifier))
        text = "\r\n".join(
            f"JPEGImages/{name}.jpg SegmentationClass/{name}.png" for name in reversed(resolved.labelled)
        )
        (root / "data" / identifier).mkdir(parents=True)
        (root / "data" / identifier / "train_supervised.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
        write(root / "data" / identifier / "rest.txt", resolved.unlabelled)
    write(root / "requirements.txt", ["numpy"])
    (root / "broken.txt").write_bytes(b"\xff\xfe\x00")
    return root


def as_zip(root: Path) -> Path:
    with zipfile.ZipFile(root.with_suffix(".zip"), "w") as archive:
        for file in root.rglob("*.txt"):
            archive.write(file, f"../{file.relative_to(root)}")
    return root.with_suffix(".zip")


def as_tar(root: Path) -> Path:
    with tarfile.open(root.with_suffix(".tar.gz"), "w:gz") as archive:
        archive.add(root, "somewhere")
    return root.with_suffix(".tar.gz")


@pytest.mark.parametrize("form", [lambda root: root, as_zip, as_tar], ids=["folder", "zip", "tar"])
def test_import_finds_the_lists_by_their_digest(authors_copy, shapes, tmp_path, form):
    main(["import", "shapes/12", str(form(authors_copy)), "--folder", str(tmp_path / "splits")])
    assert sorted(path.name for path in (tmp_path / "splits" / "shapes" / "12").iterdir()) == [
        "labeled.txt",
        "unlabeled.txt",
    ]
    imported = resolve(shapes, split("12", tmp_path / "splits"))
    assert imported.labelled == resolve(shapes, split("12")).labelled
    assert "lists in" in imported.origin


def test_import_of_one_file_alone(authors_copy, shapes, tmp_path):
    file = authors_copy / "data" / "24" / "train_supervised.txt"
    main(["import", "shapes/24", str(file), "--folder", str(tmp_path / "splits")])
    assert resolve(shapes, split("24", tmp_path / "splits")).unlabelled == resolve(shapes, split("24")).unlabelled


def test_import_of_the_wrong_list_says_what_is_there(authors_copy, tmp_path):
    folder = str(tmp_path / "splits")
    with pytest.raises(
        DigestMismatch, match=r"none of its 2 lists is the labelled list of shapes/12; it has shapes/24 \(labelled\)"
    ):
        main(["import", "shapes/12", str(authors_copy / "data" / "24"), "--folder", folder])
    with pytest.raises(UserError, match="empty.txt of data set shapes is empty"):
        main(["import", "shapes/12", str(write(tmp_path / "empty.txt", [])), "--folder", folder])
    with pytest.raises(UserError, match="no such file or folder"):
        main(["import", "shapes/12", str(tmp_path / "none"), "--folder", folder])
    assert not Path(folder).exists()


def test_import_of_a_list_of_one_s_own(authors_copy, shapes, tmp_path, capsys):
    folder = ["--folder", str(tmp_path / "splits")]
    main(["import", "shapes/mine", str(write(tmp_path / "my.txt", ["train_0003", "train_0001"])), *folder])
    assert resolve(shapes, split("mine", tmp_path / "splits")).labelled == ("train_0001", "train_0003")
    main(["import", "shapes/again", str(authors_copy / "data" / "24" / "rest.txt"), *folder])
    assert "the same list as shapes/24 (unlabelled)" in capsys.readouterr().out
    with pytest.raises(UserError, match="expected one list, or a folder with labeled.txt"):
        main(["import", "shapes/more", str(authors_copy), *folder])


def test_import_puts_whole_lists_in_their_place(tmp_path, monkeypatch):
    train, val = ("a_2", "a_1", "a_3"), ("v_1",)
    facts = [ListFacts(count=len(ids), digest=digest(ids)) for ids in (train, val)]
    known = type("Known", (), {"train": facts[0], "val": facts[1], "lists": {}, "others": {}})
    monkeypatch.setattr(split_import, "registry", lambda: {"camvid": known})
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "data"))
    write(tmp_path / "copy" / "8" / "labeled.txt", train[:1])
    write(tmp_path / "copy" / "8" / "unlabeled.txt", train[1:])
    write(tmp_path / "copy" / "val.txt", val)
    main(["import", "camvid/train", str(tmp_path / "copy")])
    main(["import", "camvid/val", str(tmp_path / "copy")])
    camvid = open_dataset(dataset_config("camvid"))
    assert (camvid.train_ids, camvid.val_ids) == (train, val)
    with pytest.raises(DigestMismatch, match="none of its 1 lists is the train list of camvid"):
        main(["import", "camvid/train", str(tmp_path / "copy" / "val.txt")])


def test_verify_fails_on_a_wrong_list(shapes, tmp_path, capsys):
    main(["verify", "shapes/12"])
    write(tmp_path / "shapes" / "12" / "labeled.txt", shapes.train_ids[:12])
    with pytest.raises(CheckFailed, match="is not the right one"):
        main(["verify", "shapes/12", "--folder", str(tmp_path)])
    write(tmp_path / "shapes" / "mine" / "labeled.txt", shapes.train_ids[:12])
    main(["verify", "shapes/mine", "--folder", str(tmp_path)])
    assert capsys.readouterr().out.endswith("not a registered split: nothing to compare with\n")


def test_list_and_show(capsys):
    main(["list", "voc"])
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == len(known_splits("voc")) + len(registry()["voc"].others)
    assert all(row.startswith("voc/") for row in rows)
    assert any("662 of 10582  fine  14 %  every" in row and "[CPS, CPCL, UniMatch]" in row for row in rows)
    main(["show", "voc/cps_662"])
    shown = capsys.readouterr().out
    assert "every, ratio 16, sorted order" in shown and known_splits("voc")["cps_662"].labelled.digest in shown
    with pytest.raises(UserError, match="voc/662 is not registered"):
        main(["show", "voc/662"])
    with pytest.raises(UserError, match="expected DATASET/ID"):
        main(["show", "voc"])


def test_identify():
    assert identify(known_splits("cityscapes")["cps_186"].labelled.digest) == "cityscapes/cps_186 (labelled)"
    assert identify(registry()["voc"].val.digest) == "the validation list of voc"
    assert identify(NOTHING[::-1]) is None
