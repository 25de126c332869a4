"""The table of a comparison: means over seeds, spreads, paired differences."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from semiseg.tools.comparison.cells import Cell, Plan
from semiseg.tools.comparison.published_figures import published
from semiseg.tools.comparison.seed_statistics import CONFIDENCE, Spread, paired

REFERENCE = "supervised"
CHECKPOINTS = ("best", "last")
Row = dict[str, Any]
Results = Mapping[tuple[str, str, int], Mapping[str, Any]]


def read_results(cells: Iterable[Cell]) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return what finished cells left, by (method, labeled, seed): evaluation.json and resources.json together."""
    results = {}
    for cell in cells:
        if cell.finished:
            files = (cell.result, cell.run / "resources.json")
            contents = [json.loads(path.read_text(encoding="utf-8")) for path in files if path.is_file()]
            results[cell.name, cell.labeled, cell.seed] = {
                key: value for part in contents for key, value in part.items()
            }
    return results


def make_table(plan: Plan, results: Results, failures: Mapping[Path, str], with_published: bool = False) -> Row:
    """Return the table of a comparison.

    Args:
        plan: the cells that have been asked for.
        results: of the finished ones, see `read_results`.
        failures: why cells have failed, by run.
        with_published: set published figures beside one's own, where there are some.

    Returns:
        ``rows``, one a method and share of labels: ``best`` and ``last`` hold test mIoU in percent at the checkpoint
        that val chose and at the last step, ``val`` the highest on val: ``mean``, ``std`` of the sample (None of one
        seed), ``each`` by seed; None where nothing is finished. ``best`` and ``last`` also hold ``difference``, paired
        by seed, to the row ``supervised`` of the same labels, with its 95 % interval ``low, high`` and ``n``.
        Besides: ``split`` (test, or val where there is no test list), ``settings``, ``methods``, ``reference``,
        and ``unfinished``, the cells that are missing or have failed.
    """
    keys = dict.fromkeys((labeled, name) for name, labeled, _ in plan.cells)
    reference = REFERENCE if REFERENCE in plan.entries and len(plan.entries) > 1 else None
    rows = [_row(plan, results, name, labeled, reference, with_published) for labeled, name in sorted_rows(plan, keys)]
    return {
        "data": plan.settings["data"],
        "split": plan.split,
        "reference": reference,
        "confidence": CONFIDENCE,
        "rows": rows,
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


def sorted_rows(plan: Plan, keys: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return (labeled, method) with the fewest labels first, methods in the order in which they were asked for."""
    names, images = list(plan.entries), {cell.labeled: cell.labeled_images for cell in plan.cells.values()}
    return sorted(keys, key=lambda key: (images[key[0]], key[0], names.index(key[1])))


def _row(plan: Plan, results: Results, name: str, labeled: str, reference: str | None, with_published: bool) -> Row:
    cells = [cell for cell in plan.cells.values() if (cell.name, cell.labeled) == (name, labeled)]
    own = {cell.seed: results[key] for cell in cells if (key := (name, labeled, cell.seed)) in results}
    row: Row = {
        **{"method": name, "labeled": labeled, "labeled_images": cells[0].labeled_images},
        **{"seeds": [cell.seed for cell in cells], "finished": list(own)},
    }
    for checkpoint in CHECKPOINTS:
        values = _miou(results, name, labeled, checkpoint)
        row[checkpoint] = _spread(values)
        if values and reference not in (None, name):
            others = _miou(results, str(reference), labeled, checkpoint)
            row[checkpoint]["difference"] = _difference(paired(values, others))
    row["val"] = _spread({seed: result["val"] for seed, result in own.items() if result["val"] is not None})
    row["networks"] = _networks([result["best"]["networks"] for result in own.values()], list(own))
    costs = [result for result in own.values() if "training_s" in result]
    peaks = [cost["peak_memory_mb"] for cost in costs if cost["peak_memory_mb"] is not None]
    row["trainable_parameters"] = costs[0]["trainable_parameters"] if costs else None
    row["training_s"] = sum(cost["training_s"] for cost in costs) / len(costs) if costs else None
    row["peak_memory_mb"] = max(peaks, default=None)
    row["device"] = ", ".join(dict.fromkeys(cost["device"] for cost in costs)) or None
    if with_published:
        entry = plan.entries[name]
        known = published(plan.dataset.name, entry.config.encoder, cells[0].labeled_images, name)
        row["published"] = vars(known).copy() if known else None
    return row


def _miou(results: Results, name: str, labeled: str, checkpoint: str) -> dict[int, float]:
    """Return the mIoU of a row's finished cells by seed, where the list has any pixel to judge by."""
    return {
        seed: result[checkpoint]["miou"]
        for (method, share, seed), result in results.items()
        if (method, share) == (name, labeled) and result[checkpoint]["miou"] is not None
    }


def _spread(values: Mapping[int, float]) -> dict[str, Any] | None:
    """Return mean, std and values, None where there are none."""
    spread = Spread(values)
    return {"mean": spread.mean, "std": spread.std, "each": dict(values)} if values else None


def _difference(values: Mapping[int, float]) -> dict[str, Any] | None:
    content = _spread(values)
    if content is not None:
        content["low"], content["high"] = Spread(values).interval() or (None, None)
        content["n"] = len(values)
    return content


def _networks(summaries: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """Return the mIoU of each network at the best checkpoint."""
    pairs = list(zip(seeds, summaries, strict=True))
    names = dict.fromkeys(name for summary in summaries for name in summary)
    values = {n: {seed: m for seed, part in pairs if (m := part[n]["miou"]) is not None} for n in names}
    return {name: _spread(found) for name, found in values.items()}
