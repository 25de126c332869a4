"""Write the result of a check as one HTML page, with masks drawn over their images."""

from __future__ import annotations

from pathlib import Path

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.preview_selection import evenly_spaced
from semiseg.errors import UserError, printable
from semiseg.tools.checking.check_text import facts, remedies, remedy_number, verdict
from semiseg.tools.checking.data_check import CheckedSamples, DataCheck
from semiseg.tools.checking.finding import SEVERITIES
from semiseg.tools.checking.image_findings import Pair
from semiseg.tools.checking.list_findings import ROLES
from semiseg.tools.checking.mask_findings import MASK_ROLES
from semiseg.tools.report.html_page import Cell, Page, Picture, Section, Table, photo, render, write
from semiseg.visualization.mask_pictures import grid, legend, overlay, resize_to_width, to_picture

SAMPLES, PAIRS = 8, 4  # the maximum number of each on the page
WIDTH = 400  # pixels of each picture
PHOTO_BYTES = 120_000  # limit of each picture, which keeps the page well under 5 MB


def write_page(path: Path, result: DataCheck, samples: CheckedSamples | None) -> None:
    """Write the page to a new file.

    Raises:
        UserError: The file exists or cannot be written.
    """
    sections = [
        _remedies(result),
        *(_findings(result, severity) for severity in SEVERITIES),
        _classes(result),
        _samples(samples),
        _pairs(samples),
    ]
    page = Page(
        title=f"Check of {printable(result.name)}",
        summary=f"{verdict(result).capitalize()}.",
        tiles=[(name, value, "") for name, value in facts(result).items()],
        sections=[section for section in sections if section.blocks],
        footer=f"Written by semiseg check {printable(result.data)}. Numbers refer to the steps under What to do.",
    )
    content = render(page).encode()
    if path.exists():  # created while the data were read
        raise UserError("already exists", path=path, fix="choose another --html")
    write(path, content, "--html")


def _remedies(result: DataCheck) -> Section:
    steps = [*remedies(result), *([result.command] if result.command else [])]
    rows = [[Cell(str(number), number=True), Cell(step)] for number, step in enumerate(steps, start=1)]
    return Section("What to do", blocks=[Table(["", ""], rows)] if rows else [])


def _findings(result: DataCheck, severity: str) -> Section:
    found = result.with_severity(severity)
    rows = [[Cell(remedy_number(result, finding), number=True), Cell(finding.text)] for finding in found]
    return Section(f"{severity.capitalize()}s", blocks=[Table(["", ""], rows)] if rows else [])


def _classes(result: DataCheck) -> Section:
    largest = max((class_count.share for class_count in result.classes), default=0) or 1
    rows = [
        [
            Cell(str(value), number=True),
            Cell(printable(class_count.name)),
            Cell(f"{class_count.share:.2%}", number=True, percent=100 * class_count.share / largest),
            *(Cell(str(class_count.images[role]), number=True) for role in MASK_ROLES),
        ]
        for value, class_count in enumerate(result.classes)
    ]
    head = ["", "class", "labeled pixels", *(f"{role} images" for role in MASK_ROLES)]
    caption = "Share of the annotated pixels of labeled images, and the number of masks in each list with the class."
    return Section("Classes", blocks=[Table(head, rows, caption)] if rows else [])


def _samples(samples: CheckedSamples | None) -> Section:
    """Show evenly spaced images of each list next to their masks."""
    if samples is None:
        return Section("Samples")
    dataset, pictures = samples.dataset, []
    valid = {sample.id for sample in samples.scans if not sample.image_error and not sample.mask_error}
    for role in ROLES:
        ids = [id for id in samples.lists.ids(role) if id in valid]
        for id in evenly_spaced(ids, SAMPLES // len(ROLES)):
            pictures.append(_sample(dataset, id, f"{_name(dataset, id)} ({role})"))
    if not pictures:
        return Section("Samples")
    names = [printable(name) for name in dataset.classes]
    colors = photo(legend(names, dataset.palette, 2 * WIDTH), "The colors of the classes.")
    return Section("Samples", "Images, and their masks as overlays.", [*pictures, colors])


def _sample(dataset: SegmentationDataset, id: str, caption: str) -> Picture:
    image = dataset.read_image(id)
    columns, row = ["image"], [resize_to_width(to_picture(image), WIDTH, smooth=True)]
    if dataset.has_mask(id):
        overlaid = overlay(image, dataset.read_mask(id), dataset.palette, classes=dataset.classes)
        columns, row = ["image", "mask"], [*row, overlaid.resize(row[0].size)]
    return photo(grid(columns, [row]), caption, PHOTO_BYTES)


def _pairs(samples: CheckedSamples | None) -> Section:
    """Show the most similar near-duplicates, for the user to judge."""
    shown: dict[frozenset[str], Pair] = {}
    for pair in samples.pairs if samples else ():
        shown.setdefault(frozenset((pair.one, pair.other)), pair)
    if samples is None or not shown:
        return Section("Near-duplicates")
    dataset, pictures = samples.dataset, []
    for pair in list(shown.values())[:PAIRS]:
        images = [to_picture(dataset.read_image(id)) for id in (pair.one, pair.other)]
        row = [resize_to_width(image, WIDTH, smooth=True) for image in images]
        names = " and ".join(_name(dataset, id) for id in (pair.one, pair.other))
        pictures.append(photo(grid([pair.role, pair.other_role], [row]), names, PHOTO_BYTES))
    return Section("Near-duplicates", "The most similar pairs.", pictures)


def _name(dataset: SegmentationDataset, id: str) -> str:
    path = dataset.image_path(id)
    folder = id.rpartition("/")[:2]
    return printable("".join(folder) + path.name if path else id)
