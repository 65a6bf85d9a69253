"""USRN's stages as commands: features, subclass labels, training on them; what does not fit is one line, nothing is written."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

import torch_impl.eval  # noqa: E402
import torch_impl.features  # noqa: E402
import torch_impl.train  # noqa: E402
from common.checkpoints.checkpoint import read  # noqa: E402
from common.command_line import run_command  # noqa: E402
from common.errors import UserError  # noqa: E402
from common.evaluation.results import read_result  # noqa: E402
from common.experiment import compose, load  # noqa: E402
from common.make_subclasses import __main__ as make_subclasses  # noqa: E402
from common.methods.usrn.subclasses import digest, read_description, write_subclass_image  # noqa: E402
from experiments import usrn as driver  # noqa: E402
from tests.commands.methods import SHORT, UNLABELLED  # noqa: E402
from tests.subclass_labels import shapes_labels, write_labels  # noqa: E402

SETTINGS = [*SHORT, "network.width=16", "trainer.device=cpu"]
COUNTS = "method.subclass_counts=[3,2,1,1,2,1]"


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    """A baseline's run folder with features."""
    folder = tmp_path_factory.mktemp("baseline")
    arguments = ["shapes/12/usrn_baseline", *SETTINGS, "trainer.epochs=1", "trainer.iterations_per_epoch=1"]
    assert run_command(torch_impl.train.main, [*arguments, "--run-dir", str(folder)]) == 0
    assert features(folder) == 0
    return folder


@pytest.fixture
def copy(baseline, tmp_path):
    """A copy of that folder which a test may spoil."""
    shutil.copytree(baseline, tmp_path / "run")
    return tmp_path / "run"


def features(folder, *options) -> int:
    arguments = ["shapes/12/usrn_baseline", *SETTINGS, "--checkpoint", str(folder / "best.pth")]
    return run_command(torch_impl.features.main, [*arguments, "--out", str(folder / "features"), *options])


def cluster(folder, *options, experiment="shapes/12/usrn") -> int:
    return run_command(make_subclasses.main, [experiment, *SETTINGS, "--features", str(folder / "features"), *options])


def train(labels, run, *options) -> int:
    settings = [
        *SETTINGS,
        *UNLABELLED,
        f"method.subclass_labels={labels}",
        "trainer.epochs=1",
        "trainer.iterations_per_epoch=1",
    ]
    return run_command(torch_impl.train.main, ["shapes/12/usrn", *settings, *options, "--run-dir", str(run)])


def one_line(capsys) -> str:
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    return error[0]


def content(folder) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_chain_by_hand(copy, tmp_path, capsys):
    labels = copy / "subclass_labels"
    checkpoint = (copy / "best.pth").read_bytes()
    assert cluster(copy, COUNTS) == 0
    made = read_description(labels, "")
    assert made.counts == (3, 2, 1, 1, 2, 1) and len(list(labels.glob("*.png"))) == 12
    picture = Image.open(next(labels.glob("*.png")))
    assert picture.mode == "L" and picture.size == (64, 64) and set(np.unique(picture)) <= {*range(10), 255}
    assert train(labels, tmp_path / "usrn") == 0
    config = load(tmp_path / "usrn" / "config.yaml")
    assert config.network.subclasses == 10 and config.method.subclass_counts == made.counts
    assert (copy / "best.pth").read_bytes() == checkpoint
    again = tmp_path / "again"
    assert cluster(copy, COUNTS, "--out", str(again)) == 0
    assert read_description(again, "").digest == made.digest
    assert cluster(copy, COUNTS, "trainer.seed=7", "--out", str(tmp_path / "other")) == 0
    assert read_description(tmp_path / "other", "").digest != made.digest


