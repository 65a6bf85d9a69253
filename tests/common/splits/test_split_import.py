"""A copy of an authors' repository is searched for lists; each is recognised by what is in it, never by its file name."""

from __future__ import annotations

import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from common.config.layers import dataset_config
from common.datasets.file_dataset import open_dataset
from common.errors import UserError
from common.splits import import_lists as split_import
from common.splits import list_files
from common.splits import registry as split_registry
from common.splits.__main__ import main
from common.splits.list_files import find_lists
from common.splits.registry import KnownDataset, KnownSplit, ListFacts, OtherList, digest, registry
from tests.places import SHARED

CITY = [f"{city}_{number:06}_000019" for city in ("aachen", "bremen", "jena") for number in range(4)]
VOC = [f"2007_{number:06}" for number in range(12)]
LABELLED, VAL = slice(0, 12, 4), ["frankfurt_000000_000294", "lindau_000001_000019"]

LINES = {
    "U2PL VOC": (VOC, "{id}"),
    "PCR Cityscapes": (CITY, "leftImg8bit/train/{city}/{id}_leftImg8bit.png"),
    "CPS VOC": (VOC, "{id}"),
    "CPS Cityscapes": (CITY, "/images/train/{id}.png\t/segmentation/train/{id}_gtFine.png"),
    "USRN VOC": (VOC, "/JPEGImages/{id}.jpg /SegmentationClassAug/{id}.png"),
    "USRN Cityscapes": (CITY, "images/train/{id}_leftImg8bit.png segmentation/train/{id}_gtFine_labelTrainIds.png"),
    "UCCL VOC": (VOC, "JPEGImages/{id}.jpg SegmentationClass/{id}.png"),
    "UCCL Cityscapes": (
        CITY,
        "leftImg8bit/train/{city}/{id}_leftImg8bit.png gtFine/train/{city}/{id}_gtFine_labelTrainIds.png",
    ),
}
"""The line formats of the five repositories; CPCL's lists are CPS's."""


def facts(ids) -> ListFacts:
    return ListFacts(count=len(ids), digest=digest(ids))


@pytest.fixture
def known(monkeypatch, tmp_path):
    """A registry of small lists in place of the published ones, and a data folder for Cityscapes."""
    small = {}
    for name, ids, val in (("voc", VOC, VOC[:1]), ("cityscapes", CITY, VAL)):
        rest = [name for name in ids if name not in ids[LABELLED]]
        split = KnownSplit(origin="somewhere", way="import", labelled=facts(ids[LABELLED]), unlabelled=facts(rest))
        others = {"extra": OtherList(origin="elsewhere", facts=facts(["x_1", "x_2"]))} if name == "cityscapes" else {}
        small[name] = KnownDataset(train=facts(ids), val=facts(val), lists={"fourth": split}, others=others)
    for module in (split_registry, split_import):
        monkeypatch.setattr(module, "registry", lambda configs=None: small)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "data"))
    (tmp_path / "data" / "cityscapes").mkdir(parents=True)
    return tmp_path


def text_of(ids, line: str, end: str = "\n") -> str:
    return end.join(line.format(id=name, city=name.partition("_")[0]) for name in ids)


@pytest.mark.parametrize("source", LINES)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_line_format_is_recognised(known, source, end, capsys):
    ids, line = LINES[source]
    rest = [name for name in ids if name not in ids[LABELLED]]
    (known / "copy" / "deep").mkdir(parents=True)
    (known / "copy" / "deep" / "misnamed.txt").write_text(text_of(reversed(ids[LABELLED]), line, end))
    (known / "copy" / "labeled.txt").write_text(text_of(rest, line, end) + end)
    (known / "copy" / "requirements.txt").write_text("numpy\n")
    main(["import", str(known / "copy"), "--folder", str(known / "splits")])
    dataset = "voc" if ids is VOC else "cityscapes"
    said = capsys.readouterr().out
    assert f"misnamed.txt: 3 ids, {dataset}/fourth (labelled)" in said
    assert f"labeled.txt: 9 ids, {dataset}/fourth (unlabelled)" in said
    assert re.search(r"no registered list: .*requirements.txt", said)
    folder = known / "splits" / dataset / "fourth"
    assert (folder / "labeled.txt").read_text().split() == sorted(ids[LABELLED])
    assert (folder / "unlabeled.txt").read_text().split() == sorted(rest)


