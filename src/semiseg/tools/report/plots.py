"""Plots of a report, as matplotlib figures without pyplot: no display, no global state, thread-safe.

Each function returns None if there is nothing to plot. The colors are by Okabe and Ito ("Color Universal Design",
2008), which color-blind readers can distinguish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from semiseg.tools.report.run_files import RunFiles, series
from semiseg.training.logging.metrics_log import LOSS_TERMS

BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A800",
)  # fmt: skip
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, YELLOW)
MARKERS = "osD^vPX"
STYLES = ("-", "--", "-.", ":")
NETWORK_COLORS = {
    "student": BLUE,
    "student2": SKY,
    "teacher1": ORANGE,
    "teacher2": GREEN,
    "teacher3": RED,
    "teachers-average": PURPLE,
}
GRAY = "#333333"
LOSS_COLORS = dict(zip(LOSS_TERMS, cycle((BLUE, ORANGE, GREEN, PURPLE, RED, SKY, YELLOW)), strict=False))
COUPLING = {
    "disagreement": "pixels with different\nclasses (%)",
    "parameter_distance": "relative parameter\ndistance",
}
WIDTH = 5.6  # inches; text stays readable on a phone


def losses(run: RunFiles) -> Figure | None:
    """Plot the loss and its terms over the steps; omit terms that are always zero."""
    terms = {"total": series(run.training, "loss")}
    terms |= {term: series(run.training, f"loss/{term}") for term in LOSS_TERMS}
    terms = {term: (steps, values) for term, (steps, values) in terms.items() if any(values)}
    if not terms:
        return None
    figure, (axes,) = _figure(1)
    for term, (steps, values) in terms.items():
        color = LOSS_COLORS.get(term, GRAY)
        smooth = running_mean(values)
        if smooth is not values:
            axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        axes.plot(steps, smooth, color=color, label=term, linewidth=1.8)
    highest = max(np.percentile(values, 99) for _, values in terms.values())
    if highest > 0:
        axes.set_ylim(0, 1.1 * highest)  # An outlier must not flatten the rest.
    return _finish(figure, axes, "loss")


def miou(run: RunFiles) -> Figure | None:
    """Plot the mIoU on val of every network over the steps, and mark the best checkpoint."""
    if not run.validations:
        return None
    figure, (axes,) = _figure(1)
    for network, color in network_colors(run.networks).items():
        _curve(axes, *run.curve(network, "miou"), label=network, color=color, marker="o")
    if run.best_step is not None:
        steps, values = run.curve(run.default_network, "miou")
        best = (run.best_step, values[steps.index(run.best_step)])
        label = f"best checkpoint ({best[1]:.1f} % at step {best[0]})"
        axes.plot(*best, "*", color="black", markersize=13, zorder=5, linestyle="none", label=label, clip_on=False)
    return _finish(figure, axes, "mIoU on val (%)")


def trusted(run: RunFiles) -> Figure | None:
    """Plot the share of trusted pseudo-labels in percent over the steps."""
    steps, values = series(run.training, "trusted_fraction")
    if not any(values):
        return None
    figure, (axes,) = _figure(1, height=2.6)
    shares = [100 * value for value in values]
    smooth = running_mean(shares)
    if smooth is not shares:
        axes.plot(steps, shares, color=BLUE, alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth, color=BLUE, linewidth=1.8)
    axes.set_ylim(0, 100)
    return _finish(figure, axes, "trusted pseudo-labels (%)")


def coupling(run: RunFiles) -> Figure | None:
    """Plot the disagreement with the student and the parameter distance to it, for each other network."""
    panels = {key: label for key, label in COUPLING.items() if _measured(run, key)}
    if not panels:
        return None
    figure, all_axes = _figure(len(panels), height=2.3)
    for axes, (key, label) in zip(all_axes, panels.items(), strict=True):
        _coupling_panel(axes, run, key)
        axes.set_ylim(bottom=0)
        _finish(figure, axes, label, "step" if axes is all_axes[-1] else "")
    return figure


def compared_miou(runs: Mapping[str, RunFiles]) -> Figure | None:
    """Plot the mIoU on val of each run's default network over the steps."""
    figure, (axes,) = _figure(1, height=3.6)
    for (name, run), style in zip(runs.items(), line_styles(len(runs)), strict=True):
        _curve(axes, *run.curve(run.default_network, "miou"), label=name, **style)
    return _finish(figure, axes, "mIoU on val (%)") if axes.lines else None


