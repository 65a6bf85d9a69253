"""The folder for browsers and the Triton repository: the same class ids as Python, nothing from elsewhere, bad input refused."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import CheckFailed, UserError
from common.files import sha256
from common.images.picture import read_rgb
from common.models.exported_graph import GraphMetadata
from converters.triton import config, write_triton
from converters.web import NPM, RUNTIME, write_web
from onnx_impl.providers import ProviderOptions
from tests.npm import npm_package
from tests.onnx.servers import command
from tests.processes import PATIENCE

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx_impl import picture_graph  # noqa: E402
from onnx_impl.predictor import OnnxPredictor  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
EXACT = ProviderOptions(threads=1, exact_sums=True)
"""8-bit products are added without saturation, as a browser adds them; float32 is not touched."""


@pytest.fixture(scope="module")
def int8(exported, tmp_path_factory) -> Path:
    """The int8 form of the logits model."""
    from onnx_impl.quantize import main

    out = tmp_path_factory.mktemp("int8") / "int8.onnx"
    limits = ["--max-drop", "100", "--max-class-drop", "100", "--max-flips", "1"]
    main([str(exported.model), str(out), "shapes/12/suponly", "dataset.images=[20, 2]", "--images", "2", *limits])
    return out


@pytest.fixture(scope="module")
def fp16(exported, tmp_path_factory) -> Path:
    """The float16 form of the logits model."""
    from onnx_impl.halve import main

    out = tmp_path_factory.mktemp("fp16") / "fp16.onnx"
    limits = ["--max-drop", "100", "--max-class-drop", "100", "--max-flips", "1"]
    main([str(exported.model), str(out), "shapes/12/suponly", "dataset.images=[20, 2]", *limits])
    return out


@pytest.mark.parametrize("form", ["logits", "class ids", "int8", "fp16"])
def test_a_picture_graph_gives_the_predictors_answer(exported, request, form, tmp_path):
    sources = {"logits": lambda: exported.model, "class ids": lambda: exported.ids_model}
    source = sources.get(form, lambda: request.getfixturevalue("int8"))()
    metadata = picture_graph.write_picture_graph(source, tmp_path / "picture.onnx")
    before, after = OnnxPredictor(source, threads=1), OnnxPredictor(tmp_path / "picture.onnx", threads=1)
    assert (metadata.input, metadata.output, after.metadata) == ("picture", "class_ids", metadata)
    assert after.contents.precision == before.contents.precision
    assert [item.name for item in after.session.get_outputs()] == ["class_ids"]
    pictures = np.random.default_rng(1).integers(0, 256, (2, 50, 70, 3), np.uint8)
    class_ids = after.picture_class_ids(pictures)
    np.testing.assert_array_equal(class_ids, before.picture_class_ids(pictures))
    assert len(np.unique(class_ids)) > 1


def test_a_picture_graph_that_differs_is_not_left_behind(exported, tmp_path, monkeypatch):
    def last_wins(model):
        changed = with_class_ids(model)
        changed.graph.node[-2].op_type = "ArgMin"
        return changed

    with_class_ids = picture_graph.with_class_ids
    monkeypatch.setattr(picture_graph, "with_class_ids", last_wins)
    with pytest.raises(CheckFailed, match="class ids differ"):
        picture_graph.write_picture_graph(exported.model, tmp_path / "picture.onnx")
    assert not list(tmp_path.iterdir())


def test_what_is_in_the_folder_for_browsers(exported, tmp_path):
    folder = write_web(tmp_path / "web", "shapes", "voc", [exported.model], npm_package(tmp_path / "ort.tgz"))
    page = json.loads((folder / "page.json").read_text())
    assert (page["name"], page["classes"][0], page["colours"][1]) == ("shapes", "background", [128, 0, 0])
    (model,) = page["models"]
    assert model["file"] == "fp32.onnx" and model["sha256"] == sha256(folder / "fp32.onnx")
    assert OnnxPredictor(folder / "fp32.onnx", threads=1).metadata.input == "picture"
    assert page["runtime"]["version"] == "9.9" and page["server"] is None
    assert sorted(path.name for path in (folder / "runtime").iterdir()) == sorted(RUNTIME)
    for name in ("index.html", "page.js", "network.js", "page.css"):
        text = (folder / name).read_text()
        assert "http://" not in text and "https://" not in text and "//cdn" not in text


@pytest.mark.parametrize("wrong", ["another package", "a file missing", "no archive", "nothing", "an empty folder"])
def test_what_is_not_the_npm_package_is_refused(exported, tmp_path, wrong):
    package = tmp_path / "package.tgz"
    if wrong == "another package":
        npm_package(package, "left-pad")
    elif wrong == "a file missing":
        npm_package(package, files=RUNTIME[:1])
    elif wrong == "no archive":
        package.write_bytes(b"nothing")
    elif wrong == "an empty folder":
        package.mkdir()
    with pytest.raises(UserError, match="is not the npm package onnxruntime-web") as error:
        write_web(tmp_path / "web", "a", "voc", [exported.model], package)
    assert NPM in str(error.value)


def test_the_triton_repository(exported, int8, tmp_path):
    assert write_triton(tmp_path, "my model-1.0", [exported.model, int8]) == ["my_model_1_0", "my_model_1_0_int8"]
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    names = ("my_model_1_0", "my_model_1_0_int8")
    assert files == [f"{name}/{file}" for name in names for file in ("1/model.onnx", "config.pbtxt")]
    text = (tmp_path / "my_model_1_0" / "config.pbtxt").read_text()
    assert 'name: "my_model_1_0"' in text and "max_batch_size: 0" in text and "dims: [-1, -1, -1, 3]" in text
    assert OnnxPredictor(tmp_path / "my_model_1_0_int8" / "1" / "model.onnx", threads=1).metadata.precision == "int8"


@pytest.mark.parametrize(
    ("batch", "size", "expected"),
    [
        (None, None, ("max_batch_size: 0", "dims: [-1, -1, -1, 3]", "dims: [-1, -1, -1]")),
        (None, (360, 480), ("max_batch_size: 8", "dims: [360, 480, 3]", "dims: [360, 480]", "dynamic_batching { }")),
        (4, (360, 480), ("max_batch_size: 0", "dims: [4, 360, 480, 3]", "dims: [4, 360, 480]")),
    ],
)
def test_triton_batches_where_sizes_are_fixed(batch, size, expected):
    metadata = GraphMetadata(
        output="class_ids", classes=("a", "b"), mean=(0, 0, 0), std=(1, 1, 1), experiment="", role="", network={},
        checkpoint_sha256="", input="picture", batch=batch, size=size,
    )  # fmt: skip
    text = config("a", metadata)
    assert all(part in text for part in expected)
    assert ("dynamic_batching" in text) == ("dynamic_batching { }" in expected)


# ---- in a real browser, with the real onnxruntime-web


@pytest.fixture(scope="module")
def onnxruntime_web(tmp_path_factory) -> Path:
    """The npm package, by the documented command."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("npm")
    done = subprocess.run(NPM.split(), cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        pytest.skip(f"npm cannot fetch the package: {(done.stderr.strip().splitlines() or [''])[-1]}")
    return next(folder.glob("*.tgz"))


@pytest.fixture(scope="module")
def chromium():
    """A headless browser with a made-up camera."""
    playwright = pytest.importorskip("playwright.sync_api")
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    if binary is None:
        pytest.skip("no Chromium is installed")
    options = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=binary, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def package(exported, int8, fp16, onnxruntime_web, tmp_path_factory) -> Path:
    """As much of a packaged model as the server needs, with its folder for browsers."""
    from common.experiment import dump

    folder = tmp_path_factory.mktemp("packages") / "shapes"
    folder.mkdir()
    shutil.copyfile(exported.model, folder / "model.onnx")
    (folder / "config.yaml").write_text(dump(exported.experiment))
    write_web(folder / "web", "shapes", "voc", [exported.model, int8, fp16], onnxruntime_web)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    """A PNG, a JPEG with halved colours, and a JPEG that is stored lying on its side."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(3)
    coarse = [Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)) for _ in range(3)]
    smooth = [item.resize((96, 72), Image.Resampling.BICUBIC).crop((0, 0, 95, 71)) for item in coarse]
    tag = Image.Exif()
    tag[0x0112] = 6
    smooth[0].save(folder / "a.png")
    smooth[1].save(folder / "b.jpg", quality=85)
    smooth[2].save(folder / "c.jpg", quality=95, exif=tag)
    return sorted(folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "fp16", "fp32"])
def test_the_pages_network_gives_pythons_answer_without_a_browser(
    package, onnxruntime_web, pictures, precision, tmp_path
):
    if shutil.which("node") is None:
        pytest.skip("Node is not installed")
    folder = shutil.copytree(package / "web", tmp_path / "web")
    (folder / "package.json").write_text('{"type": "module"}')
    # A browser finds this in the bundle, Node looks for it beside.
    with tarfile.open(onnxruntime_web) as archive:
        loader = archive.extractfile("package/dist/ort-wasm-simd-threaded.mjs").read()
    (folder / "runtime/ort-wasm-simd-threaded.mjs").write_bytes(loader)
    predictor = OnnxPredictor(folder / f"{precision}.onnx", EXACT)
    for path in pictures:
        picture = read_rgb(path)
        (tmp_path / "rgb").write_bytes(picture.tobytes())
        arguments = [folder, f"{precision}.onnx", *picture.shape[:2], tmp_path / "rgb"]
        script = Path(__file__).with_name("network.mjs")
        subprocess.run(["node", script, *map(str, arguments)], check=True, timeout=PATIENCE)
        class_ids = np.fromfile(tmp_path / "rgb.ids", np.uint8).reshape(picture.shape[:2])
        expected = predictor.picture_class_ids(picture[None])[0]
        assert (class_ids != expected).sum() == 0 and len(np.unique(class_ids)) > 1, path.name
        picture[:, :, 0] ^= 8
        assert (class_ids != predictor.picture_class_ids(picture[None])[0]).any(), "another picture has another answer"


class Page:
    """The page at ``address`` in a browser, with what it said and whom it asked."""

    def __init__(self, browser, address: str) -> None:
        self.page, self.asked, self.said = browser.new_page(), [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(address)
        self.wait("ready", "error")

    def wait(self, *states: str) -> str:
        """Return the line that is shown when one of ``states`` is reached."""
        selector = ",".join(f"#status[data-state={state}]" for state in states)
        return self.page.wait_for_selector(selector, timeout=1000 * PATIENCE).inner_text()

    def choose(self, title: str) -> None:
        """Choose where the network runs."""
        titles = self.page.locator("#place option").all_inner_texts()
        at = next(at for at, text in enumerate(titles) if title in text)
        self.page.select_option("#place", index=at)
        self.wait("ready")
        assert self.page.locator("#place").evaluate("place => place.selectedIndex") == at

    def class_ids(self, path: Path) -> np.ndarray:
        """Return what the page makes of a picture."""
        self.page.evaluate("document.getElementById('status').dataset.state = ''")
        self.page.set_input_files("#file", path)
        line = self.wait("done", "error")
        assert " x " in line, line
        segmentation = self.page.evaluate("({...segmentation, ids: [...segmentation.ids]})")
        return np.array(segmentation["ids"], np.uint8).reshape(segmentation["height"], segmentation["width"])


@pytest.fixture
def static(package):
    """The address of the folder behind Python's own plain server."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=package / "web")
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.slow
def test_the_browser_gives_pythons_answer_to_the_pixel(chromium, static, package, pictures):
    page = Page(chromium, static)
    for file, title in (("int8.onnx", "browser, int8"), ("fp16.onnx", "browser, fp16"), ("fp32.onnx", "browser, fp32")):
        page.choose(title)
        predictor = OnnxPredictor(package / "web" / file, EXACT)
        for path in pictures:
            expected = predictor.picture_class_ids(read_rgb(path)[None])[0]
            class_ids = page.class_ids(path)
            assert class_ids.shape == expected.shape and (class_ids != expected).sum() == 0, (title, path.name)
            assert len(np.unique(class_ids)) > 1
    assert {url.split("/")[2] for url in page.asked if not url.startswith("blob:")} == {static.split("/")[2]}
    assert page.said == []
    page.page.close()


@pytest.mark.slow
def test_a_wrong_picture_would_be_seen(chromium, static, package, pictures):
    page = Page(chromium, static)
    predictor = OnnxPredictor(package / "web" / "int8.onnx", EXACT)
    image = read_rgb(pictures[0])
    image[:, :, 0] ^= 8
    assert (page.class_ids(pictures[0]) != predictor.picture_class_ids(image[None])[0]).any()
    page.page.close()


@pytest.mark.slow
def test_the_servers_page_runs_on_threads_and_on_the_server(chromium, package, pictures):
    with command(package) as (_, client):
        page = Page(chromium, f"http://{client.address}/")
        assert page.page.evaluate("crossOriginIsolated")
        predictor = OnnxPredictor(package / "model.onnx", threads=1)
        for title in ("on the server, fp32", "in this browser, fp32"):
            page.choose(title)
            for path in pictures:
                expected = predictor.picture_class_ids(read_rgb(path)[None])[0]
                np.testing.assert_array_equal(page.class_ids(path), expected)
        assert client.metric('segmentation_requests_total{route="infer",status="200"}') == len(pictures)
        assert {url.split("/")[2] for url in page.asked if not url.startswith("blob:")} == {client.address}
        assert page.said == []
        page.page.close()


@pytest.mark.slow
def test_without_onnxruntime_web_the_server_computes(chromium, exported, pictures):
    with command(exported.model) as (_, client):
        page = Page(chromium, f"http://{client.address}/")
        assert page.page.locator("#place option").all_inner_texts() == ["on the server, fp32"]
        expected = OnnxPredictor(exported.model, threads=1).picture_class_ids(read_rgb(pictures[0])[None])[0]
        np.testing.assert_array_equal(page.class_ids(pictures[0]), expected)
        assert page.said == []
        page.page.close()


@pytest.mark.slow
def test_camera_legend_opacity_and_what_is_no_picture(chromium, static, pictures, tmp_path):
    page = Page(chromium, static)
    (tmp_path / "notes.txt").write_text("no picture")
    page.page.set_input_files("#file", tmp_path / "notes.txt")
    assert page.wait("error") == "notes.txt is no picture that this browser reads"
    ids = page.class_ids(pictures[0])
    rows = page.page.locator("#legend tbody tr").all_inner_texts()
    assert [row.split("\t")[1] for row in rows][:2] == ["background", "disc"]
    assert rows[1].endswith(f"{100 * (ids == 1).mean():.1f} %")
    page.page.locator("#opacity").fill("80")
    assert page.page.locator("#overlay").evaluate("canvas => canvas.style.opacity") == "0.8"
    page.page.evaluate("document.getElementById('status').dataset.state = ''")
    page.page.click("#camera")
    assert page.wait("done", "error") == "640 x 480"
    page.page.click("#camera")
    assert page.page.locator("#camera").inner_text() == "use the camera"
    page.page.close()


@pytest.mark.slow
def test_large_pictures_are_made_smaller_and_that_is_said(chromium, static, tmp_path):
    Image.fromarray(np.zeros((1000, 2000, 3), np.uint8)).save(tmp_path / "large.png")
    page = Page(chromium, static)
    page.page.select_option("#pixels", "250000")
    ids = page.class_ids(tmp_path / "large.png")
    assert ids.shape == (353, 707)
    assert page.wait("done") == "707 x 353, from 2000 x 1000"
    page.page.close()