def test_either_stage_is_evaluated_by_its_class_branch(copy, tmp_path):
    assert train(shapes_labels(), tmp_path / "usrn") == 0
    assert any("_subclass." in name for name in read(tmp_path / "usrn" / "best.pth").networks["model"])
    for checkpoint, experiment in (
        (tmp_path / "usrn/best.pth", "shapes/12/usrn"), (tmp_path / "usrn/best.pth", "shapes/12/usrn_baseline"),
        (copy / "best.pth", "shapes/12/usrn"),
    ):  # fmt: skip
        out = tmp_path / "eval"
        options = ["--checkpoint", str(checkpoint), "--out", str(out), "--dump", str(out)]
        assert run_command(torch_impl.eval.main, [experiment, *SETTINGS, *options]) == 0
        trained = read_result(checkpoint.parent / "result.json")
        assert read_result(out / "result.json")["miou"] == pytest.approx(trained["miou"])
        picture = Image.open(next((out / "ids").glob("*.png")))
        assert picture.mode == "P" and picture.getpalette()[3:6] == [128, 0, 0]


def test_sampling_is_a_named_option(copy, tmp_path):
    out = tmp_path / "sampled"
    assert cluster(copy, COUNTS, "method.clustering.sample=100", "--out", str(out)) == 0
    assert read_description(out, "").sample == 100 and len(list(out.glob("*.png"))) == 12


def test_features_go_on_where_they_stopped(copy):
    before = content(copy / "features")
    next((copy / "features").glob("*.npy")).unlink()
    assert features(copy) == 0 and content(copy / "features") == before
    feature = np.load(next((copy / "features").glob("*.npy")))
    assert feature.dtype == np.float16 and feature.shape == (16, 8, 8) and feature.min() >= 0


def missing_features(copy):
    file = sorted((copy / "features").glob("*.npy"))[3]
    file.unlink()
    return file.name, []


def no_features(copy):
    shutil.rmtree(copy / "features")
    return "no features in", []


def damaged_feature(copy):
    file = sorted((copy / "features").glob("*.npy"))[0]
    file.write_bytes(file.read_bytes()[:20])
    return file.name, []


def another_checkpoint(copy):
    (copy / "best.pth").write_bytes((copy / "best.pth").read_bytes() + b" ")
    return "another checkpoint", ["--checkpoint", str(copy / "best.pth")]


def another_split(copy):
    path = copy / "features" / "features.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"split": "24", "split_digest": "0"}))
    return "not of shapes/12", []


def too_few_pixels(copy):
    return "fewer than its 249 subclasses", ["method.subclass_counts=[1,1,1,1,1,249]"]


def too_many_subclasses(copy):
    return "at most 254", ["method.subclass_share=0.001"]