def compared_coupling(runs: Mapping[str, RunFiles]) -> Figure | None:
    """Plot the coupling curves of several runs side by side, on one scale; omit runs without such curves."""
    shown = {name: run for name, run in runs.items() if any(_measured(run, key) for key in COUPLING)}
    if not shown:
        return None
    figure = Figure(figsize=(max(WIDTH, 2.9 * len(shown)), 4.8), layout="constrained")
    grid = figure.subplots(len(COUPLING), len(shown), sharex="col", sharey="row", squeeze=False)
    for row, (key, label) in zip(grid, COUPLING.items(), strict=True):
        for axes, run in zip(row, shown.values(), strict=True):
            _coupling_panel(axes, run, key)
            _finish(figure, axes, label if axes is row[0] else "", "step" if key == [*COUPLING][-1] else "")
        if key == "parameter_distance":
            row[0].set_yscale("log")  # Two students are a hundred times farther apart than teacher and student.
        else:
            row[0].set_ylim(bottom=0)  # Only after all panels: a limit turns off autoscaling.
    for axes, name in zip(grid[0], shown, strict=True):
        axes.set_title(literal(name), fontsize=11)
    return figure


def miou_by_labels(methods: Mapping[str, Sequence[tuple[int, float, float]]], ylabel: str) -> Figure | None:
    """Plot mIoU over the number of labeled images (logarithmic scale), one line per method, with error bars.

    Args:
        methods: For each name, points (labeled images, mean, standard deviation or 0).
        ylabel: Label of the vertical axis.
    """
    images = sorted({point[0] for points in methods.values() for point in points})
    if not images:
        return None
    figure, (axes,) = _figure(1, height=4.2)
    for index, ((name, points), style) in enumerate(zip(methods.items(), line_styles(len(methods)), strict=True)):
        shift = 1 + 0.012 * (index - (len(methods) - 1) / 2)  # so that error bars do not overlap
        x, mean, std = zip(*((n * shift, mean, std) for n, mean, std in sorted(points)), strict=True)
        bars = std if any(std) else None
        axes.errorbar(
            x, mean, bars, label=literal(name), linewidth=1.8, markersize=5, capsize=3, elinewidth=1.0, **style
        )
    axes.set_xscale("log")
    _finish(figure, axes, ylabel, "labeled images")
    axes.set_xlim(images[0] / 1.25, images[-1] * 1.25)
    axes.xaxis.set_major_locator(FixedLocator(images))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:.0f}")
    if len(methods) > 4 and (inside := axes.get_legend()):  # A large legend would cover the lines.
        inside.remove()
        figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False, handlelength=3.5)
    return figure


def line_styles(count: int) -> list[dict[str, Any]]:
    """Return color, marker and line style for each of ``count`` lines; up to 28 are distinct."""
    return [
        {
            **{"color": color, "marker": marker, "linestyle": STYLES[index // len(CYCLE) % len(STYLES)]},
            **{"markerfacecolor": color if index < len(CYCLE) else "white"},
        }
        for index, color, marker in zip(range(count), cycle(CYCLE), cycle(MARKERS), strict=False)
    ]


def running_mean(values: Sequence[float]) -> Sequence[float]:
    """Return the centered running mean over a fortieth of the series; a short series is returned unchanged."""
    half = len(values) // 80
    if half == 0:
        return values
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, last = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return [float(value) for value in (sums[last] - sums[first]) / (last - first)]


def network_colors(networks: Sequence[str]) -> dict[str, str]:
    """Return a color for each network, the same in every plot."""
    spare = cycle(color for color in CYCLE if color not in {NETWORK_COLORS.get(name) for name in networks})
    return {name: NETWORK_COLORS.get(name) or next(spare) for name in networks}


def literal(text: str) -> str:
    r"""Escape text for matplotlib, which reads ``$`` as math and hides labels that begin with ``_``."""
    text = str(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _measured(run: RunFiles, key: str) -> list[str]:
    """Return the networks that have values of ``key``."""
    return [network for network in run.networks if run.curve(network, key)[0]]


def _coupling_panel(axes: Axes, run: RunFiles, key: str) -> None:
    colors = network_colors(run.networks)
    for network in _measured(run, key):
        label = f"{network} – student"
        _curve(axes, *run.curve(network, key), label=label, color=colors[network], marker="o")


def _curve(axes: Axes, steps: list[int], values: list[float], *, label: str, **style: Any) -> None:
    if steps:
        axes.plot(steps, values, label=literal(label), linewidth=1.8, markersize=4, **style)


def _figure(panels: int, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """Return a figure of panels below each other that share the horizontal axis."""
    figure = Figure(figsize=(WIDTH, height * panels), layout="constrained")
    return figure, list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])


def _finish(figure: Figure, axes: Axes, ylabel: str, xlabel: str = "step") -> Figure:
    """Add labels, grid and legend to the axes."""
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(color="#e0e0e0", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor="none")
    return figure
