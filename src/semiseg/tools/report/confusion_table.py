"""Which classes are taken for which: a table of all pairs, a picture where there are many, and the worst of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from semiseg.tools.report.html_page import Cell, Table
from semiseg.tools.report.plots import plain

MOST_IN_TABLE = 24  # classes; a table of more is a wall, and a picture shows its pattern
MOST_PAIRS = 10
LEAST_SHARE = 5.0  # percent of the true class's pixels


def counted(content: Mapping[str, Any]) -> tuple[list[str], np.ndarray] | None:
    """Return class names and counts, float ``(C, C)``, rows are the truth; None where they do not fit together."""
    classes, counts = content.get("classes", []), np.asarray(content.get("counts", []), dtype=np.float64)
    return (classes, counts) if classes and counts.shape == (len(classes), len(classes)) else None


def shares(content: Mapping[str, Any]) -> tuple[list[str], np.ndarray] | None:
    """Return class names and each row in percent of the true class's pixels, float ``(C, C)``, NaN without pixels.

    Args:
        content: ``classes`` and ``counts``, int ``(C, C)``, rows are the truth. None where they do not fit together.
    """
    if (found := counted(content)) is None:
        return None
    classes, counts = found
    totals = counts.sum(axis=1, keepdims=True)
    return classes, np.divide(100 * counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)


def figure(content: Mapping[str, Any]) -> Figure | None:
    """Draw the matrix of `shares`; rows without pixels stay gray."""
    if (found := shares(content)) is None:
        return None
    classes, percent = found
    side = min(10.0, max(4.2, 2.2 + 0.42 * len(classes)))
    drawn = Figure(figsize=(side, side), layout="constrained")
    axes = drawn.add_subplot()
    axes.set_facecolor("#dddddd")
    picture = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    drawn.colorbar(picture, ax=axes, shrink=0.7, label="share of the true class's pixels (%)")
    if len(classes) <= 60:  # more names than that overlap
        names = [plain(name if len(name) <= 18 else name[:17] + "…") for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(classes)), names, fontsize=8)
    if len(classes) <= 20:
        for (row, column), share in np.ndenumerate(percent):
            if share >= 0.5:
                color = "white" if share > 55 else "black"
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=color)
    axes.set(xlabel="predicted class", ylabel="true class")
    return drawn


def heat_table(content: Mapping[str, Any]) -> Table | None:
    """Return the matrix as a table, the deeper a cell's color the larger its share; None where classes are too many."""
    found = shares(content)
    if found is None or len(found[0]) > MOST_IN_TABLE:
        return None
    classes, percent = found
    rows = [[Cell(name), *map(_cell, percent[row])] for row, name in enumerate(classes)]
    return Table(["true class, predicted as", *classes], rows, turned=True)


def taken_for(content: Mapping[str, Any]) -> Table | None:
    """Return the pairs of which the largest share of the true class's pixels is lost; None where nothing is lost."""
    if (found := shares(content)) is None:
        return None
    classes, percent = found
    lost = np.nan_to_num(percent)
    np.fill_diagonal(lost, 0.0)
    order = np.argsort(-lost, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [divmod(int(index), len(classes)) for index in order]
    rows = [
        [Cell(classes[row]), Cell(classes[column]), Cell(f"{lost[row, column]:.0f} %", number=True)]
        for row, column in pairs
        if lost[row, column] >= LEAST_SHARE
    ]
    return Table(["pixels of", "are taken for", "share"], rows, "The largest confusions.") if rows else None


def _cell(share: float) -> Cell:
    if np.isnan(share):
        return Cell("–", number=True)
    return Cell(f"{share:.0f}" if share >= 0.5 else "", number=True, shade=float(share))
