"""The page about one run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semiseg.tools.report import confusion_table as confusion
from semiseg.tools.report import plots as figures
from semiseg.tools.report import sample_album as album
from semiseg.tools.report.html_page import Block, Cell, Page, Section, Table, number, plot
from semiseg.tools.report.run_files import Line, RunFiles, Score, series
from semiseg.tools.report.run_findings import findings


def run_page(run: RunFiles) -> Page:
    """Build the page of one run and save its plots in ``RUN/plots``."""
    plots = run.path / "plots"
    sections = [_networks(run), _curves(run, plots), _classes(run), _confusion(run, plots), album.predictions(run)]
    sections += [album.pseudo_labels(run), _coupling(run, plots), album.samples(run), _skipped(run)]
    sections += [_settings(run), _environment(run)]
    return Page(
        title=f"{run.method} on {run.config['data']}" if run.config.get("data") else run.method,
        summary=_summary(run),
        tiles=_tiles(run),
        findings=findings(run),
        sections=[section for section in sections if section.blocks],
    )


def lists_in_words(run: RunFiles) -> str:
    """Return how many images are in each list, e.g. ``23 labeled, 344 unlabeled, 101 val images``."""
    counts = [f"{size} {name}" for name, size in run.list_sizes.items() if size]
    return f"{', '.join(counts)} images" if counts else ""


def score_rows(rows: list[tuple[list[Cell], Score]], head: list[str], caption: str) -> Table:
    """Return a table of mIoU, one row a score behind its first cells, columns without any figure left out."""
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
    """Return IoU in percent by class, one column for each evaluation line, and the means below."""
    classes = list(dict.fromkeys(name for line in columns.values() for name in line.get("iou", {})))
    rows = [[Cell(name), *(number(line["iou"].get(name), bar=True) for line in columns.values())] for name in classes]
    rows.append([Cell("mean (mIoU)"), *(number(line.get("miou"), bar=True) for line in columns.values())])
    rows.append([Cell("pixel accuracy"), *(number(line.get("pixel_accuracy")) for line in columns.values())])
    return Table(["class", *columns], rows, caption)


def judged(run: RunFiles) -> tuple[list[Line], str]:
    """Return the lines a run is judged by, test before val and best before last, and where they come from."""
    for checkpoint, split in (("best", "test"), ("best", "val"), ("last", "test")):
        if lines := run.lines_at(checkpoint, split):
            return lines, f"on {split}, {checkpoint} checkpoint"
    return [], ""


def _summary(run: RunFiles) -> str:
    """What learned what from how much, and how well."""
    score = run.scores[0] if run.scores else None
    if score is None or (score.val is None and score.test is None):
        return "Nothing has been evaluated in this run yet."
    parts = []
    if score.val is not None:
        step = f" at step {run.best_step}" if run.best_step is not None else ""
        parts.append(f"{score.val:.1f} % mIoU on val{step}")
    if score.test is not None:
        parts.append(
            f"{score.test:.1f} % on test with that checkpoint" if parts else f"{score.test:.1f} % mIoU on test"
        )
    lists = lists_in_words(run)
    return f"The {score.network} reached {' and '.join(parts)}.{f' {_learned(run)}' if lists else ''}"


def _learned(run: RunFiles) -> str:
    sizes = run.list_sizes
    unlabeled = f" and {sizes['unlabeled']} unlabeled" if sizes.get("unlabeled") and _uses_unlabeled(run) else ""
    judges = ", ".join(f"{name} has {sizes[name]} images" for name in ("val", "test") if sizes.get(name))
    steps = f" in {run.training[-1]['step']} steps" if run.training else ""
    classes = f"{len(run.classes)} classes" if run.classes else "its classes"
    return f"It learned {classes} from {sizes.get('labeled', 0)} labeled{unlabeled} images{steps}; {judges}."


def _uses_unlabeled(run: RunFiles) -> bool:
    return any(value for key in ("loss/unsupervised", "loss/consistency") for value in series(run.training, key)[1])


def _tiles(run: RunFiles) -> list[tuple[str, str, str]]:
    config, tiles = run.config, [("method", run.method, "")]
    if config.get("data"):
        tiles.append(("data", str(config["data"]), f"{len(run.classes)} classes" if run.classes else ""))
    if "labeled" in run.list_sizes:
        share = f"of {run.list_sizes['labeled'] + run.list_sizes.get('unlabeled', 0)} training images"
        tiles.append(("labeled", str(run.list_sizes["labeled"]), share))
    if run.scores:
        score, step = run.scores[0], run.best_step
        figures_shown = {
            "mIoU, val": (score.val, f"best checkpoint{f', step {step}' if step is not None else ''}"),
            "mIoU, val, last": (score.last, "at the end"),
            "mIoU, test": (score.test, "best checkpoint"),
        }
        tiles += [
            (label, f"{value:.1f} %", note) for label, (value, note) in figures_shown.items() if value is not None
        ]
    if run.training:
        rates = series(run.training, "images_per_s")[1]
        rate = f"{sorted(rates)[len(rates) // 2]:.1f} images/s" if rates else ""
        time_s = max(series([*run.training, *run.validations], "time_s")[1], default=0.0)
        tiles.append(("time", _duration(time_s), f"{run.training[-1]['step']} steps, {rate}"))
    return tiles


def _networks(run: RunFiles) -> Section:
    rows = [([Cell(score.network)], score) for score in run.scores]
    text = "mIoU in percent. The best checkpoint is the one with the highest mIoU on val of the first network."
    return Section("Networks", text, [score_rows(rows, ["network"], "")] if rows else [])


def _curves(run: RunFiles, plots: Path) -> Section:
    return Section(
        "Curves",
        blocks=[
            *plot(figures.miou(run), plots / "miou.png", "mIoU on val of every network."),
            *plot(
                figures.losses(run), plots / "losses.png", "Training losses: running mean, the values behind it pale."
            ),
            *plot(
                figures.trusted(run), plots / "trusted.png", "Share of pixels whose pseudo-labels pass the threshold."
            ),
        ],
    )


def _coupling(run: RunFiles, plots: Path) -> Section:
    text = (
        "How far the networks are from the student. A teacher that comes too close to its student confirms the "
        "student's mistakes; methods with several teachers or students exist to keep a distance."
    )
    caption = "Share of val pixels with different classes, and ‖θ − θ_student‖ / ‖θ_student‖ over the parameters."
    return Section("Teacher-student distance", text, plot(figures.coupling(run), plots / "coupling.png", caption))


def _classes(run: RunFiles) -> Section:
    lines, place = judged(run)
    order = {score.network: rank for rank, score in enumerate(run.scores)}
    columns = {line["network"]: line for line in sorted(lines, key=lambda line: order[line["network"]])}
    if not columns:
        return Section("Classes")
    caption = f"IoU in percent, {place}. A dash: the class is neither in the masks nor in the predictions."
    return Section("Classes", blocks=[class_table(columns, caption)])


def _confusion(run: RunFiles, plots: Path) -> Section:
    """The matrix as a table that a phone can scroll, or as a picture where it would be too large; both are saved."""
    if run.confusion is None:
        return Section("Confusion")
    where = f"{run.confusion.get('network', '')} on {run.confusion.get('split', '')}".strip()
    text = f"Which classes are taken for which: {where}, best checkpoint. Each row adds up to 100 %."
    picture = plot(confusion.figure(run.confusion), plots / "confusion.png", "Rows: true class.", at_least=600)
    table, worst = confusion.heat_table(run.confusion), confusion.taken_for(run.confusion)
    blocks: list[Block] = [table] if table else [*picture]
    return Section("Confusion", text, [*([worst] if worst else []), *blocks])


def _skipped(run: RunFiles) -> Section:
    rows = [[Cell(str(line["skipped"])), Cell(str(line.get("reason", "")))] for line in run.skipped]
    return Section("Skipped images", blocks=[Table(["unlabeled image", "why"], rows)] if rows else [], folded=True)


def _settings(run: RunFiles) -> Section:
    rows = [[Cell(key), Cell("–" if value is None else in_words(value))] for key, value in run.config.items()]
    return Section("Configuration", blocks=[Table(["option", "value"], rows)] if rows else [], folded=True)


def _environment(run: RunFiles) -> Section:
    rows = [[Cell(key), Cell(in_words(value))] for key, value in run.environment.items()]
    return Section("Environment", blocks=[Table(["", ""], rows)] if rows else [], folded=True)


def _highest(score: Score) -> Cell:
    if score.highest is None:
        return number(None)
    return Cell(f"{score.highest:.1f} ({score.highest_step})", number=True)


def in_words(value: Any) -> str:
    """Return a value of YAML or JSON as one line to read."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {in_words(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(in_words(item) for item in value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
