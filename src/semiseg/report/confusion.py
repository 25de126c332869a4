"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from semiseg.report.figures import plain


def confusion(content: Mapping[str, Any]) -> Figure | None:
    """Draw a confusion matrix, each row in percent of the true class's pixels; rows without pixels stay gray.

    Args:
        content: ``classes`` and ``counts``, int ``(C, C)``, rows are the truth.
    """
    classes, counts = content.get("classes", []), np.asarray(content.get("counts", []), dtype=np.float64)
    if not classes or counts.shape != (len(classes), len(classes)):
        return None
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(100 * counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    side = min(10.0, max(4.2, 2.2 + 0.42 * len(classes)))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("#dddddd")
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(picture, ax=axes, shrink=0.7, label="share of the true class's pixels (%)")
    if len(classes) <= 60:  # more names than that overlap
        names = [plain(name if len(name) <= 18 else name[:17] + "…") for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(classes)), names, fontsize=8)
    if len(classes) <= 20:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.5:
                color = "white" if share > 55 else "black"
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=color)
    axes.set(xlabel="predicted class", ylabel="true class")
    return figure
