"""The confusion matrix in a report: a table of all pairs (a picture if there are many), and the largest confusions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from semiseg.tools.report.html_page import Cell, Table
from semiseg.tools.report.plots import literal

TABLE_CLASSES = 24  # more classes are shown as a picture
MAX_PAIRS = 10
MIN_SHARE = 5.0  # percent of the true class's pixels


def counts_of(content: Mapping[str, Any]) -> tuple[list[str], np.ndarray] | None:
    """Return the class names and the counts, float ``(C, C)`` with the truth in rows.

    Returns None if ``content`` has no ``classes`` or no ``counts`` of matching shape.
    """
    classes, counts = content.get("classes", []), np.asarray(content.get("counts", []), dtype=np.float64)
    return (classes, counts) if classes and counts.shape == (len(classes), len(classes)) else None


def shares_of(content: Mapping[str, Any]) -> tuple[list[str], np.ndarray] | None:
    """Return the class names and the counts in percent of the true class's pixels; NaN for classes without pixels."""
    if (found := counts_of(content)) is None:
        return None
    classes, counts = found
    totals = counts.sum(axis=1, keepdims=True)
    return classes, np.divide(100 * counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)


def confusion_figure(content: Mapping[str, Any]) -> Figure | None:
    """Plot the matrix in percent; rows without pixels are gray."""
    if (found := shares_of(content)) is None:
        return None
    classes, percent = found
    side = min(10.0, max(4.2, 2.2 + 0.42 * len(classes)))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("#dddddd")
    picture = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(picture, ax=axes, shrink=0.7, label="share of the true class's pixels (%)")
    if len(classes) <= 60:  # More names would overlap.
        names = [literal(name if len(name) <= 18 else name[:17] + "…") for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(classes)), names, fontsize=8)
    if len(classes) <= 20:
        for (row, column), share in np.ndenumerate(percent):
            if share >= 0.5:
                color = "white" if share > 55 else "black"
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=color)
    axes.set(xlabel="predicted class", ylabel="true class")
    return figure


def heat_table(content: Mapping[str, Any]) -> Table | None:
    """Return the matrix as a table with shaded cells; None if it has too many classes."""
    found = shares_of(content)
    if found is None or len(found[0]) > TABLE_CLASSES:
        return None
    classes, percent = found
    rows = [[Cell(name), *map(_cell, percent[row])] for row, name in enumerate(classes)]
    return Table(["true class, predicted as", *classes], rows, vertical_head=True)


def largest_confusions(content: Mapping[str, Any]) -> Table | None:
    """Return the pairs of classes with the largest share of mistaken pixels; None if all shares are small."""
    if (found := shares_of(content)) is None:
        return None
    classes, percent = found
    mistaken = np.nan_to_num(percent)
    np.fill_diagonal(mistaken, 0.0)
    order = np.argsort(-mistaken, axis=None, kind="stable")[:MAX_PAIRS]
    pairs = [divmod(int(index), len(classes)) for index in order]
    rows = [
        [Cell(classes[row]), Cell(classes[column]), Cell(f"{mistaken[row, column]:.0f} %", number=True)]
        for row, column in pairs
        if mistaken[row, column] >= MIN_SHARE
    ]
    return Table(["true class", "predicted as", "share"], rows, "The largest confusions.") if rows else None


def _cell(share: float) -> Cell:
    if np.isnan(share):
        return Cell("–", number=True)
    return Cell(f"{share:.0f}" if share >= 0.5 else "", number=True, shade=float(share))
