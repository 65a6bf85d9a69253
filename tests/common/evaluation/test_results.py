"""result.json: complete, plain JSON, written whole, read strictly."""

import datetime
import hashlib
import json

import numpy as np
import pytest

from common.errors import UserError
from common.evaluation.evaluate import Evaluation, describe_protocol
from common.evaluation.metrics import ConfusionMatrix
from common.evaluation.results import absence, format_table, read_result, result, write_result
from common.files import write_json_atomic
from common.prediction.predictor import UsedRuntime
from tests.builders import experiment

CONFIG = experiment(
    ("cat", "dog", "guinea pig"), dataset={"name": "pets"}, split={"id": "12"}, evaluation={"absent_class": "skip"}
)
DIGEST = "ab" * 32


@pytest.fixture
def evaluation():
    confusion = ConfusionMatrix(3)
    label = np.array([[0, 0, 0, 1, 1, 255]], dtype=np.uint8)
    confusion.update(np.array([[0, 0, 1, 1, 1, 2]], dtype=np.uint8), label)
    return Evaluation(
        confusion=confusion,
        iou=tuple(map(float, confusion.iou())),
        miou=confusion.miou("skip"),
        pixel_accuracy=confusion.pixel_accuracy(),
        images=1,
        seconds=1.23456,
        seconds_per_image=1.23456,
        protocol=describe_protocol(CONFIG),
        runtime=UsedRuntime(name="onnx", version="1.2.3", device="CPUExecutionProvider"),
    )


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "best.safetensors"
    path.write_bytes(b"weights")
    return path


def write(path, evaluation, checkpoint):
    return write_result(path, evaluation, CONFIG, split_digest=DIGEST, checkpoint=checkpoint, role="teacher")


def test_file_holds_everything(tmp_path, evaluation, checkpoint):
    returned = write(tmp_path / "run" / "result.json", evaluation, checkpoint)
    content = json.loads((tmp_path / "run" / "result.json").read_text())
    assert content == returned
    date = datetime.datetime.fromisoformat(content.pop("date"))
    assert abs((datetime.datetime.now(datetime.UTC) - date).total_seconds()) < 60
    assert content == {
        "format": 1,
        "experiment": "pets/12/suponly",
        "miou": 2 / 3,
        "miou_percent": 66.667,
        "miou_without_first": pytest.approx(2 / 3),
        "pixel_accuracy": 0.8,
        "iou": {"cat": 2 / 3, "dog": 2 / 3, "guinea pig": None},
        "pixels": {
            "cat": {"labelled": 3, "predicted": 2, "correct": 2},
            "dog": {"labelled": 2, "predicted": 3, "correct": 2},
            "guinea pig": {"labelled": 0, "predicted": 0, "correct": 0},
        },
        "ignored_classes": [],
        "ignored_pixels": 1,
        "confusion_matrix": [[2, 1, 0], [0, 2, 0], [0, 0, 0]],
        "protocol": describe_protocol(CONFIG),
        "split": {"dataset": "pets", "id": "12", "digest": DIGEST},
        "checkpoint": {"path": str(checkpoint), "sha256": hashlib.sha256(b"weights").hexdigest()},
        "role": "teacher",
        "runtime": {"name": "onnx", "version": "1.2.3", "device": "CPUExecutionProvider"},
        "images": 1,
        "seconds": 1.235,
        "seconds_per_image": 1.23456,
    }


def test_file_reads_back(tmp_path, evaluation, checkpoint):
    returned = write(tmp_path / "result.json", evaluation, checkpoint)
    assert read_result(tmp_path / "result.json") == returned


def test_network_that_was_not_saved(evaluation):
    content = result(evaluation, CONFIG, split_digest=None, checkpoint=None)
    assert content["checkpoint"] is None and content["role"] is None and content["split"]["digest"] is None
    json.dumps(content, allow_nan=False)


def test_missing_checkpoint_leaves_no_file(tmp_path, evaluation):
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "result.json", evaluation, tmp_path / "absent.safetensors")
    assert not list(tmp_path.iterdir())


