"""Build the report page of one run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from semiseg.inference.metrics import ConfusionMatrix
from semiseg.tools.report import plots, sample_sections
from semiseg.tools.report.confusion_table import confusion_figure, heat_table, largest_confusions
from semiseg.tools.report.gain import help_line, learns_from_unlabeled
from semiseg.tools.report.html_page import Cell, Page, Section, Table, number, plot
from semiseg.tools.report.run_files import Line, RunFiles, Score, series
from semiseg.tools.report.run_findings import findings
from semiseg.training.logging.console import format_duration

DETAILS = {"dice": "Dice (F1)", "precision": "precision", "recall": "recall", "boundary_iou": "boundary IoU"}


def run_page(run: RunFiles) -> Page:
    """Build the page of one run and save its plots in ``RUN/plots``."""
    plot_folder = run.path / "plots"
    sections = [
        _networks(run),
        _curves(run, plot_folder),
        _classes(run),
        _confusion(run, plot_folder),
        sample_sections.predictions(run),
        sample_sections.pseudo_labels(run),
        _coupling(run, plot_folder),
        sample_sections.samples(run),
        _skipped(run),
        _mapping("Configuration", ["option", "value"], run.config),
        _mapping("Environment", ["", ""], run.environment),
    ]
    return Page(
        title=f"{run.method} on {run.config['data']}" if run.config.get("data") else run.method,
        summary=_summary(run),
        tiles=_tiles(run),
        findings=findings(run),
        sections=[section for section in sections if section.blocks],
    )


def list_sizes_text(run: RunFiles) -> str:
    """Return the number of images in each list, e.g. ``23 labeled, 344 unlabeled, 101 val images``."""
    counts = [f"{size} {name}" for name, size in run.list_sizes.items() if size]
    return f"{', '.join(counts)} images" if counts else ""


def score_table(rows: list[tuple[list[Cell], Score]], head: list[str], caption: str = "") -> Table:
    """Return a table of mIoU with one row per score, after its first cells; omit columns without any value."""
    columns = {
        "val, best checkpoint": [number(score.val, bar=True) for _, score in rows],
        "val, highest (step)": [_highest(score) for _, score in rows],
        "val, last": [number(score.last) for _, score in rows],
        "test, best checkpoint": [number(score.test, bar=True) for _, score in rows],
        "test, last": [number(score.test_last) for _, score in rows],
    }
    columns = {name: cells for name, cells in columns.items() if any(cell.text != "–" for cell in cells)}
    body = [[*first, *(cells[index] for cells in columns.values())] for index, (first, _) in enumerate(rows)]
    return Table([*head, *columns], body, caption)


def class_table(columns: Mapping[str, Line], caption: str) -> Table:
    """Return a table of IoU by class, one column per evaluation, with the means in the last rows."""
    classes = list(dict.fromkeys(name for line in columns.values() for name in line.get("iou", {})))
    rows = [[Cell(name), *(number(line["iou"].get(name), bar=True) for line in columns.values())] for name in classes]
    rows.append([Cell("mean (mIoU)"), *(number(line.get("miou"), bar=True) for line in columns.values())])
    rows.append([Cell("pixel accuracy"), *(number(line.get("pixel_accuracy")) for line in columns.values())])
    return Table(["class", *columns], rows, caption)


def detail_table(line: Line, confusion: Mapping[str, Any] | None, where: str) -> list[Table]:
    """Return a table of Dice, precision, recall and boundary IoU by class, or no table if the run lacks them.

    Args:
        line: The evaluation of one network. Only ``semiseg evaluate`` measures the boundary IoU.
        confusion: Content of confusion.json, from which the other figures follow if the line lacks them.
        where: The list and checkpoint, for the caption.
    """
    if "dice" not in line and confusion and line["split"] == "val" and confusion.get("network") == line["network"]:
        matrix = ConfusionMatrix(len(confusion["classes"]))
        matrix.counts = torch.tensor(confusion["counts"], dtype=torch.int64)
        line = matrix.details(confusion["classes"])
        where = f"on val, best checkpoint ({confusion['network']})"
    else:
        where = f"{where} ({line['network']})"
    shown = {title: key for key, title in DETAILS.items() if isinstance(line.get(key), Mapping)}
    if not shown:
        return []
    names = list(line[next(iter(shown.values()))])
    rows = [[Cell(name), *(number(line[key].get(name), bar=True) for key in shown.values())] for name in names]
    rows.append([Cell("mean"), *(number(line.get(f"mean_{key}")) for key in shown.values())])
    return [Table(["class", *shown], rows, f"Further figures in percent, {where}.")]


def result_lines(run: RunFiles) -> tuple[list[Line], str]:
    """Return the most relevant evaluation and its name: test rather than val, best checkpoint rather than last."""
    for checkpoint, split in (("best", "test"), ("best", "val"), ("last", "test")):
        if lines := run.lines_at(checkpoint, split):
            return lines, f"on {split}, {checkpoint} checkpoint"
    return [], ""


def value_text(value: Any) -> str:
    """Return a value from YAML or JSON as one line of text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {value_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(value_text(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def _summary(run: RunFiles) -> str:
    """State the default network's mIoU, and what it was trained on."""
    score = run.scores[0] if run.scores else None
    if score is None or (score.val is None and score.test is None):
        return "This run has not been evaluated yet."
    first = f"{help_line(run)} " if learns_from_unlabeled(run) else ""
    results = []
    if score.val is not None:
        step = f" at step {run.best_step}" if run.best_step is not None else ""
        results.append(f"{score.val:.1f} % mIoU on val{step}")
    if score.test is not None:
        test = f"{score.test:.1f} %"
        results.append(f"{test} on test with the same checkpoint" if results else f"{test} mIoU on test")
    lists = f" {_training_text(run)}" if list_sizes_text(run) else ""
    return f"{first}The {score.network} reached {' and '.join(results)}.{lists}"


def _training_text(run: RunFiles) -> str:
    sizes = run.list_sizes
    terms = ("loss/unsupervised", "loss/consistency")
    uses_unlabeled = any(value for key in terms for value in series(run.training, key)[1])
    unlabeled = f" and {sizes['unlabeled']} unlabeled" if sizes.get("unlabeled") and uses_unlabeled else ""
    evaluated = ", ".join(f"{name} has {sizes[name]} images" for name in ("val", "test") if sizes.get(name))
    steps = f" for {run.training[-1]['step']} steps" if run.training else ""
    classes = f"{len(run.classes)} classes" if run.classes else "its classes"
    labeled = f"{sizes.get('labeled', 0)} labeled{unlabeled} images"
    return f"It was trained on {classes} with {labeled}{steps}{f'; {evaluated}' if evaluated else ''}."


def _tiles(run: RunFiles) -> list[tuple[str, str, str]]:
    config, tiles = run.config, [("method", run.method, "")]
    if config.get("data"):
        tiles.append(("data", str(config["data"]), f"{len(run.classes)} classes" if run.classes else ""))
    if "labeled" in run.list_sizes:
        share = f"of {run.list_sizes['labeled'] + run.list_sizes.get('unlabeled', 0)} training images"
        tiles.append(("labeled", str(run.list_sizes["labeled"]), share))
    if run.scores:
        score, step = run.scores[0], run.best_step
        values = {
            "mIoU, val": (score.val, f"best checkpoint{f', step {step}' if step is not None else ''}"),
            "mIoU, val, last": (score.last, "last step"),
            "mIoU, test": (score.test, "best checkpoint"),
        }
        tiles += [(label, f"{value:.1f} %", note) for label, (value, note) in values.items() if value is not None]
    if run.training:
        rates = series(run.training, "images_per_s")[1]
        rate = f", {sorted(rates)[len(rates) // 2]:.1f} images/s" if rates else ""
        time_s = max(series([*run.training, *run.validations], "time_s")[1], default=0.0)
        tiles.append(("time", format_duration(time_s), f"{run.training[-1]['step']} steps{rate}"))
    return tiles


def _networks(run: RunFiles) -> Section:
    rows = [([Cell(score.network)], score) for score in run.scores]
    text = "mIoU in percent. The best checkpoint has the highest mIoU on val of the first network."
    return Section("Networks", text, [score_table(rows, ["network"])] if rows else [])


def _curves(run: RunFiles, plot_folder: Path) -> Section:
    trusted = plots.trusted(run) if run.config.get("threshold_mode") != "none" else None  # it would not be used
    shown = {
        "miou": (plots.miou(run), "mIoU on val of every network."),
        "losses": (plots.losses(run), "Training losses: running mean, and the single values in pale colors."),
        "trusted": (trusted, "Share of pseudo-labels that pass the threshold."),
    }
    blocks = [
        block for name, (figure, text) in shown.items() for block in plot(figure, plot_folder / f"{name}.png", text)
    ]
    return Section("Curves", blocks=blocks)


def _coupling(run: RunFiles, plot_folder: Path) -> Section:
    text = (
        "Distance of the other networks to the student. A teacher that is too close to its student confirms the "
        "student's mistakes; methods with several teachers or students keep them apart."
    )
    caption = "Share of val pixels with different classes, and ‖θ − θ_student‖ / ‖θ_student‖ over the parameters."
    return Section("Teacher-student distance", text, plot(plots.coupling(run), plot_folder / "coupling.png", caption))


def _classes(run: RunFiles) -> Section:
    lines, name = result_lines(run)
    order = {score.network: rank for rank, score in enumerate(run.scores)}
    columns = {line["network"]: line for line in sorted(lines, key=lambda line: order[line["network"]])}
    if not columns:
        return Section("Classes")
    caption = f"IoU in percent, {name}. A dash: the class is neither in the masks nor in the predictions."
    details = detail_table(next(iter(columns.values())), run.confusion, name)
    return Section("Classes", blocks=[class_table(columns, caption), *details])


def _confusion(run: RunFiles, plot_folder: Path) -> Section:
    """Show the matrix as a table, or as a picture if it is large; save the picture in both cases."""
    if run.confusion is None:
        return Section("Confusion")
    source = f"{run.confusion.get('network', '')} on {run.confusion.get('split', '')}".strip()
    text = f"Predicted classes for each true class: {source}, best checkpoint. Each row adds up to 100 %."
    figure = confusion_figure(run.confusion)
    picture = plot(figure, plot_folder / "confusion.png", "Rows: true class.", min_width=600)
    table, largest = heat_table(run.confusion), largest_confusions(run.confusion)
    return Section("Confusion", text, [*([largest] if largest else []), *([table] if table else picture)])


def _skipped(run: RunFiles) -> Section:
    rows = [[Cell(str(line["skipped"])), Cell(str(line.get("reason", "")))] for line in run.skipped]
    return Section(
        "Skipped images", blocks=[Table(["unlabeled image", "reason"], rows)] if rows else [], collapsed=True
    )


def _mapping(title: str, head: list[str], values: Mapping[str, Any]) -> Section:
    rows = [[Cell(key), Cell(value_text(value))] for key, value in values.items()]
    return Section(title, blocks=[Table(head, rows)] if rows else [], collapsed=True)


def _highest(score: Score) -> Cell:
    if score.highest is None:
        return number(None)
    return Cell(f"{score.highest:.1f} ({score.highest_step})", number=True)
