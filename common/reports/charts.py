"""Line charts as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

SERIES_COLOURS = ("#1f5fa8", "#c8501e", "#2e8b57", "#8a3ea8", "#b8860b", "#444444", "#c71f6b", "#1a8f9c")


PLOT_LEFT, PLOT_RIGHT, PLOT_TOP, PLOT_BOTTOM = 64, 16, 36, 48
"""Margins of a chart around its plot area, in pixels."""


Points = Sequence[tuple[float, float]]


def line_chart(
    title: str,
    series: Mapping[str, Points],
    x_label: str,
    y_label: str,
    size: tuple[int, int] = (640, 360),
) -> str:
    """Draw curves as an SVG element, to be written to a file or put into an HTML page.

    ``series`` maps a legend text to its points (x, y) in drawing order; a point that is not finite interrupts it.
    ``size`` is width and height in pixels. Without any finite point the chart says so.
    """
    finite = [point for points in series.values() for point in points if _is_finite(point)]
    width, height = size
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(width / 2, 20, title, anchor="middle", extra=' font-size="15"'),
    ]
    if finite:
        parts += _axes(finite, size, x_label, y_label)
        parts += _curves(series, finite, size)
    else:
        parts.append(_text(width / 2, height / 2, "no data", anchor="middle"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return about ``wanted`` round numbers, 1, 2 or 5 times a power of ten apart, that enclose ``low..high``."""
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        margin = abs(low) / 2 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _is_finite(point: tuple[float, float]) -> bool:
    return all(map(math.isfinite, point))


class _Axis:
    """Ticks of one axis and the map from a value to its pixel between ``start`` and ``end``."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self.ticks = ticks(min(values), max(values))
        self.start = start
        self.scale = (end - start) / (self.ticks[-1] - self.ticks[0])

    def at(self, value: float) -> float:
        return self.start + (value - self.ticks[0]) * self.scale


def _both_axes(finite: Points, size: tuple[int, int]) -> tuple[_Axis, _Axis]:
    x_values, y_values = zip(*finite)
    return _Axis(x_values, PLOT_LEFT, size[0] - PLOT_RIGHT), _Axis(y_values, size[1] - PLOT_BOTTOM, PLOT_TOP)


def _axes(finite: Points, size: tuple[int, int], x_label: str, y_label: str) -> list[str]:
    x_axis, y_axis = _both_axes(finite, size)
    left, right, top, bottom = PLOT_LEFT, size[0] - PLOT_RIGHT, PLOT_TOP, size[1] - PLOT_BOTTOM
    parts = []
    for value in x_axis.ticks:
        x = x_axis.at(value)
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="#e4e4e4"/>')
        parts.append(_text(x, bottom + 16, f"{value:g}", anchor="middle"))
    for value in y_axis.ticks:
        y = y_axis.at(value)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#e4e4e4"/>')
        parts.append(_text(left - 6, y + 4, f"{value:g}", anchor="end"))
    middle = (top + bottom) / 2
    return [
        *parts,
        f'<polyline points="{left},{top} {left},{bottom} {right},{bottom}" fill="none" stroke="#444444"/>',
        _text((left + right) / 2, size[1] - 12, x_label, anchor="middle"),
        _text(14, middle, y_label, anchor="middle", extra=f' transform="rotate(-90 14 {middle:.1f})"'),
    ]


def _curves(series: Mapping[str, Points], finite: Points, size: tuple[int, int]) -> list[str]:
    x_axis, y_axis = _both_axes(finite, size)
    parts = []
    for index, (name, points) in enumerate(series.items()):
        colour = SERIES_COLOURS[index % len(SERIES_COLOURS)]
        for run in _runs(points):
            pixels = [(x_axis.at(x), y_axis.at(y)) for x, y in run]
            if len(pixels) == 1:
                parts.append(f'<circle cx="{pixels[0][0]:.1f}" cy="{pixels[0][1]:.1f}" r="2.5" fill="{colour}"/>')
            else:
                path = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
                parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        y = PLOT_TOP + 14 + 16 * index
        parts.append(f'<rect x="{PLOT_LEFT + 10}" y="{y - 6}" width="16" height="3" fill="{colour}"/>')
        parts.append(_text(PLOT_LEFT + 32, y, name, extra=' paint-order="stroke" stroke="white" stroke-width="3"'))
    return parts


def _runs(points: Points) -> list[list[tuple[float, float]]]:
    """The longest stretches of finite points."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if _is_finite(point):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _text(x: float, y: float, text: str, anchor: str = "start", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(text)}</text>'
