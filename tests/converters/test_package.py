"""A trained network as one folder: what is in it, that it is evaluated and predicts as it is, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.checkpoints.checkpoint import Checkpoint
from common.checkpoints.meta import CheckpointMeta
from common.command_line import run_command
from common.config.schema import ExperimentConfig
from common.experiment import compose, dump
from common.files import sha256, write_json_atomic
from common.networks.initial import initial_tensors
from common.reports.palettes import colours as palette
from common.splits.resolve import resolve
from converters.convert import save
from converters.package import main
from tests.npm import npm_package
from tests.places import PROJECT
from tests.processes import PATIENCE

pytestmark = pytest.mark.onnx

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
SETTINGS = ["dataset.images=[200, 3]", "loader.workers=0"]
FILES = ["README.md", "config.yaml", "model.json", "model.onnx", "model.safetensors", "result.json"]


def run_folder(path: Path) -> ExperimentConfig:
    """Make a run's folder as training leaves it: configuration, best checkpoint, and the result of its evaluation."""
    import torch_impl.eval
    from common.datasets.file_dataset import open_dataset
    from torch_impl.checkpoint import network_tensors
    from torch_impl.networks import build_network

    config = compose("shapes/12/suponly", SETTINGS)
    network = build_network(config.network, len(config.dataset.classes))
    shapes = {name: array.shape for name, array in network_tensors(network).items()}
    meta = CheckpointMeta.from_experiment(config, role="student")
    tensors = initial_tensors(shapes, config.network, 1, "student")
    save(path / "best.pth", Checkpoint(meta=meta, networks={"model": tensors}))
    (path / "config.yaml").write_text(dump(config))
    torch_impl.eval.main([config.name, *SETTINGS, "--checkpoint", str(path / "best.pth"), "--out", str(path)])
    assert resolve(open_dataset(config.dataset), config.split).digest in (path / "result.json").read_text()
    return config


@pytest.fixture(scope="module")
def packaged(tmp_path_factory) -> tuple[Path, Path]:
    """A run's folder with the scores of three runtimes, and the model that was packaged from it."""
    folder = tmp_path_factory.mktemp("package")
    run_folder(folder / "run")
    score = {"miou_percent": 12.345, "device": "cpu", "version": "9.9", "images": 3}
    scores = {"scores": {name: score for name in ("torch", "mindspore", "onnx")}}
    write_json_atomic(folder / "run" / "parity" / "parity.json", scores)
    assert run_command(main, [str(folder / "run"), str(folder / "model")]) == 0
    return folder / "run", folder / "model"


