"""Build the report page that compares several runs, and its picture: image | each run | ground truth."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import PIL.Image

from semiseg.errors import UserError
from semiseg.tools.report import plots
from semiseg.tools.report.comparable_runs import comparable_groups, describe_differences
from semiseg.tools.report.gain import gain_over_supervised, help_line, image_count, learns_from_unlabeled
from semiseg.tools.report.html_page import PAGE_WIDTH, Cell, Page, Picture, Section, Table, photo, plot
from semiseg.tools.report.run_files import RunFiles
from semiseg.tools.report.run_findings import small_lists
from semiseg.tools.report.run_page import class_table, list_sizes_text, result_lines, score_table, value_text
from semiseg.visualization.mask_pictures import save_picture
from semiseg.visualization.run_pictures import LoadedRun, comparison_picture

log = logging.getLogger(__name__)
LoadRun = Callable[[Path], LoadedRun]


def multi_run_page(files: Sequence[RunFiles], folder: Path, load_run: LoadRun | None) -> Page:
    """Build the page of several runs; write ``pictures.png`` and ``plots/`` to ``folder``.

    Runs with other classes or other val or test images get tables and plots of their own, and a note.
    """
    runs = dict(zip(run_names(files), files, strict=True))
    groups = comparable_groups(runs)
    note = describe_differences(groups)
    if note:
        log.warning("%s", note)
    sections = [
        Section(_title("Results", group, groups), "mIoU in percent, default network of each run.", _results(group))
        for group in groups
    ]
    sections.append(_pictures(runs, folder, load_run))
    for number, group in enumerate(groups):
        plots_of_group = folder / "plots" / f"group-{number + 1}" if note else folder / "plots"
        sections.append(Section(_title("Curves", group, groups), blocks=compared_curves(group, plots_of_group)))
    sections += [Section(_title("Classes", group, groups), blocks=_classes(group)) for group in groups]
    sections.append(Section("Differences", "Options that differ between the runs.", _differences(runs)))
    kept = [section for section in sections if section.blocks or section.title == "Pictures"]
    summary = " ".join(filter(None, [note, *map(_summary, groups)]))
    found = {finding: None for run in files for finding in small_lists({"val": image_count(run, "val")})}
    return Page(" · ".join(runs), summary, findings=list(found), sections=kept)


def _title(title: str, group: Mapping[str, RunFiles], groups: Sequence[Mapping[str, RunFiles]]) -> str:
    """Return the title of a section about one group of runs."""
    return title if len(groups) == 1 else f"{title}: {', '.join(group)}"


def run_names(files: Sequence[RunFiles]) -> list[str]:
    """Return a unique name per run: its method if no other run has it, else its directory's name, else its path."""
    methods = Counter(run.method for run in files)
    names = [run.method if methods[run.method] == 1 else run.name for run in files]
    return names if len(set(names)) == len(names) else [str(run.path) for run in files]


def compared_curves(runs: Mapping[str, RunFiles], plot_folder: Path) -> list[Picture]:
    """Plot mIoU on val and the teacher-student distances of several runs."""
    return [
        *plot(
            plots.compared_miou(runs), plot_folder / "compared-miou.png", "mIoU on val, default network of each run."
        ),
        *plot(
            plots.compared_coupling(runs),
            plot_folder / "compared-coupling.png",
            "Teacher-student distance: share of val pixels with different classes, and relative parameter distance.",
            min_width=min(240 * len(runs), PAGE_WIDTH),
        ),
    ]


def embedded_pictures(picture: PIL.Image.Image, caption: str, folder: Path) -> Picture:
    """Save the picture that compares runs as ``pictures.png`` and return it for the page."""
    save_picture(picture, folder / "pictures.png")
    return photo(picture, caption, limit=1_500_000, min_width=min(picture.width // 2, PAGE_WIDTH))


def _summary(runs: Mapping[str, RunFiles]) -> str:
    val = {name: run.scores[0].val for name, run in runs.items() if run.scores and run.scores[0].val is not None}
    test = {name: run.scores[0].test for name, run in runs.items() if run.scores and run.scores[0].test is not None}
    values, split = (test, "test") if len(test) == len(runs) else (val, "val")
    if not values:
        return "These runs have not been evaluated yet."
    helped = [help_line(run) for run in runs.values() if learns_from_unlabeled(run) and gain_over_supervised(run)]
    first = f"{helped[0]} " if helped else ""
    return f"{first}mIoU on {split}: " + ", ".join(f"{name} {value:.1f} %" for name, value in values.items()) + "."


def _results(runs: Mapping[str, RunFiles]) -> list[Table]:
    """Return the table of mIoU; columns that are the same for all runs or repeat the run's name are left out."""
    shown = {name: run for name, run in runs.items() if run.scores}
    lists = {name: list_sizes_text(run) for name, run in shown.items()}
    columns = {"method": {name: run.method for name, run in shown.items()}, "images": lists}
    if all(name == run.method for name, run in shown.items()):
        del columns["method"]
    if len(set(lists.values())) == 1:
        del columns["images"]
    rows = [
        ([Cell(name), *(Cell(texts[name]) for texts in columns.values())], run.scores[0]) for name, run in shown.items()
    ]
    caption = "" if "images" in columns else f"All with {next(iter(lists.values()), '')}."
    return [score_table(rows, ["run", *columns], caption)] if rows else []


def _classes(runs: Mapping[str, RunFiles]) -> list[Table]:
    """Return one table of IoU by class for each kind of evaluation: test and val are not mixed in one table."""
    tables: dict[str, dict[str, dict[str, object]]] = {}
    for name, run in runs.items():
        lines, evaluation = result_lines(run)
        for line in lines:
            if line["network"] == run.default_network:
                tables.setdefault(evaluation, {})[name] = line
    return [class_table(columns, f"IoU in percent, {evaluation}.") for evaluation, columns in tables.items()]


def _pictures(runs: Mapping[str, RunFiles], folder: Path, load_run: LoadRun | None) -> Section:
    if load_run is None:
        return Section("Pictures", "No pictures: the networks of the runs were not loaded.")
    loaded, missing = dict[str, LoadedRun](), dict[str, UserError]()
    for name, run in runs.items():
        try:
            loaded[name] = load_run(run.path)
        except UserError as error:
            missing[name] = error
    if not loaded:
        return _no_pictures(next(iter(missing.values())))
    try:
        picture, ids = comparison_picture(loaded)
    except UserError as error:
        return _no_pictures(error)
    for name, reason in missing.items():
        log.warning("The report has no pictures of %s: %s", name, reason)
    without = " ".join(f"Without {name}: {reason}" for name, reason in missing.items())
    caption = f"Image, each run, ground truth: {', '.join(ids)}. The images are evenly spaced in the list."
    return Section("Pictures", without, [embedded_pictures(picture, caption, folder)])


def _no_pictures(error: UserError) -> Section:
    log.warning("The report has no pictures: %s", error)
    return Section("Pictures", f"No pictures: {error}")


def _differences(runs: Mapping[str, RunFiles]) -> list[Table]:
    rows = []
    for key in dict.fromkeys(key for run in runs.values() for key in run.config):
        values = [value_text(run.config.get(key)) for run in runs.values()]
        if len(set(values)) > 1:
            rows.append([Cell(key), *map(Cell, values)])
    return [Table(["option", *runs], rows, "A dash: the method does not have the option.")] if rows else []
