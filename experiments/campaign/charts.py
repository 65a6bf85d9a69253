"""Bars with error bars and mean curves as SVG, by matplotlib (the extra ``charts``)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.files import atomic_path
from experiments.campaign.statistics import spread


def bars(path: Path, names: Sequence[str], samples: Sequence[Sequence[float]], label: str) -> None:
    """Draw one bar per sample, its mean, with the standard deviation as error bar and every value as a dot."""
    figure, axes = _figure(width=max(6.0, 0.75 * len(names)))
    axes.bar(range(len(names)), [statistics.mean(values) for values in samples], color="#9db8d9",
             yerr=[spread(values) for values in samples], capsize=3)  # fmt: skip
    for place, values in enumerate(samples):
        axes.plot([place] * len(values), values, ".", color="#333333", markersize=4)
    low = min(min(values) for values in samples)
    axes.set_ylim(bottom=max(0.0, low - 5))
    axes.set_xticks(range(len(names)), names, fontsize=6)
    axes.set_ylabel(label)
    _save(figure, path)


def curves(path: Path, runs: Mapping[str, Sequence[Sequence[tuple[int, float]]]], x_label: str, y_label: str) -> None:
    """Draw the mean over runs of every series of (step, fraction), in percent."""
    figure, axes = _figure(width=8.0)
    for name, series in runs.items():
        steps = [step for step, _ in series[0]]
        same = [one for one in series if [step for step, _ in one] == steps]
        means = [100 * statistics.mean(one[place][1] for one in same) for place in range(len(steps))]
        axes.plot(steps, means, marker="o", markersize=3, label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.legend(fontsize=6, ncols=2)
    _save(figure, path)


def _figure(width: float):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.0), layout="constrained")
    return figure, figure.subplots()


def _save(figure, path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "chart"}), atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