@pytest.fixture(scope="module")
def reduced(packaged, tmp_path_factory) -> Path:
    """The same run with every precision; its network, which learnt nothing, may lose more than a trained one."""
    from onnx_impl.scores import Limits, add_limits

    out = tmp_path_factory.mktemp("reduced") / "model"
    free = Limits(drop=100, class_drop=100, flips=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnx_impl.quantize.add_limits", lambda parser, _: add_limits(parser, free))
        assert run_command(main, [str(packaged[0]), str(out), "--precision", "int8", "fp16", "--limit", "2"]) == 0
    return out


def test_what_is_in_the_folder(packaged):
    run, model = packaged
    assert sorted(path.name for path in model.iterdir()) == FILES
    for name in ("config.yaml", "result.json"):
        assert (model / name).read_bytes() == (run / name).read_bytes()
    card, result = (model / "README.md").read_text(), json.loads((model / "result.json").read_text())
    for text in (
        "# shapes/12/suponly", "DeepLabv3+ on tiny, 6 classes", "method `suponly` (student network)", "Protocol: name whole",
        sha256(model / "model.safetensors"), sha256(model / "model.onnx"), "background, disc, square",
        f"split `shapes/12`, SHA-256 of the sorted ids `{result['split']['digest']}` (registered, 12 images)",
        "| mindspore | 9.9 | cpu | 3 | 12.345 | parity |", f"| cpu | 3 | {result['miou_percent']} | the run |",
        "drawn by code; there are no terms", "Apache-2.0",
    ):  # fmt: skip
        assert text in card, text
    assert "Not evaluated" not in card


def test_every_precision_has_its_gates(reduced):
    described = json.loads((reduced / "model.json").read_text())
    assert list(described["graphs"]) == ["fp32", "fp16", "int8"]
    card = (reduced / "README.md").read_text()
    for precision in ("int8", "fp16"):
        gates = described["graphs"][precision]["gates"]
        assert gates["images"] == 2 and gates["flips"] <= gates["limits"]["flips"]
        assert f"| {precision} |" in card and f"`model_{precision}.onnx`" in card
    assert described["graphs"]["int8"]["quantization"]["scheme"] == "U8S8"
    assert (reduced / "model_int8.onnx").stat().st_size < (reduced / "model.onnx").stat().st_size


def test_programs_find_everything_in_model_json(packaged, reduced):
    for folder in (packaged[1], reduced):
        described, config = json.loads((folder / "model.json").read_text()), compose("shapes/12/suponly", SETTINGS)
        assert described["classes"] == list(config.dataset.classes) and len(described["palette"]) == 6
        assert described["normalisation"]["mean"] == list(config.normalisation.mean)
        there = {path.name for path in folder.iterdir()} - {"model.json"}
        assert {name: entry["sha256"] for name, entry in described["files"].items()} == {
            name: sha256(folder / name) for name in there
        }
        assert described["graphs"]["fp32"]["input"] == {"name": "image", "type": "float32", "shape": [-1, 3, -1, -1]}
        assert described["graphs"]["fp32"]["output"]["shape"] == [-1, 6, -1, -1]
        assert described["licence"]["weights"] is None and "no terms" in described["licence"]["data"]


def test_the_card_s_program_needs_numpy_and_onnxruntime_only(reduced, tmp_path):
    """Run where no module of this project and none of the frameworks can be imported."""
    from onnx_impl.segmenter import open_segmenter

    program = (reduced / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert len(program.splitlines()) <= 10
    picture = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    np.save(tmp_path / "picture.npy", picture)
    blocked = [
        "torch",
        "mindspore",
        "onnx",
        "onnxscript",
        "cv2",
        "PIL",
        "yaml",
        "safetensors",
        "tqdm",
        "common",
        "onnx_impl",
        "converters",
    ]
    block = f"import sys\nsys.modules.update(dict.fromkeys({blocked}))\n"
    out = "\nnp.savez('found.npz', class_ids=class_ids, colours=colours, names=model['classes'])\n"
    code = block + program.replace("THIS_FOLDER", str(reduced)) + out
    subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, check=True, timeout=PATIENCE)
    with np.load(tmp_path / "found.npz") as saved:
        expected = open_segmenter(reduced / "model_int8.onnx", threads=1).segment(picture)
        np.testing.assert_array_equal(saved["class_ids"], expected)
        np.testing.assert_array_equal(saved["colours"], palette("voc", 6)[expected])
        assert list(saved["names"])[:2] == ["background", "disc"]


def snippets() -> list[str]:
    """The programs on the page about Python."""
    return re.findall(r"```python\n(.*?)```", (PROJECT / "docs/python_api.md").read_text(), re.S)


@pytest.mark.parametrize("index", range(len(snippets())))
def test_the_page_s_programs_run(packaged, index, tmp_path, monkeypatch):
    code = snippets()[index]
    for package in ("torch", "mindspore", "onnx"):
        if f"{package}_impl" in code:
            pytest.importorskip({"onnx": "onnxruntime"}.get(package, package))
    shutil.copytree(packaged[1], tmp_path / "model_folder")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 80, 3), np.uint8)).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "docs/python_api.md", "exec"), names)
    assert names.get("class_ids", names.get("first")).shape == (96, 80)
    if "shown" not in names and "open_rows" not in names:
        lines = [line for line in code.splitlines() if line]
        assert len(lines) <= 5


@pytest.mark.slow
def test_a_precision_that_loses_too_much_is_not_packaged(packaged, tmp_path, monkeypatch, capsys):
    from onnx_impl.scores import Limits

    monkeypatch.setattr("onnx_impl.halve.LIMITS", Limits(flips=-1))
    assert run_command(main, [str(packaged[0]), str(tmp_path / "out"), "--precision", "fp16", "--limit", "1"]) == 1
    assert "was not written" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
@pytest.mark.parametrize("by", ["folder alone", "as the checkpoint"])
def test_the_folder_is_evaluated_as_it_is(packaged, runtime, by, tmp_path, capsys):
    run, model = packaged
    module = pytest.importorskip(f"{runtime}_impl.eval")
    named = [str(model)] if by == "folder alone" else ["shapes/12/suponly", *SETTINGS, "--checkpoint", str(model)]
    assert run_command(module.main, [*named, "--out", str(tmp_path)]) == 0
    evaluated, wanted = (json.loads((folder / "result.json").read_text()) for folder in (tmp_path, run))
    assert evaluated["runtime"]["name"] == runtime and evaluated["images"] == 3
    assert evaluated["miou_percent"] == pytest.approx(wanted["miou_percent"], abs=0.05)
    assert evaluated["split"] == wanted["split"]