def archive_of(known: Path, form: str) -> Path:
    files = {"a/train.txt": CITY[::-1], "a/val.txt": VAL, "a/extra.txt": ["x_1", "x_2"], "../../up.txt": CITY[LABELLED]}
    path = known / f"copy.{form}"
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, ids in files.items():
                archive.writestr(name, "\n".join(ids))
        return path
    (known / "list.txt").write_text("")
    with tarfile.open(path, "w:gz") as archive:
        for name, ids in files.items():
            (known / "list.txt").write_text("\n".join(ids))
            archive.add(known / "list.txt", name)
    return path


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_whole_lists_go_to_the_data_set_and_nothing_outside_of_the_target(known, form, capsys):
    archive = archive_of(known, form)
    main(["import", str(archive), "--folder", str(known / "splits")])
    data = open_dataset(dataset_config("cityscapes"))
    assert data.train_ids == tuple(CITY[::-1]) and data.val_ids == tuple(VAL)  # CPS's rule goes by this order
    assert (known / "splits" / "cityscapes" / "extra.txt").read_text() == "x_1\nx_2\n"
    assert not list(known.parent.rglob("up.txt"))
    main(["import", str(archive), "--folder", str(known / "splits")])
    assert "train.txt is there and stays as it is" in capsys.readouterr().out


def test_a_training_list_is_put_together_from_its_parts_whatever_they_are_called(known):
    rest = [name for name in VOC if name not in VOC[LABELLED]]
    (known / "copy").mkdir()
    (known / "copy" / "3_train_supervised.txt").write_text("\n".join(VOC[LABELLED]))
    (known / "copy" / "3_train_unsupervised.txt").write_text("\n".join(rest))
    main(["import", "voc/train", str(known / "copy")])
    training_list = known / "data" / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "train_aug.txt"
    assert training_list.read_text().split() == [*VOC[LABELLED], *rest]


def test_other_lists_by_name(known):
    (known / "extra.txt").write_text("x_2\nx_1")
    main(["import", "cityscapes/extra", str(known / "extra.txt"), "--folder", str(known / "splits")])
    assert (known / "splits" / "cityscapes" / "extra.txt").read_text() == "x_1\nx_2\n"
    (known / "extra.txt").write_text("x_2")
    with pytest.raises(UserError, match="none of its 1 lists is cityscapes/extra"):
        main(["import", "cityscapes/extra", str(known / "extra.txt"), "--folder", str(known / "splits")])


def test_another_list_in_the_place_of_one_stops_all(known):
    rest = [name for name in VOC if name not in VOC[LABELLED]]
    (known / "copy").mkdir()
    for name, ids in (("a.txt", VOC[LABELLED]), ("b.txt", rest)):
        (known / "copy" / name).write_text("\n".join(ids))
    target = known / "splits" / "voc" / "fourth"
    target.mkdir(parents=True)
    (target / "unlabeled.txt").write_text("2007_000001\n")
    with pytest.raises(UserError, match=r"unlabeled.txt holds another list than voc/fourth \(unlabelled\); remove it"):
        main(["import", str(known / "copy"), "--folder", str(known / "splits")])
    assert [path.name for path in target.iterdir()] == ["unlabeled.txt"]


def test_nothing_that_is_registered(known):
    (known / "mine.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match="none of its 1 lists is registered; nothing was written"):
        main(["import", str(known / "mine.txt"), "--folder", str(known / "splits")])
    with pytest.raises(UserError, match="expected PATH, or DATASET/ID and PATH"):
        main(["import", "voc/a", "b", "c"])
    assert not (known / "splits").exists()


def test_archives_are_read_within_bounds(known, monkeypatch):
    config = dataset_config("cityscapes")
    with zipfile.ZipFile(known / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large.txt", "a" * 5000)
        archive.writestr("small.txt", "a\nb\n")
    monkeypatch.setattr(list_files, "LARGEST_LIST", 4000)
    lists, refused = find_lists(known / "bomb.zip", config)
    assert list(lists) == ["small.txt"] and "large.txt has more than" in refused["large.txt"]
    monkeypatch.setattr(list_files, "LARGEST_LIST", 6000)
    monkeypatch.setattr(list_files, "LARGEST_ARCHIVE", 5001)
    with pytest.raises(UserError, match="bomb.zip: its lists unpack to more than"):
        find_lists(known / "bomb.zip", config)
    data = (known / "bomb.zip").read_bytes()
    (known / "cut.zip").write_bytes(data[:60] + bytes(20) + data[80:])
    with pytest.raises(UserError, match="cut.zip cannot be read as an archive"):
        find_lists(known / "cut.zip", config)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"p0\n\xff\xfe\n", "is not UTF-8 text"),
        ("p0\n".encode("utf-16-le"), "UTF-16 without a byte-order mark"),
        (b"/one/a.jpg\n/two/a.jpg\n", r"line 1 \(/one/a.jpg\) and line 2 \(/two/a.jpg\) would both become the image a"),
        (b"\n \n", "is empty"),
    ],
)
def test_the_real_reason_of_a_failure_is_told(known, content, reason):
    (known / "mine.txt").write_bytes(content)
    for name in ("import", "voc/mine"), ("import",):
        with pytest.raises(UserError, match=f"mine.txt.*{reason}"):
            main([*name, str(known / "mine.txt"), "--folder", str(known / "splits")])
    assert not (known / "splits").exists()


