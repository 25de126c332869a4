"""Write the files of a comparison for readers: table.md, table.csv, table.json, plot, picture and report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from semiseg.errors import UserError
from semiseg.tools.comparison.cells import Cell
from semiseg.tools.comparison.comparison_plan import Plan
from semiseg.tools.comparison.comparison_table import Results, Row
from semiseg.tools.comparison.gallery import gallery
from semiseg.tools.comparison.table_text import (
    columns,
    explanation,
    label_count,
    to_csv,
    to_markdown,
    unfinished_lines,
)
from semiseg.tools.report import plots
from semiseg.tools.report.evidence import verdict
from semiseg.tools.report.gain import LEFT_OUT, QUESTION, left_out
from semiseg.tools.report.html_page import Cell as TableCell
from semiseg.tools.report.html_page import Page, Picture, Section, Table, number, plot, render, write
from semiseg.tools.report.load_run import load_run
from semiseg.tools.report.multi_run_page import compared_curves, embedded_pictures
from semiseg.tools.report.run_files import read_run
from semiseg.tools.report.run_findings import small_lists
from semiseg.tools.report.run_page import class_table, value_text

TEXT_COLUMNS = ("method", "labels", "each seed", "published")
TITLE_METHODS = 4


def write_tables(out: Path, table: Row) -> None:
    """Write ``table.md``, ``table.csv`` and ``table.json``."""
    write(out / "table.md", to_markdown(table).encode())
    write(out / "table.csv", to_csv(table).encode())
    write(out / "table.json", (json.dumps(table, indent=1) + "\n").encode())


def write_page(plan: Plan, table: Row, results: Results, without_pictures: str = "") -> Path:
    """Write ``report.html``, ``miou_vs_labels.png`` and ``pictures.png``; return the path of the page.

    Args:
        plan: The comparison.
        table: Its table, from ``make_table``.
        results: Results of the finished cells, from ``read_results``.
        without_pictures: A reason to leave out the pictures.
    """
    shown = shown_cells(plan, results)
    sections = [
        Section("Results", explanation(table), [_results(table)]),
        Section("Not finished", "; ".join(unfinished_lines(table))),
        Section("Labels", blocks=_labels(table, plan.out)),
        _pictures(plan, shown, without_pictures),
        _classes(plan, shown, results),
        _curves(plan, shown),
        Section("Networks", "mIoU of every network of a method at the best checkpoint.", _networks(table)),
        Section("Settings", "Of all runs, and of each method.", _settings(table), collapsed=True),
    ]
    kept = [section for section in sections if section.blocks or section.text]
    names = " · ".join(plan.entries) if len(plan.entries) <= TITLE_METHODS else f"{len(plan.entries)} methods"
    found = small_lists(table["images"])
    page = Page(f"{names} on {table['data']}", _summary(table, _left_out(plan, results)), findings=found, sections=kept)
    write(plan.out / "report.html", render(page).encode())
    return plan.out / "report.html"


def shown_cells(plan: Plan, results: Results) -> dict[str, Cell]:
    """Return the cell of each method that pictures and curves show.

    These are the finished cells with the fewest labels and the first requested seed that has any.
    """
    labeled = min(plan.cells.values(), key=lambda cell: cell.labeled_images).labeled
    for seed in dict.fromkeys(seed for block in reversed(plan.blocks) for seed in block.seeds):
        if found := {name: plan.cells[key] for name in plan.entries if (key := (name, labeled, seed)) in results}:
            return found
    return {}


def _left_out(plan: Plan, results: Results) -> str:
    """Return in which runs the safeguard had left the unlabeled images out at the end; empty for none."""
    runs = [plan.cells[key] for key in results if key in plan.cells]
    titles = [cell.title for cell in runs if left_out(read_run(cell.run))]
    return f"{LEFT_OUT} ({'; '.join(titles)}). " if titles else ""


def _summary(table: Row, note: str = "") -> str:
    """Rank the methods by mIoU, for each number of labels."""
    parts = []
    for labeled in dict.fromkeys(row["labeled"] for row in table["rows"]):
        rows = [row for row in table["rows"] if row["labeled"] == labeled and row["best"]]
        ranked = sorted(rows, key=lambda row: -row["best"]["mean"])
        values = ", ".join(f"{row['method']} {row['best']['mean']:.2f}" for row in ranked)
        if ranked:
            parts.append(f"{label_count(ranked[0])} labels: {values}.")
    head = f"mIoU on {table['split']} in percent, best method first. "
    return help_line(table) + note + head + " ".join(parts) if parts else "No cell is finished yet."


def help_line(table: Row) -> str:
    """Return whether unlabeled images helped: each method's difference to supervised, paired by seed."""
    parts = []
    for row in table["rows"]:
        if not (difference := row["best"] and row["best"].get("difference")):
            continue
        figures = (difference[name] for name in ("n", "low", "high"))
        text = verdict(difference["mean"], table["split"], table["images"][table["split"]], *figures)
        parts.append(f"{text} ({row['method']} at {label_count(row)} labels).")
    return f"{QUESTION} {' '.join(parts)} " if parts else ""


