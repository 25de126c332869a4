"""Format the table of a comparison as Markdown, CSV and columns of text."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from semiseg.tools.comparison.comparison_table import CHECKPOINTS, Row
from semiseg.tools.comparison.seed_statistics import CONFIDENCE
from semiseg.training.logging.console import format_duration


def columns(table: Row) -> dict[str, list[str]]:
    """Return the columns of the table as text, by their heads; omit empty columns."""
    rows, split = table["rows"], table["split"]
    result = {
        "method": [row["method"] for row in rows],
        "labels": [label_count(row) for row in rows],
        f"{split} mIoU, best on val": [mean_and_std(row["best"]) or missing_text(table, row) for row in rows],
        "each seed": [each_seed(row) for row in rows],
        f"{split} mIoU, last step": [mean_and_std(row["last"]) for row in rows],
        f"difference to {table['reference']}": [difference(row["best"]) for row in rows],
        "val mIoU": [mean_and_std(row["val"]) for row in rows],
        "parameters": [_number(row["trainable_parameters"], 1e6, " M") for row in rows],
        "time per run": ["" if row["training_s"] is None else format_duration(row["training_s"]) for row in rows],
        "peak memory": [_number(row["peak_memory_mb"], 1024, " GB") for row in rows],
        "published": [f"{row['published']['miou']:.2f}" if row.get("published") else "" for row in rows],
    }
    return {head: cells for head, cells in result.items() if any(cells)}


def label_count(row: Row) -> str:
    """Return the share of labels and the number of images: ``1/16 (23)``."""
    images = str(row["labeled_images"])
    return images if row["labeled"] == images else f"{row['labeled']} ({images})"


def mean_and_std(values: Mapping[str, Any] | None) -> str:
    """Return ``45.31 ± 3.98``, or only the mean for one seed."""
    if values is None:
        return ""
    return f"{values['mean']:.2f}" + ("" if values["std"] is None else f" ± {values['std']:.2f}")


def each_seed(row: Row) -> str:
    """Return the mIoU at the best checkpoint for each seed; ``missing`` for unfinished cells."""
    values = row["best"]["each"] if row["best"] else {}
    return ", ".join(f"{values[seed]:.2f}" if seed in values else "missing" for seed in row["seeds"]) if values else ""


def difference(values: Mapping[str, Any] | None) -> str:
    """Return ``+0.95 [-4.82, +6.72], n = 3``; the interval needs at least two seeds."""
    found = values and values.get("difference")
    if not found:
        return ""
    interval = f" [{found['low']:+.2f}, {found['high']:+.2f}]" if found["low"] is not None else ""
    return f"{found['mean']:+.2f}{interval}, n = {found['n']}"


def missing_text(table: Row, row: Row) -> str:
    """Return ``failed`` if a cell of the row failed, else ``missing``."""
    key = row["method"], row["labeled"]
    states = {one["state"] for one in table["unfinished"] if (one["method"], one["labeled"]) == key}
    return "failed" if "failed" in states else "missing"


def _number(value: float | None, unit: float, name: str = "") -> str:
    return "" if value is None else f"{value / unit:.1f}{name}"


def explanation(table: Row) -> str:
    """Explain the columns in a few sentences."""
    split = table["split"] if table["split"] == "test" else "val (there is no test list)"
    text = (
        f"mIoU in percent on {split}, at the checkpoint with the highest mIoU on val and at the last step: mean ± "
        "standard deviation over seeds."
    )
    if table["reference"]:
        text += (
            f" Differences to {table['reference']} are paired by seed (same labels, same initial student), at the best "
            f"checkpoint, with their {CONFIDENCE:.0%} confidence interval (Student's t over n seeds)."
        )
    sources = dict.fromkeys(
        f"{row['method']} at {row['labeled_images']}: {row['published']['source']}"
        for row in table["rows"]
        if row.get("published")
    )
    return text + (f" Published figures, with other settings: {'; '.join(sources)}." if sources else "")


def unfinished_lines(table: Row) -> list[str]:
    """Return a line for each cell that is missing or failed."""
    return [
        f"{one['method']}, {one['labeled']}, seed {one['seed']}: {one['state']}"
        + (f": {one['reason']}" if one["reason"] else "")
        for one in table["unfinished"]
    ]


def to_markdown(table: Row) -> str:
    """Return the table as Markdown, with an explanation of the columns and the unfinished cells."""
    parts = columns(table)
    lines = [[*parts], ["---"] * len(parts), *map(list, zip(*parts.values(), strict=True))]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    notes = [f"{table['data']}. {explanation(table)}", *[f"- {line}" for line in unfinished_lines(table)]]
    return text + "\n\n" + "\n".join(notes) + "\n"


def to_csv(table: Row) -> str:
    """Return the table as CSV: numbers with two decimals, and one column per seed."""
    seeds = sorted({seed for row in table["rows"] for seed in row["seeds"]})
    lines = []
    for row in table["rows"]:
        line: Row = {key: row[key] for key in ("method", "labeled", "labeled_images")}
        line |= {"split": table["split"], "seeds": len(row["seeds"]), "finished": len(row["finished"])}
        for name in (*CHECKPOINTS, "val"):
            values = row[name] or {"mean": None, "std": None, "each": {}}
            found = values.get("difference") or {}
            line |= {f"{name}_mean": values["mean"], f"{name}_std": values["std"]}
            line |= {f"{name}_seed{seed}": values["each"].get(seed) for seed in seeds}
            if name != "val":
                line |= {f"{name}_difference": found.get("mean"), f"{name}_difference_low": found.get("low")}
                line |= {f"{name}_difference_high": found.get("high"), f"{name}_difference_n": found.get("n")}
        line |= {key: row[key] for key in ("trainable_parameters", "training_s", "peak_memory_mb", "device")}
        if "published" in row:
            known = row["published"] or {}
            line |= {"published": known.get("miou"), "published_source": known.get("source")}
        lines.append({key: f"{value:.2f}" if isinstance(value, float) else value for key, value in line.items()})
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()
