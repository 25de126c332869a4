"""What a comparison leaves for people: table.md, .csv and .json, the plot, the picture, and one page with all of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from semiseg.errors import UserError
from semiseg.tools.comparison.cells import Cell, Plan
from semiseg.tools.comparison.comparison_table import Results, Row
from semiseg.tools.comparison.gallery import gallery
from semiseg.tools.comparison.seed_statistics import Spread
from semiseg.tools.comparison.table_text import (
    columns,
    comma_separated,
    explanation,
    labels,
    markdown,
    unfinished_lines,
)
from semiseg.tools.report import plots as figures
from semiseg.tools.report.html_page import WIDE, Page, Picture, Section, Table, number, photo, plot, render, write
from semiseg.tools.report.html_page import Cell as PageCell
from semiseg.tools.report.report_runs import loaded_run
from semiseg.tools.report.run_files import read_run
from semiseg.tools.report.run_report import class_table, in_words
from semiseg.visualization.mask_pictures import save_picture

TEXT = ("method", "labels", "each seed", "published")
MOST_IN_TITLE = 4


def write_tables(out: Path, table: Row) -> None:
    """Write ``table.md``, ``table.csv`` and ``table.json``."""
    write(out / "table.md", markdown(table).encode())
    write(out / "table.csv", comma_separated(table).encode())
    write(out / "table.json", (json.dumps(table, indent=1) + "\n").encode())


def write_page(plan: Plan, table: Row, results: Results, no_pictures: str = "") -> Path:
    """Write ``report.html``, ``miou_vs_labels.png`` and, but where there is a reason against, ``pictures.png``."""
    sections = [
        Section("Results", explanation(table), [_results(table)]),
        Section("Not finished", "; ".join(unfinished_lines(table))),
        Section("Labels", blocks=_labels(table, plan.out)),
        _pictures(plan, results, no_pictures),
        _classes(plan, results),
        _curves(plan, results),
        Section("Networks", "mIoU of every network a method has, at the checkpoint that val chose.", _networks(table)),
        Section("Settings", "Of all runs, and of each method.", _settings(table), folded=True),
    ]
    shown = [section for section in sections if section.blocks or section.text]
    names = " · ".join(plan.entries) if len(plan.entries) <= MOST_IN_TITLE else f"{len(plan.entries)} methods"
    page = Page(f"{names} on {table['data']}", _summary(table), sections=shown)
    write(plan.out / "report.html", render(page).encode())
    return plan.out / "report.html"


def _summary(table: Row) -> str:
    """Say who is ahead, for each share of labels."""
    parts = []
    for share in dict.fromkeys(row["labeled"] for row in table["rows"]):
        rows = [row for row in table["rows"] if row["labeled"] == share and row["best"]]
        ranked = sorted(rows, key=lambda row: -row["best"]["mean"])
        figures_shown = ", ".join(f"{row['method']} {row['best']['mean']:.2f}" for row in ranked)
        if ranked:
            parts.append(f"{labels(ranked[0])} labels: {figures_shown}.")
    where = f"mIoU on {table['split']} in percent, the highest first. "
    return where + " ".join(parts) if parts else "Nothing is finished yet."


def _results(table: Row) -> Table:
    parts = columns(table)
    cells = {head: [PageCell(text, head not in TEXT) for text in texts] for head, texts in parts.items()}
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
    figure = figures.miou_by_labels(points, f"mIoU on {table['split']} (%)")
    caption = "mIoU over the number of labeled images, checkpoint that val chose; bars: standard deviation over seeds."
    return plot(figure, out / "miou_vs_labels.png", caption)


def shown_cells(plan: Plan, results: Results) -> dict[str, Cell]:
    """Return by method the finished cells of the fewest labels and one seed, those that pictures are made of.

    It is the first seed asked for of which there are such cells.
    """
    labeled = min(plan.cells.values(), key=lambda cell: cell.labeled_images).labeled
    for seed in dict.fromkeys(seed for block in reversed(plan.blocks) for seed in block.seeds):
        if found := {name: plan.cells[key] for name in plan.entries if (key := (name, labeled, seed)) in results}:
            return found
    return {}


def _pictures(plan: Plan, results: Results, reason: str) -> Section:
    cells = shown_cells(plan, results)
    if reason or not cells:
        return Section("Pictures", f"No pictures: {reason or 'no cell of the fewest labels is finished'}.")
    try:
        picture, caption = gallery({name: loaded_run(cell.run) for name, cell in cells.items()})
    except (UserError, RuntimeError) as error:  # a device without memory to spare must not cost the page
        return Section("Pictures", f"No pictures: {' '.join(str(error).split())[:200]}.")
    save_picture(picture, plan.out / "pictures.png")
    one = next(iter(cells.values()))
    text = f"{one.labeled_images} labeled images, seed {one.seed}, checkpoint that val chose."
    return Section("Pictures", text, [photo(picture, caption, limit=1_500_000, at_least=min(picture.width // 2, WIDE))])


def _classes(plan: Plan, results: Results) -> Section:
    """IoU by class at the fewest labels, the mean over seeds."""
    shown = shown_cells(plan, results)
    lines = {}
    for name, cell in shown.items():
        best = [result["best"] for key, result in results.items() if key[:2] == (name, cell.labeled)]
        lines[name] = {
            "iou": {label: _mean([one["iou"][label] for one in best]) for label in best[0]["iou"]},
            "miou": _mean([one["miou"] for one in best]),
            "pixel_accuracy": _mean([one["pixel_accuracy"] for one in best]),
        }
    if not lines:
        return Section("Classes")
    images = next(iter(shown.values())).labeled_images
    caption = f"IoU in percent on {plan.split}, {images} labeled images, checkpoint that val chose, mean over seeds."
    return Section("Classes", blocks=[class_table(lines, caption)])


def _mean(values: Sequence[float | None]) -> float | None:
    found = {index: value for index, value in enumerate(values) if value is not None}
    return Spread(found).mean if found else None


def _curves(plan: Plan, results: Results) -> Section:
    cells = shown_cells(plan, results)
    runs = {name: read_run(cell.run) for name, cell in cells.items()}
    plots = plan.out / "plots"
    blocks = [
        *plot(figures.compared_miou(runs), plots / "compared-miou.png", "mIoU on val while training."),
        *plot(
            figures.compared_coupling(runs),
            plots / "compared-coupling.png",
            "Teacher-student distance: share of val pixels with different classes, and relative parameter distance.",
            at_least=WIDE,
        ),
    ]
    if not blocks:
        return Section("Curves")
    one = next(iter(cells.values()))
    return Section("Curves", f"{one.labeled_images} labeled images, seed {one.seed}.", blocks)


def _networks(table: Row) -> list[Table]:
    rows = [
        [
            PageCell(row["method"]),
            PageCell(labels(row)),
            PageCell(name),
            number(values["mean"], 2),
            number(values["std"], 2),
        ]
        for row in table["rows"]
        for name, values in row["networks"].items()
        if values
    ]
    return [Table(["method", "labels", "network", f"mIoU on {table['split']}", "std"], rows)] if rows else []


def _settings(table: Row) -> list[Table]:
    def rows(options: Mapping[str, object]) -> list[list[PageCell]]:
        return [[PageCell(key), PageCell("–" if value is None else in_words(value))] for key, value in options.items()]

    methods = [Table(["option", "value"], rows(own), name) for name, own in table["methods"].items()]
    return [Table(["option", "value"], rows(table["settings"]), "All runs."), *methods]
