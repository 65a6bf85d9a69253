"""Pictures of predictions and the charts of a run."""

import base64
import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from common.reports.charts import line_chart, ticks
from common.reports.palettes import colours
from common.reports.pictures import comparison, difference_map, overlay, png_data_uri, side_by_side, write_png

SVG = "{http://www.w3.org/2000/svg}"
VOC = colours("voc", 21)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)


def test_overlay_blends_and_leaves_ignored_pixels(image):
    ids = np.full((4, 6), 1, dtype=np.uint8)
    ids[0, 0] = 255
    half = overlay(image, ids, VOC)
    assert half.dtype == np.uint8
    np.testing.assert_array_equal(half[0, 0], image[0, 0])
    expected = np.rint(0.5 * image[1, 1] + 0.5 * np.array([128, 0, 0]))
    np.testing.assert_array_equal(half[1, 1], expected)
    np.testing.assert_array_equal(overlay(image, ids, VOC, alpha=0), image)
    np.testing.assert_array_equal(overlay(image, ids, VOC, alpha=1)[1, 1], [128, 0, 0])
    with pytest.raises(ValueError, match="alpha"):
        overlay(image, ids, VOC, alpha=1.5)


def test_difference_map_has_three_kinds():
    label = np.array([[1, 2, 255]], dtype=np.uint8)
    prediction = np.array([[1, 3, 1]], dtype=np.uint8)
    right, wrong, ignored = difference_map(label, prediction)[0].tolist()
    assert wrong[0] > wrong[1] and right[1] > right[0] and ignored == [255, 255, 255]


def test_side_by_side_aligns_tops_on_white(image):
    strip = side_by_side([image, image[:2, :3]], gap=2)
    assert strip.shape == (4, 6 + 2 + 3, 3)
    np.testing.assert_array_equal(strip[:, :6], image)
    np.testing.assert_array_equal(strip[:2, 8:], image[:2, :3])
    assert (strip[:, 6:8] == 255).all() and (strip[2:, 8:] == 255).all()


def test_comparison_shows_four_panels(image):
    label = np.zeros((4, 6), dtype=np.uint8)
    strip = comparison(image, label, label, VOC)
    assert strip.shape == (4, 4 * 6 + 3 * 4, 3)
    np.testing.assert_array_equal(strip[:, :6], image)
    np.testing.assert_array_equal(strip[:, 10:16], VOC[label])


def test_png_round_trips(image, tmp_path):
    write_png(tmp_path / "picture.png", image)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "picture.png")), image)
    head, _, data = png_data_uri(image).partition(",")
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(base64.b64decode(data)))), image)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 97, [0, 20, 40, 60, 80, 100]), (-0.3, 0.4, [-0.4, -0.2, 0, 0.2, 0.4])],
)
def test_ticks_are_round_and_enclose(low, high, expected):
    np.testing.assert_allclose(ticks(low, high), expected, atol=1e-12)


@pytest.mark.parametrize("value", [0, 3, -2e-9, 1e12])
def test_ticks_of_a_single_value_enclose_it(value):
    marks = ticks(value, value)
    assert 2 <= len(marks) <= 10 and marks[0] < value < marks[-1]


def chart(series, **options):
    return ElementTree.fromstring(line_chart("a <title> & more", series, "iteration", "loss", **options))


def test_chart_has_title_axes_curves_and_legend():
    root = chart({"supervised": [(0, 2.0), (10, 1.0), (20, 0.5)], "unsupervised": [(0, 1.0), (20, 0.0)]})
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"a <title> & more", "iteration", "loss", "supervised", "unsupervised", "0", "20", "2"} <= set(texts)
    curves = [element for element in root.iter(f"{SVG}polyline") if element.get("stroke-width")]
    assert len(curves) == 2
    assert len({curve.get("stroke") for curve in curves}) == 2


def test_chart_places_points_linearly_inside_the_picture():
    root = chart({"loss": [(0, 0.0), (50, 1.0), (100, 0.0)]}, size=(500, 300))
    (curve,) = [element for element in root.iter(f"{SVG}polyline") if element.get("stroke-width")]
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in curve.get("points").split())
    assert 0 < x0 < x1 < x2 < 500 and x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert 0 < y1 < y0 < 300 and y0 == y2


def test_chart_interrupts_curves_at_values_that_are_not_finite():
    nan, infinite = float("nan"), float("inf")
    root = chart({"loss": [(0, 1.0), (1, 2.0), (2, nan), (3, infinite), (4, 1.0), (5, nan), (6, 1.0), (7, 3.0)]})
    assert len([element for element in root.iter(f"{SVG}polyline") if element.get("stroke-width")]) == 2
    assert len(list(root.iter(f"{SVG}circle"))) == 1
    assert "nan" not in ElementTree.tostring(root, encoding="unicode").lower()


@pytest.mark.parametrize("series", [{}, {"loss": []}, {"loss": [(0, float("nan"))]}])
def test_chart_without_points_says_so(series):
    assert "no data" in [element.text for element in chart(series).iter(f"{SVG}text")]


def test_chart_of_one_point():
    assert len(list(chart({"miou": [(3, 0.5)]}).iter(f"{SVG}circle"))) == 1