def test_bad_files_are_refused(tmp_path):
    path = tmp_path / "result.json"
    with pytest.raises(UserError, match="there is no such file"):
        read_result(path)
    path.write_text('{"format": 1, "miou"')
    with pytest.raises(UserError, match="not a readable result file"):
        read_result(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not a readable result file"):
        read_result(path)
    for text in ('{"format": 7}', "[1, 2]"):
        path.write_text(text)
        with pytest.raises(UserError, match="result format"):
            read_result(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iou", [0.5]), ("iou", {"cat": "much"}), ("iou", None), ("miou", True), ("miou_percent", "12"), ("images", 2.5),
        ("protocol", None), ("role", 3), ("split", {"dataset": "pets"}), ("runtime", {}), ("experiment", None),
    ],
)  # fmt: skip
def test_a_damaged_entry_is_named(tmp_path, evaluation, name, value):
    path = tmp_path / "result.json"
    content = result(evaluation, CONFIG, split_digest=DIGEST, checkpoint=None)
    write_json_atomic(path, content)
    assert read_result(path) == content
    write_json_atomic(path, content | {name: value})
    with pytest.raises(UserError, match=f"its entry {name} is missing or damaged"):
        read_result(path)


def test_table_lists_classes_and_says_what_absent_means(evaluation):
    table = format_table(result(evaluation, CONFIG, split_digest=DIGEST, checkpoint=None))
    lines = table.splitlines()
    assert lines[1].split() == ["cat", "66.667", "3"]
    assert lines[3].split() == ["guinea", "pig", "-", "0"]
    assert lines[5].split()[:3] == ["mean", "IoU", "66.667"] and "(1 absent: left out)" in lines[5]
    assert lines[6].split() == ["without", "first", "66.667"]
    assert "80.000" in lines[7]
    assert "protocol whole, onnx 1.2.3 on CPUExecutionProvider" in lines[8]
    assert len({line.index(".") for line in (lines[1], lines[2], lines[5], lines[6])}) == 1


def content_of(rule: str, truth: list[int], prediction: list[int], ignored=()) -> dict:
    confusion = ConfusionMatrix(3, ignored_classes=ignored)
    confusion.update(np.array([prediction], np.uint8), np.array([truth], np.uint8))
    config = experiment(CONFIG.dataset.classes, dataset={"name": "pets"}, evaluation={"absent_class": rule})
    evaluation = Evaluation(
        confusion=confusion, iou=tuple(map(float, confusion.iou())), miou=confusion.miou(rule), pixel_accuracy=1.0, images=1,
        seconds=1.0, seconds_per_image=1.0, protocol=describe_protocol(config),
        runtime=UsedRuntime(name="numpy", version="1", device="cpu"),
    )  # fmt: skip
    return result(evaluation, config, split_digest=None, checkpoint=None)


@pytest.mark.parametrize(
    ("rule", "truth", "prediction", "ignored", "note"),
    [
        ("zero", [0, 1, 2], [0, 0, 0], (), ""),
        ("zero", [0, 1, 1], [0, 1, 1], (), "1 absent: counted as 0"),
        ("zero", [0, 1, 1], [0, 1, 2], (), "1 absent: counted as 0"),
        ("skip", [0, 1, 1], [0, 1, 1], (), "1 absent: left out"),
        ("skip", [0, 1, 1], [0, 1, 2], (), ""),
        ("zero", [255, 1, 2], [0, 1, 2], (0,), "1 ignored: cat"),
        ("zero", [255, 1, 1], [0, 1, 0], (0,), "1 absent: counted as 0; 1 ignored: cat"),
    ],
)
def test_what_the_mean_leaves_out_is_said(rule, truth, prediction, ignored, note):
    content = content_of(rule, truth, prediction, ignored)
    assert absence(content) == note
    line = next(line for line in format_table(content).splitlines() if line.startswith("mean IoU"))
    assert line.endswith(f"({note})") if note else "(" not in line