def _results(table: Row) -> Table:
    parts = columns(table)
    cells = {head: [TableCell(text, head not in TEXT_COLUMNS) for text in texts] for head, texts in parts.items()}
    return Table(list(parts), list(zip(*cells.values(), strict=True)))


def _labels(table: Row, out: Path) -> list[Picture]:
    rows = [row for row in table["rows"] if row["best"]]
    points = {
        name: [
            (row["labeled_images"], row["best"]["mean"], row["best"]["std"] or 0.0)
            for row in rows
            if row["method"] == name
        ]
        for name in dict.fromkeys(row["method"] for row in rows)
    }
    figure = plots.miou_by_labels(points, f"mIoU on {table['split']} (%)")
    caption = "mIoU over the number of labeled images, best checkpoint; bars: standard deviation over seeds."
    return plot(figure, out / "miou_vs_labels.png", caption)


def _shown_text(shown: Mapping[str, Cell]) -> str:
    cell = next(iter(shown.values()))
    return f"{cell.labeled_images} labeled images, seed {cell.seed}"


def _pictures(plan: Plan, shown: Mapping[str, Cell], reason: str) -> Section:
    if reason or not shown:
        return Section("Pictures", f"No pictures: {reason or 'no cell with the fewest labels is finished'}.")
    try:
        picture, caption = gallery({name: load_run(cell.run) for name, cell in shown.items()})
    except (UserError, RuntimeError) as error:  # e.g. out of device memory: write the page without pictures
        return Section("Pictures", f"No pictures: {' '.join(str(error).split())[:200]}")
    blocks = [embedded_pictures(picture, caption, plan.out)]
    return Section("Pictures", f"{_shown_text(shown)}, best checkpoint.", blocks)


def _classes(plan: Plan, shown: Mapping[str, Cell], results: Results) -> Section:
    """Show the IoU of each class with the fewest labels, averaged over the seeds."""
    lines = {}
    for name, cell in shown.items():
        best = [result["best"] for key, result in results.items() if key[:2] == (name, cell.labeled)]
        lines[name] = {
            "iou": {label: _mean([evaluation["iou"][label] for evaluation in best]) for label in best[0]["iou"]},
            "miou": _mean([evaluation["miou"] for evaluation in best]),
            "pixel_accuracy": _mean([evaluation["pixel_accuracy"] for evaluation in best]),
        }
    if not lines:
        return Section("Classes")
    images = next(iter(shown.values())).labeled_images
    caption = f"IoU in percent on {plan.split}, {images} labeled images, best checkpoint, mean over seeds."
    return Section("Classes", blocks=[class_table(lines, caption)])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _curves(plan: Plan, shown: Mapping[str, Cell]) -> Section:
    blocks = compared_curves({name: read_run(cell.run) for name, cell in shown.items()}, plan.out / "plots")
    return Section("Curves", f"{_shown_text(shown)}." if blocks else "", blocks)


def _networks(table: Row) -> list[Table]:
    rows = [
        [
            TableCell(row["method"]),
            TableCell(label_count(row)),
            TableCell(name),
            number(values["mean"], 2),
            number(values["std"], 2),
        ]
        for row in table["rows"]
        for name, values in row["networks"].items()
        if values
    ]
    return [Table(["method", "labels", "network", f"mIoU on {table['split']}", "std"], rows)] if rows else []


def _settings(table: Row) -> list[Table]:
    def options_table(options: Mapping[str, object], caption: str) -> Table:
        rows = [[TableCell(key), TableCell(value_text(value))] for key, value in options.items()]
        return Table(["option", "value"], rows, caption)

    methods = [options_table(own, name) for name, own in table["methods"].items()]
    return [options_table(table["settings"], "All runs."), *methods]