FAULTS = [
    missing_features, no_features, damaged_feature, another_checkpoint, another_split, too_few_pixels, too_many_subclasses,
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_cannot_be_clustered(fault, copy, capsys):
    named, options = fault(copy)
    before = content(copy)
    assert cluster(copy, *options) == 2
    assert named in one_line(capsys)
    assert content(copy) == before and not (copy / "subclass_labels").exists()


def test_features_of_another_checkpoint_are_not_mixed(copy, capsys):
    (copy / "best.pth").write_bytes((copy / "best.pth").read_bytes() + b" ")
    before = content(copy)
    assert features(copy) == 2
    assert "another checkpoint" in one_line(capsys) and content(copy) == before


def test_subclass_labels_are_not_overwritten(copy, capsys):
    assert cluster(copy, COUNTS) == 0
    before = content(copy)
    assert cluster(copy, "method.subclass_share=0.2") == 2
    assert "--overwrite" in one_line(capsys) and content(copy) == before
    assert cluster(copy, "method.subclass_share=0.2", "--overwrite") == 0
    assert read_description(copy / "subclass_labels", "").rule == "share 0.2"


def labels_of_another_split(folder):
    write_labels(folder, compose("shapes/24/usrn"), (4, 2, 1, 1, 2, 1))
    return "made for shapes/24", []


def labels_of_other_counts(folder):
    shutil.copytree(shapes_labels(), folder)
    return "subclass counts 4 2 1 1 2 1", ["method.subclass_counts=[3,3,1,1,2,1]"]


def labels_that_changed(folder):
    shutil.copytree(shapes_labels(), folder)
    path = sorted(folder.glob("*.png"))[0]
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(path)
    return "have changed", []


def labels_that_lack_one(folder):
    shutil.copytree(shapes_labels(), folder)
    path = sorted(folder.glob("*.png"))[0]
    path.unlink()
    return path.name, []


def no_labels(folder):
    return "no subclass labels", []


def damaged_description(folder):
    shutil.copytree(shapes_labels(), folder)
    (folder / "subclasses.json").write_text("{}")
    return "damaged", []


@pytest.mark.parametrize(
    "fault",
    [
        labels_of_another_split, labels_of_other_counts, labels_that_changed, labels_that_lack_one, no_labels,
        damaged_description,
    ],
    ids=lambda fault: fault.__name__,
)  # fmt: skip
def test_labels_that_do_not_fit_are_refused(fault, tmp_path, capsys):
    named, options = fault(tmp_path / "labels")
    assert train(tmp_path / "labels", tmp_path / "run", *options) == 2
    assert named in one_line(capsys) and not (tmp_path / "run").exists()


def test_resuming_with_other_labels_is_refused(tmp_path, capsys):
    labels = shutil.copytree(shapes_labels(), tmp_path / "labels")
    assert train(labels, tmp_path / "run") == 0
    first = read_description(labels, "").digest
    assert read(tmp_path / "run" / "last.pth").meta.data["subclass labels"] == first
    for counts, named in (
        ((2, 2, 2, 2, 2, 1), "method.subclass_counts"),
        ((4, 2, 1, 1, 2, 1), "method.subclass_digest"),
    ):
        shutil.rmtree(labels)
        write_labels(labels, compose("shapes/12/usrn"), counts)
        image = next(iter(sorted(labels.glob("*.png"))))
        write_subclass_image(image, np.asarray(Image.open(image))[::-1].copy())
        made = dataclasses.replace(read_description(labels, ""), digest=digest(labels.glob("*.png")))
        made.write(labels)
        assert train(labels, tmp_path / "run", "--resume") == 2
        error = one_line(capsys)
        assert named in error and first in error and made.digest in error


def test_the_driver_stops_at_the_first_failure(monkeypatch, tmp_path):
    ran = []

    def run(module, *arguments):
        ran.append((module, arguments[0]))
        if module == failing:
            raise UserError("no")

    monkeypatch.setattr(driver, "_run", run)
    whole = [
        ("torch_impl.train", "shapes/12/usrn_baseline"), ("torch_impl.features", "shapes/12/usrn_baseline"),
        ("common.make_subclasses", "shapes/12/usrn"), ("torch_impl.train", "shapes/12/usrn"),
    ]  # fmt: skip
    for failing, expected in ((None, whole), ("common.make_subclasses", whole[:3]), ("torch_impl.features", whole[:2])):
        ran.clear()
        code = run_command(driver.main, ["torch", "shapes/12", "--out", str(tmp_path)])
        assert (code, ran) == (2 if failing else 0, expected)
    ran.clear()
    assert run_command(driver.main, ["torch", "shapes/12", "--usrn", "method.threshold=2"]) == 2 and not ran
    assert run_command(driver.main, ["torch", "shapes/12/usrn"]) == 2 and not ran


def test_the_baseline_gets_the_settings_that_it_has(monkeypatch, tmp_path):
    trained = {}
    monkeypatch.setattr(driver, "_run", lambda module, name, *rest: trained.setdefault(name.rpartition("/")[2], rest))
    settings = ["optimizer.lr=0.1", "augment.crop=32", "method.unsup_weight=0", "method.iters_rule=per_process"]
    assert run_command(driver.main, ["torch", "shapes/12", *settings, "--out", str(tmp_path)]) == 0
    assert [word for word in trained["usrn_baseline"] if "=" in word] == [*settings[:2], settings[3]]
    assert set(settings) <= set(trained["usrn"])
    assert run_command(driver.main, ["torch", "shapes/12", "method.unsup_wieght=0", "--out", str(tmp_path)]) == 2


def test_numbers_of_subclasses_must_agree_within_the_configuration():
    with pytest.raises(UserError, match="network.subclasses = 5"):
        compose("shapes/12/usrn", [COUNTS, "network.subclasses=5"])
    with pytest.raises(UserError, match="at most 254"):
        compose("shapes/12/usrn", ["method.subclass_counts=[200,100]"])
    with pytest.raises(UserError, match="usrn_baseline"):
        compose("shapes/12/usrn_baseline", ["network.subclasses=5"])
    assert dataclasses.asdict(compose("voc/662/usrn").method)["subclass_counts"][0] == 132
