"""The page that compares several runs, and its picture: image | each run | ground truth."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from semiseg.errors import UserError
from semiseg.tools.report import plots as figures
from semiseg.tools.report.html_page import WIDE, Cell, Page, Picture, Section, Table, photo, plot
from semiseg.tools.report.run_files import RunFiles
from semiseg.tools.report.run_report import class_table, in_words, judged, lists_in_words, score_rows
from semiseg.visualization.mask_pictures import LoadedRun, check_classes, comparison_picture, save_picture

log = logging.getLogger(__name__)
LoadRun = Callable[[Path], LoadedRun]


def comparison_page(files: Sequence[RunFiles], folder: Path, load_run: LoadRun | None) -> Page:
    """Build the page of several runs; write ``pictures.png`` and ``plots/`` into ``folder``.

    Raises:
        UserError: the runs have different classes.
    """
    runs = dict(zip(labels(files), files, strict=True))
    check_classes({name: run.classes for name, run in runs.items() if run.classes})
    plots = folder / "plots"
    curves = [
        *plot(figures.compared_miou(runs), plots / "compared-miou.png", "mIoU on val, default network of each run."),
        *plot(
            figures.compared_coupling(runs),
            plots / "compared-coupling.png",
            "Teacher-student distance: share of val pixels with different classes, and relative parameter distance.",
            at_least=min(240 * len(runs), WIDE),
        ),
    ]
    sections = [
        Section("Results", "mIoU in percent, default network of each run.", _results(runs)),
        _pictures(runs, folder, load_run),
        Section("Curves", blocks=curves),
        Section("Classes", blocks=_classes(runs)),
        Section("What differs", "Options that are not the same in all runs.", _differences(runs)),
    ]
    kept = [section for section in sections if section.blocks or section.title == "Pictures"]
    return Page(" · ".join(runs), _summary(runs), sections=kept)


def labels(files: Sequence[RunFiles]) -> list[str]:
    """Return one name a run: its method's, its directory's where the method is not alone, or else its path."""
    methods = Counter(run.method for run in files)
    names = [run.method if methods[run.method] == 1 else run.name for run in files]
    return names if len(set(names)) == len(names) else [str(run.path) for run in files]


def _summary(runs: Mapping[str, RunFiles]) -> str:
    figure = {name: run.scores[0].val for name, run in runs.items() if run.scores and run.scores[0].val is not None}
    place = "val"
    tested = {name: run.scores[0].test for name, run in runs.items() if run.scores and run.scores[0].test is not None}
    if len(tested) == len(runs):
        figure, place = tested, "test"
    if not figure:
        return "Nothing has been evaluated in these runs yet."
    return f"mIoU on {place}: " + ", ".join(f"{name} {value:.1f} %" for name, value in figure.items()) + "."


def _results(runs: Mapping[str, RunFiles]) -> list[Table]:
    """mIoU of each run; what is the same for all, or its name already, takes no column from the figures."""
    shown = {name: run for name, run in runs.items() if run.scores}
    lists = {name: lists_in_words(run) for name, run in shown.items()}
    about = {"method": {name: run.method for name, run in shown.items()}, "images": lists}
    if all(name == run.method for name, run in shown.items()):
        del about["method"]
    if len(set(lists.values())) == 1:
        del about["images"]
    heads = {name: [Cell(name), *(Cell(texts[name]) for texts in about.values())] for name in shown}
    rows = [(heads[name], run.scores[0]) for name, run in shown.items()]
    caption = "" if "images" in about else f"All with {next(iter(lists.values()), '')}."
    return [score_rows(rows, ["run", *about], caption)] if rows else []


def _classes(runs: Mapping[str, RunFiles]) -> list[Table]:
    """One table for each place (test, val) at which runs are judged: figures of two places do not stand together."""
    places: dict[str, dict[str, dict[str, object]]] = {}
    for name, run in runs.items():
        lines, place = judged(run)
        for line in lines:
            if line["network"] == run.default_network:
                places.setdefault(place, {})[name] = line
    return [class_table(columns, f"IoU in percent, {place}.") for place, columns in places.items()]


def _pictures(runs: Mapping[str, RunFiles], folder: Path, load_run: LoadRun | None) -> Section:
    if load_run is None:
        return Section("Pictures", "No pictures: the runs' networks were not loaded.")
    try:
        loaded = [load_run(run.path) for run in runs.values()]
    except UserError as error:
        log.warning("the report has no pictures: %s", error)
        return Section("Pictures", f"No pictures: {error}.")
    check_classes({name: run.classes for name, run in zip(runs, loaded, strict=True)})
    try:
        picture, ids = comparison_picture(loaded, list(runs))
    except UserError as error:
        log.warning("the report has no pictures: %s", error)
        return Section("Pictures", f"No pictures: {error}.")
    save_picture(picture, folder / "pictures.png")
    caption = (
        f"Image, each run, ground truth: {', '.join(ids)}. The images are spread evenly over the list, not chosen."
    )
    blocks: list[Picture] = [photo(picture, caption, limit=1_500_000, at_least=min(picture.width // 2, WIDE))]
    return Section("Pictures", "", blocks)


def _differences(runs: Mapping[str, RunFiles]) -> list[Table]:
    keys = list(dict.fromkeys(key for run in runs.values() for key in run.config))
    absent = "–"
    rows = []
    for key in keys:
        values = [in_words(run.config[key]) if key in run.config else absent for run in runs.values()]
        if len(set(values)) > 1:
            rows.append([Cell(key), *map(Cell, values)])
    return [Table(["option", *runs], rows, "A dash: the method has no such option.")] if rows else []