def test_a_list_that_cannot_be_read_is_not_passed_over(known, capsys):
    (known / "copy").mkdir()
    (known / "copy" / "labeled.txt").write_bytes(b"/one/a.jpg\n/two/a.jpg\n")
    (known / "copy" / "unlabeled.txt").write_text("b\n")
    with pytest.raises(UserError, match="labeled.txt: line 1"):
        main(["import", "voc/mine", str(known / "copy"), "--folder", str(known / "splits")])
    (known / "copy" / "fourth.txt").write_text("\n".join(VOC[LABELLED]))
    main(["import", str(known / "copy"), "--folder", str(known / "splits")])
    said = capsys.readouterr().out
    assert re.search("left out: list .*labeled.txt: line 1 .* would both become the image a", said)
    (known / "copy" / "labeled.txt").unlink()
    (known / "copy" / "fourth.txt").unlink()
    with pytest.raises(UserError, match="expected one list, or a folder with labeled.txt"):
        main(["import", "voc/mine", str(known / "copy"), "--folder", str(known / "splits")])


def test_as_many_images_are_written_as_lines_were_read_or_it_is_said(known, capsys):
    (known / "mine.txt").write_bytes("\ufeffmy photo 3.jpg\r\nA\\0.JPG\r\nB/0.jpg\r\nmy photo 3\r\n".encode("utf-16"))
    main(["import", "voc/mine", str(known / "mine.txt"), "--folder", str(known / "splits")])
    assert (known / "splits/voc/mine/labeled.txt").read_text() == "A/0\nB/0\nmy photo 3\n"
    assert "labeled.txt: 3 ids (4 lines, 1 name an image again), " in capsys.readouterr().out


def test_companions_of_macos_are_no_lists(known, capsys):
    with zipfile.ZipFile(known / "copy.zip", "w") as archive:
        archive.writestr("copy/labeled.txt", "a\nb\n")
        archive.writestr("__MACOSX/copy/._labeled.txt", b"\x00\x05\x16\x07")
    with zipfile.ZipFile(known / "copy.zip") as archive:
        archive.extractall(known / "copy")
    for path in (known / "copy.zip", known / "copy"):
        main(["import", "voc/mine", str(path), "--folder", str(known / "splits")])
        assert (known / "splits/voc/mine/labeled.txt").read_text() == "a\nb\n"


@pytest.mark.skipif(not SHARED.is_dir(), reason="no specification of the published lists beside the checkout (SHARED)")
def test_every_list_of_the_specifications_is_registered():
    text = "".join(path.read_text() for path in sorted((SHARED / "specs").glob("splits_*.md")))
    rows = [line for line in text.splitlines() if line.startswith("|") and re.search(r"\b[0-9a-f]{64}\b", line)]
    rows = [row for row in rows if "(same set)" not in row]
    known = {facts.digest for facts in every_fact()}
    for row in rows:
        digests = re.findall(r"\b[0-9a-f]{64}\b", row)
        assert set(digests) & known, row  # a row has the digest of the canonical form among others
    assert len(rows) > 150


def every_fact():
    for entry in registry().values():
        yield from (entry.train, entry.val, *(other.facts for other in entry.others.values()))
        for split in entry.lists.values():
            yield from filter(None, (split.labelled, split.unlabelled))