def test_mindspore_takes_the_weights(packaged):
    from common.models.model_folder import model_file

    assert model_file(packaged[1], "mindspore").name == "model.safetensors"


def test_the_folder_predicts(packaged, tmp_path, capsys):
    from onnx_impl.predict import main as predict

    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "a.png")
    assert run_command(predict, [str(packaged[1]), str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]) == 0
    assert np.asarray(Image.open(tmp_path / "out" / "a.png")).shape == (40, 50)


def test_bad_use_leaves_nothing_behind(packaged, tmp_path, capsys):
    run, model = packaged
    cases = [
        ([str(tmp_path), str(tmp_path / "out")], "is no run folder with a best checkpoint"),
        ([str(run), str(model)], "is there already; choose another folder, or --overwrite"),
        ([str(run), str(run), "--overwrite"], "is there already"),
        ([str(run), str(tmp_path / "out"), "--parity", "none.json"], "no parity.json at none.json"),
        ([str(run), str(tmp_path / "out"), "--web", "none.tgz"], "there is no none.tgz; get it with npm pack"),
    ]
    for number, text in enumerate(("{", "[]", "{}", '{"scores": {"torch": {}}}', '{"scores": [1]}')):
        (run / f"parity{number}.json").write_text(text)
        damaged = [str(run), str(tmp_path / "out"), "--parity", str(run / f"parity{number}.json")]
        cases.append((damaged, f"parity{number}.json is no parity.json with the scores"))
    before = sorted(model.iterdir())
    for arguments, complaint in cases:
        assert run_command(main, arguments) == 2
        text = capsys.readouterr().err
        assert complaint in text and text.count("\n") == 1
    assert sorted(model.iterdir()) == before and not list(tmp_path.iterdir())


def test_runtimes_that_do_not_agree_are_not_packaged(packaged, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("converters.parity.run_parity", lambda *_: {"failures": ["torch and onnx: flips"]})
    assert run_command(main, [str(packaged[0]), str(tmp_path / "out"), "--evaluate", "--limit", "2"]) == 1
    assert "was not made: torch and onnx: flips" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_packaged_folder_is_replaced_when_asked(packaged, tmp_path, monkeypatch):
    model = tmp_path / "model"
    shutil.copytree(packaged[1], model)
    (model / "old.txt").write_text("")
    monkeypatch.setattr(
        "converters.export_onnx.export", lambda _, target, **__: shutil.copyfile(model / "model.onnx", target)
    )
    assert run_command(main, [str(packaged[0]), str(model), "--overwrite"]) == 0
    assert sorted(path.name for path in model.iterdir()) == FILES


def test_a_page_and_a_triton_repository_when_asked(packaged, tmp_path, monkeypatch, capsys):
    run, model = packaged
    copy = lambda _, target, **__: shutil.copyfile(model / "model.onnx", target)  # noqa: E731
    monkeypatch.setattr("converters.export_onnx.export", copy)
    out, npm = tmp_path / "shapes", npm_package(tmp_path / "npm.tgz")
    assert run_command(main, [str(run), str(out), "--triton", "--web", str(npm)]) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, "triton", "web"])
    assert (out / "triton" / "shapes" / "1" / "model.onnx").is_file()
    assert json.loads((out / "web" / "page.json").read_text())["models"][0]["file"] == "fp32.onnx"
    card = (out / "README.md").read_text()
    assert "http.server --directory THIS_FOLDER/web" in card and "--model-repository THIS_FOLDER/triton" in card
    assert "THIS_FOLDER/web" not in (model / "README.md").read_text()
    assert run_command(main, [str(run), str(tmp_path / "other"), "--web", str(model / "model.onnx")]) == 2
    assert "is not the npm package onnxruntime-web" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_a_failure_half_way_leaves_no_folder(packaged, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(packaged[0], run)
    monkeypatch.setattr("converters.export_onnx.export", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run_command(main, [str(run), str(tmp_path / "out" / "model")]) == 130
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_is_no_model(tmp_path, capsys):
    import torch_impl.eval

    arguments = ["shapes/12/suponly", "--checkpoint", str(tmp_path)]
    assert run_command(torch_impl.eval.main, arguments) == 2
    assert "is a folder without model.safetensors" in capsys.readouterr().err
