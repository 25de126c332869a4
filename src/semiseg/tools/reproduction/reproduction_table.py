"""The table of a reproduction: published figures, ours, and the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from semiseg.tools.comparison.published_figures import DUAL_TEACHER_TABLE
from semiseg.tools.comparison.seed_statistics import summarize
from semiseg.tools.reproduction.published_tables import PublishedTable
from semiseg.tools.reproduction.reproduction_plan import DONE, PlannedRun

Row = dict[str, Any]
TABLE_1 = ("supervised", "pseudoseg", "pc2seg", "augseg", "unimatch", "dual-teacher")
"""Rows of Dual Teacher's Table 1, in its order."""


def make_rows(
    table: PublishedTable, runs: Sequence[PlannedRun], results: Mapping[tuple[str, str, int], Mapping[str, Any]]
) -> list[Row]:
    """Return a row for each configuration and partition.

    Args:
        table: The table.
        runs: Its runs.
        results: Results of the finished runs, from ``read_results``.

    Returns:
        Rows with ``config, method, network, evaluated, labeled, labeled_images, existing_images, steps, step_s, hours``
        (of all seeds; None: not measured), ``published, source`` (None: no figure is known), ``miou`` (percent, mean of
        the finished seeds), ``each`` by seed, ``difference``, ``state`` and ``reason``.
    """
    groups: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault((run.entry.name, run.cell.labeled), []).append(run)
    return [_row(table, group, results) for group in groups.values()]


def _row(
    table: PublishedTable, runs: Sequence[PlannedRun], results: Mapping[tuple[str, str, int], Mapping[str, Any]]
) -> Row:
    first, entry = runs[0].cell, runs[0].entry
    each = {}
    for run in runs:
        result = results.get((run.cell.name, run.cell.labeled, run.cell.seed))
        if result is not None and (miou := result["best"]["networks"][entry.network]["miou"]) is not None:
            each[run.cell.seed] = miou
    ours, known = summarize(each), runs[0].expected
    hours = [run.hours for run in runs]
    unfinished = [run for run in runs if run.state != DONE]
    return {
        **{"config": entry.name, "method": entry.method},
        **{"network": f"{entry.config.architecture} over {entry.encoder}", "evaluated": entry.network},
        **{"labeled": first.labeled, "labeled_images": table.partitions[first.labeled]},
        **{"existing_images": first.labeled_images, "split": first.split, "steps": first.total_steps},
        **{"step_s": runs[0].step_s, "hours": None if None in hours else sum(h for h in hours if h is not None)},
        **{"published": known.miou if known else None, "source": known.source if known else None},
        **{"miou": ours["mean"] if ours else None, "each": each},
        "difference": ours["mean"] - known.miou if ours and known else None,
        "state": unfinished[0].state if unfinished else DONE,
        "reason": unfinished[0].reason if unfinished else "",
    }


def number(value: float | None, form: str = ".2f", missing: str = "") -> str:
    """Return a number as text, or ``missing`` for None."""
    return missing if value is None else f"{value:{form}}"


def to_markdown(content: Mapping[str, Any]) -> str:
    """Return the table of a reproduction as Markdown, with its conditions and the sources of the published figures."""
    rows = content["rows"]
    known = "published" if has_published_figures(rows) else "reference"
    heads = ("method", "network", "labels", known, "ours", "difference", "steps", "hours here", "state")
    lines = [list(heads), ["---"] * len(heads)]
    for row in rows:
        name = row["method"] if row["config"].startswith(row["method"]) else row["config"]
        name += " (513)" if row["config"].endswith("-513") else ""
        lines.append(
            [
                *(name, row["network"], _labels(row), number(row["published"], missing="none known")),
                *(number(row["miou"]), number(row["difference"], "+.2f"), str(row["steps"])),
                *(
                    number(row["hours"], ".2g" if (row["hours"] or 0) < 10 else ",.0f"),
                    row["state"] + (f": {row['reason']}" if row["reason"] else ""),
                ),
            ]
        )
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    sources: dict[str, dict[str, None]] = {}
    for row in rows:
        if row["source"]:
            sources.setdefault(row["source"], {})[f"{row['method']} ({row['network'].rpartition(' ')[2]})"] = None
    notes = [*conditions(content), *(f"Source of {', '.join(of)}: {source}." for source, of in sources.items())]
    return f"# {content['title']}\n\n{text}\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"


def has_published_figures(rows: Sequence[Row]) -> bool:
    """Return whether the known figures are published ones, and not semiseg's own."""
    return not any((row["source"] or "").startswith("semiseg") for row in rows)


def _labels(row: Row) -> str:
    images = str(row["labeled_images"])
    text = images if row["labeled"] == images else f"{row['labeled']} ({images})"
    return text if row["existing_images"] == row["labeled_images"] else f"{text}, {row['existing_images']} exist"


def conditions(content: Mapping[str, Any]) -> list[str]:
    """Return sentences on how the figures were computed."""
    notes = []
    if content["scaled_down"]:
        changed = ", ".join(f"{key.replace('_', '-')} {value}" for key, value in content["scaled_down"].items())
        notes.append(f"SCALED DOWN ({changed}): the differences say nothing about the methods.")
    if content["existing_only"]:
        notes.append("Only the existing images of the lists were used (--existing-only).")
    text = "mIoU in percent at the checkpoint that is best on val"
    if has_published_figures(content["rows"]):
        text += (
            ", of the network that is published (AugSeg, UniMatch V2, CutMix-Seg, U2PL, Gentle Teaching Assistant: the "
            "teacher). Published figures are the best of all epochs"
        )
    notes.append(f"{text}.")
    if content["device"]:
        notes.append(
            f"Hours: estimated from a step timed on one {content['device']} with random images, scaled by the number "
            "of pixels, without loading and validation."
        )
    return notes


def table_1(rows: Sequence[Row]) -> Row | None:
    """Return Dual Teacher's Table 1: each method with its published and our mIoU by number of labels.

    None if no row of the table belongs to it.
    """
    own = [row for row in rows if "resnet50" in row["network"] and row["config"].endswith(("resnet50", "resnet50s"))]
    labels = list(dict.fromkeys(row["labeled_images"] for row in own))
    found = {}
    for method in TABLE_1:
        cells = {row["labeled_images"]: row for row in own if row["method"] == method}
        if cells:
            figures = {"published": "published", "ours": "miou"}
            found[method] = {name: {n: row[key] for n, row in cells.items()} for name, key in figures.items()}
    return {"labels": labels, "source": DUAL_TEACHER_TABLE, "methods": found} if found else None


def table_1_markdown(table: Row, notes: Sequence[str]) -> str:
    """Return Table 1 as Markdown, with two rows for each method: published and ours."""
    lines = [["method", "", *map(str, table["labels"])], ["---"] * (2 + len(table["labels"]))]
    for method, figures in table["methods"].items():
        for name in ("published", "ours"):
            lines.append([method, name, *(number(figures[name].get(count)) for count in table["labels"])])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    head = f"# Table 1 of Dual Teacher: VOC 2012, ResNet-50\n\nPublished: {table['source']}.\n\n"
    return head + text + "\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"
