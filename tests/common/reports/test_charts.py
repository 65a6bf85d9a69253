"""Line charts: what is drawn, and that a page may hold them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from common.reports.charts import line_chart

pytest.importorskip("matplotlib")

SVG = "{http://www.w3.org/2000/svg}"


def chart(series, **options):
    return ElementTree.fromstring(line_chart("a <title> & more", series, "iteration", "loss $x$", **options))


def texts(root) -> set[str]:
    return {element.text for element in root.iter(f"{SVG}text")}


def curves(root) -> list[list[tuple[float, float]]]:
    """Points of every curve between its interruptions; grid, axes and legend have no clip path of their own colour."""
    segments = []
    for group in root.iter(f"{SVG}g"):
        if not group.get("id", "").startswith("line2d"):
            continue
        for path in group.findall(f"{SVG}path"):
            steps = path.get("d").split("M")[1:]
            clipped = path.get("clip-path") and "#e4e4e4" not in path.get("style")
            segments += [_points(step) for step in steps if clipped]
    return segments


def _points(step: str) -> list[tuple[float, float]]:
    numbers = [float(text) for text in step.replace("L", " ").split()]
    return list(zip(numbers[::2], numbers[1::2]))


def test_title_axes_curves_and_legend():
    root = chart({"supervised": [(0, 2.0), (10, 1.0), (20, 0.5)], "unsupervised": [(0, 1.0), (20, 0.0)]})
    assert {"a <title> & more", "iteration", "loss $x$", "supervised", "unsupervised"} <= texts(root)
    assert [len(points) for points in curves(root)] == [3, 2]


def test_points_lie_linearly_inside_the_picture():
    root = chart({"loss": [(0, 0.0), (50, 1.0), (100, 0.0)]}, size=(500, 300))
    assert root.get("viewBox") == "0 0 500 300"
    [[(x0, y0), (x1, y1), (x2, y2)]] = curves(root)
    assert 0 < x0 < x1 < x2 < 500 and x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert 0 < y1 < y0 < 300 and y0 == y2


def test_curves_are_interrupted_at_values_that_are_not_finite():
    nan, infinite = float("nan"), float("inf")
    root = chart({"loss": [(0, 1.0), (1, 2.0), (2, nan), (3, infinite), (4, 1.0), (5, nan), (6, 1.0), (7, 3.0)]})
    assert [len(points) for points in curves(root) if len(points) > 1] == [2, 2]
    assert len(list(root.iter(f"{SVG}use"))) >= 5
    assert "nan" not in ElementTree.tostring(root, encoding="unicode").lower()


@pytest.mark.parametrize("series", [{}, {"loss": []}, {"loss": [(0, float("nan"))]}])
def test_a_chart_without_points_says_so(series):
    assert "no data" in texts(chart(series))


def test_equal_curves_give_equal_text_that_a_page_may_hold():
    first, second = (line_chart("t", {"loss": [(0, 1.0), (1, 2.0)]}, "x", "y") for _ in range(2))
    assert first == second and first.startswith("<svg")
    assert first.count("http") == 1 and "xlink" not in first
