"""``python -m benchmarks.browser WEB PICTURES``: the page in headless Chromium against Python: differing pixels and time.

WEB is a folder that ``converters.package --web`` made, PICTURES a folder; every ``--every``-th picture counts. The folder stands
behind a plain web server (one thread in the browser) and then one that sends the two headers of isolation (threads).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import save
from common.command_line import positive, run_command, user_path
from common.errors import UserError
from common.files import read_json
from common.images.picture import is_picture_name, read_rgb
from onnx_impl.predictor import OnnxPredictor
from onnx_impl.providers import ProviderOptions

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 300_000
"""Milliseconds for one picture."""
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


def main(arguments: list[str] | None = None) -> None:
    """Open the page, segment, compare, print, save."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.browser", description="Compare the page in Chromium with Python."
    )
    parser.add_argument("web", type=user_path, help="a folder that converters.package --web made")
    parser.add_argument("pictures", type=user_path, help="a folder of pictures")
    parser.add_argument("--every", type=positive, default=1, metavar="N", help="only every N-th picture (default: 1)")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N of those")
    options = parser.parse_args(arguments)
    page = read_json(options.web / "page.json")
    pictures = sorted(filter(is_picture_name, options.pictures.iterdir()))[:: options.every][: options.limit]
    figures: dict[str, Any] = {"pictures": len(pictures), "model": page["name"], "runtime": page["runtime"]}
    for where, headers in (("one thread", {}), ("threads", ISOLATION)):
        with served(options.web, headers) as address, opened(address) as shown:
            for at, model in enumerate(page["models"]):
                row = measure(shown, at, options.web / model["file"], pictures)
                figures[f"{model['precision']}, {where}"] = row
                print(f"{model['precision']} {where:10} {row}", flush=True)
    which = f"--every {options.every}" + (f" --limit {options.limit}" if options.limit else "")
    save("browser", f"python -m benchmarks.browser WEB PICTURES {which}", figures)


def measure(page: Any, at: int, model: Path, pictures: list[Path]) -> dict[str, Any]:
    """Return differing and all pixels, and milliseconds of the network in the browser and in Python on one thread."""
    page.select_option("#place", index=at)
    page.wait_for_selector("#status[data-state=ready]", timeout=PATIENCE)
    # 8-bit products are added without saturation, as WebAssembly adds them.
    predictor = OnnxPredictor(model, ProviderOptions(threads=1, exact_sums=True))
    differ, pixels, most, browser, python = 0, 0, 0, [], []
    for path in pictures:
        page.evaluate("document.getElementById('status').dataset.state = ''")
        page.set_input_files("#file", path)
        line = page.wait_for_selector("#status[data-state=done],#status[data-state=error]", timeout=PATIENCE)
        if page.locator("#status").get_attribute("data-state") == "error":
            raise UserError(f"{path}: {line.inner_text()}")
        segmentation = page.evaluate("({...segmentation, ids: [...segmentation.ids]})")
        browser.append(float(page.locator("#times td").nth(1).inner_text().split()[0]))
        picture = read_rgb(path)[None]
        started = time.perf_counter()
        expected = predictor.picture_class_ids(picture)[0]
        python.append(1000 * (time.perf_counter() - started))
        differing = int((np.array(segmentation["ids"], np.uint8).reshape(expected.shape) != expected).sum())
        differ, pixels, most = differ + differing, pixels + expected.size, max(most, differing)
    return {
        "differing_pixels": differ, "pixels": pixels, "most_in_a_picture": most, "threads": threads(page),
        "browser_ms": round(float(np.median(browser)), 1), "python_one_thread_ms": round(float(np.median(python)), 1),
    }  # fmt: skip


def threads(page: Any) -> int:
    """Return the browser's threads, as the page says."""
    return int(page.locator("#times td").first.inner_text().split()[1])


@contextlib.contextmanager
def served(folder: Path, headers: dict[str, str]) -> Iterator[str]:
    """Yield the address of a server of ``folder`` that sends ``headers`` with every file."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        """Python's own, which says nothing."""

        def end_headers(self) -> None:
            for name, value in headers.items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


@contextlib.contextmanager
def opened(address: str) -> Iterator[Any]:
    """Yield the page in a headless browser once its first network is loaded."""
    from playwright.sync_api import sync_playwright

    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    if binary is None:
        raise UserError(f"none of {', '.join(BROWSERS)} is installed; install one")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#status[data-state=ready]", timeout=PATIENCE)
        yield page
        browser.close()


if __name__ == "__main__":
    raise SystemExit(run_command(main))
