"""Line and bar charts as SVG, by matplotlib (the extra ``charts``); where it is not installed, pages and commands leave them out."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Mapping, Sequence

MISSING = "charts need matplotlib: pip install '.[charts]'"

DOTS_PER_INCH = 72
"""What matplotlib takes an SVG pixel for."""

PLAIN_SVG = {"svg.fonttype": "none", "svg.hashsalt": "chart", "text.parse_math": False, "font.size": 9}
"""Text stays text, names with a dollar sign too, and equal curves give equal files."""

Points = Sequence[tuple[float, float]]


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def line_chart(
    title: str, series: Mapping[str, Points], x_label: str, y_label: str, size: tuple[int, int] = (640, 360)
) -> str:
    """Draw curves as an SVG element, to be written to a file or put into an HTML page.

    ``series`` maps a legend text to its points (x, y) in drawing order; a point that is not finite interrupts it.
    ``size`` is width and height in pixels. Without any finite point the chart says so.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(PLAIN_SVG):
        figure = Figure(figsize=[side / DOTS_PER_INCH for side in size], layout="constrained")
        axes = figure.subplots()
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        axes.grid(color="#e4e4e4")
        if any(_is_finite(point) for points in series.values() for point in points):
            for name, points in series.items():
                drawn = [point if _is_finite(point) else (math.nan, math.nan) for point in points]
                axes.plot([x for x, _ in drawn], [y for _, y in drawn], marker=".", label=name)
            axes.legend()
        else:
            axes.text(0.5, 0.5, "no data", horizontalalignment="center", transform=axes.transAxes)
        return _svg(figure)


def bar_chart(title: str, bars: Mapping[str, float], label: str, width: int = 640) -> str:
    """Draw a horizontal bar from zero for every name, its value behind it, as an SVG element.

    The first name stands at the top; ``label`` says what the values are, ``width`` is that of the picture in pixels.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(PLAIN_SVG):
        figure = Figure(figsize=[width / DOTS_PER_INCH, (72 + 28 * len(bars)) / DOTS_PER_INCH], layout="constrained")
        axes = figure.subplots()
        axes.set(title=title, xlabel=label)
        axes.bar_label(axes.barh(list(bars), list(bars.values())), fmt="%.4g", padding=3)
        axes.margins(x=0.15)
        axes.invert_yaxis()
        return _svg(figure)


def _is_finite(point: tuple[float, float]) -> bool:
    return all(map(math.isfinite, point))


def _svg(figure) -> str:
    """Return the drawing alone: without a document's head, date, maker and links, so that it stands in a page, too."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    drawing = text.getvalue()
    drawing = drawing[drawing.index("<svg") :].replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    return drawing.replace("xlink:href", "href")
