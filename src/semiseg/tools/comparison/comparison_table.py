"""The table of a comparison: means, standard deviations and paired differences over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from semiseg.tools.comparison.cells import Cell
from semiseg.tools.comparison.comparison_plan import Plan
from semiseg.tools.comparison.published_figures import published
from semiseg.tools.comparison.seed_statistics import CONFIDENCE, paired, summarize

REFERENCE = "supervised"
CHECKPOINTS = ("best", "last")
Row = dict[str, Any]
Results = Mapping[tuple[str, str, int], Mapping[str, Any]]
"""By (method, labeled, seed): the content of evaluation.json and resources.json."""


def read_results(cells: Iterable[Cell]) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the results of the finished cells."""
    results = {}
    for cell in cells:
        if cell.finished:
            content: dict[str, Any] = {}
            for path in (cell.result, cell.run / "resources.json"):
                content |= json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            results[cell.name, cell.labeled, cell.seed] = content
    return results


def make_table(plan: Plan, results: Results, failures: Mapping[Path, str], with_published: bool = False) -> Row:
    """Return the table of a comparison.

    Args:
        plan: The requested cells.
        results: Results of the finished cells, from ``read_results``.
        failures: Reason of each failure, by run directory.
        with_published: Add published figures.

    Returns:
        A dictionary with ``rows``, one per method and number of labels, the fewest labels first. In a row, ``best`` and
        ``last`` hold the test mIoU in percent at the best checkpoint and at the last step, ``val`` the highest on val:
        ``mean``, ``std`` of the sample (None for one seed) and ``each`` by seed; they are None if no seed is finished.
        ``best`` and ``last`` also hold ``difference``, paired by seed, to the row ``supervised`` with the same labels,
        with its 95 % interval ``low, high`` and ``n``.
        Other keys: ``split`` (test, or val if there is no test list), ``images`` (number of images by list),
        ``settings``, ``methods``, ``reference``, and ``unfinished``, the cells that are missing or failed.
    """
    images = {cell.labeled: cell.labeled_images for cell in plan.cells.values()}
    names = list(plan.entries)
    keys = dict.fromkeys((images[labeled], labeled, names.index(name)) for name, labeled, _ in plan.cells)
    reference = REFERENCE if REFERENCE in plan.entries and len(plan.entries) > 1 else None
    return {
        "data": plan.settings["data"],
        "split": plan.split,
        "images": _list_sizes(plan),
        "reference": reference,
        "confidence": CONFIDENCE,
        "rows": [
            _row(plan, results, names[index], labeled, reference, with_published) for _, labeled, index in sorted(keys)
        ],
        "unfinished": [
            {
                **{"method": cell.name, "labeled": cell.labeled, "seed": cell.seed},
                **{"state": "failed" if cell.run in failures else "missing", "reason": failures.get(cell.run)},
            }
            for key, cell in plan.cells.items()
            if key not in results
        ],
        "settings": plan.settings,
        "methods": {name: entry.own() for name, entry in plan.entries.items()},
    }


def _list_sizes(plan: Plan) -> dict[str, int]:
    """Return the number of images that figures on val and on the evaluated list refer to, the smallest of all seeds."""
    sizes = {name: min(len(getattr(split, name)) for split in plan.splits.values()) for name in ("val", plan.split)}
    return sizes | {"val": min(sizes["val"], plan.settings["val_limit"] or sizes["val"])}


def _row(plan: Plan, results: Results, name: str, labeled: str, reference: str | None, with_published: bool) -> Row:
    cells = [cell for cell in plan.cells.values() if (cell.name, cell.labeled) == (name, labeled)]
    own = {cell.seed: results[key] for cell in cells if (key := (name, labeled, cell.seed)) in results}
    row: Row = {
        **{"method": name, "labeled": labeled, "labeled_images": cells[0].labeled_images},
        **{"seeds": [cell.seed for cell in cells], "finished": list(own)},
    }
    for checkpoint in CHECKPOINTS:
        values = _miou(results, name, labeled, checkpoint)
        row[checkpoint] = summarize(values)
        if values and reference not in (None, name):
            difference = paired(values, _miou(results, str(reference), labeled, checkpoint))
            row[checkpoint]["difference"] = summarize(difference, with_interval=True)
    row["val"] = summarize({seed: result["val"] for seed, result in own.items() if result["val"] is not None})
    row["networks"] = _networks(own)
    row |= _costs([result for result in own.values() if "training_s" in result])
    if with_published:
        encoder = plan.entries[name].config.encoder
        known = published(plan.dataset.name, encoder, cells[0].labeled_images, name)
        row["published"] = vars(known).copy() if known else None
    return row


def _costs(results: Sequence[Mapping[str, Any]]) -> Row:
    """Return parameters, mean training time, peak memory and devices of a row's cells."""
    peaks = [result["peak_memory_mb"] for result in results if result["peak_memory_mb"] is not None]
    return {
        "trainable_parameters": results[0]["trainable_parameters"] if results else None,
        "training_s": sum(result["training_s"] for result in results) / len(results) if results else None,
        "peak_memory_mb": max(peaks, default=None),
        "device": ", ".join(dict.fromkeys(result["device"] for result in results)) or None,
    }


def _miou(results: Results, name: str, labeled: str, checkpoint: str) -> dict[int, float]:
    """Return the mIoU of a row's finished cells by seed; leave out cells in which it is undefined."""
    return {
        seed: result[checkpoint]["miou"]
        for (method, share, seed), result in results.items()
        if (method, share) == (name, labeled) and result[checkpoint]["miou"] is not None
    }


def _networks(results: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mIoU of each network at the best checkpoint."""
    networks = {seed: result["best"]["networks"] for seed, result in results.items()}
    names = dict.fromkeys(name for summary in networks.values() for name in summary)
    return {
        name: summarize(
            {seed: miou for seed, summary in networks.items() if (miou := summary[name]["miou"]) is not None}
        )
        for name in names
    }
