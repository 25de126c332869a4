"""A check as one HTML page that needs nothing else: the same as in words, with masks over their images."""

from __future__ import annotations

from pathlib import Path

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.preview_selection import evenly_spaced
from semiseg.errors import UserError, printable
from semiseg.tools.checking.check_text import facts, mark, remedies, verdict
from semiseg.tools.checking.examine import DataCheck, Material
from semiseg.tools.checking.finding import SEVERITIES
from semiseg.tools.checking.image_findings import Pair
from semiseg.tools.checking.list_findings import ROLES
from semiseg.tools.checking.mask_findings import MEASURED
from semiseg.tools.report.html_page import Cell, Page, Picture, Section, Table, photo, render, write
from semiseg.visualization.mask_pictures import grid, legend, overlay, resize_to_width, to_picture

SAMPLES, PAIRS = 8, 4
WIDTH = 400  # pixels of each picture
BYTES = 120_000  # of each photo: a page is well under 5 MB


def write_page(path: Path, checked: DataCheck, material: Material | None) -> None:
    """Write the page to a new file.

    Raises:
        UserError: it exists, or cannot be written.
    """
    sections = [
        _to_do(checked),
        *(_findings(checked, severity) for severity in SEVERITIES),
        _classes(checked),
        _samples(material),
        _pairs(material),
    ]
    page = Page(
        title=f"Check of {printable(checked.name)}",
        summary=f"{verdict(checked).capitalize()}.",
        tiles=[(name, value, "") for name, value in facts(checked).items()],
        sections=[section for section in sections if section.blocks],
        footer=f"Written by semiseg check {printable(checked.data)}. Findings bear the number of their remedy.",
    )
    content = render(page).encode()
    if path.exists():  # it may have come while the data were read
        raise UserError(f"{path} exists: nothing is overwritten: choose another --html")
    write(path, content, "--html")


def _to_do(checked: DataCheck) -> Section:
    steps = [*remedies(checked), *([checked.command] if checked.command else [])]
    rows = [[Cell(str(number), number=True), Cell(step)] for number, step in enumerate(steps, start=1)]
    return Section("What to do", blocks=[Table(["", ""], rows)] if rows else [])


def _findings(checked: DataCheck, severity: str) -> Section:
    rows = [[Cell(mark(checked, finding), number=True), Cell(finding.text)] for finding in checked.of(severity)]
    return Section(f"{severity.capitalize()}s", blocks=[Table(["", ""], rows)] if rows else [])


def _classes(checked: DataCheck) -> Section:
    most = max((one.share for one in checked.classes), default=0) or 1
    rows = [
        [
            Cell(str(value), number=True),
            Cell(printable(one.name)),
            Cell(f"{one.share:.2%}", number=True, percent=100 * one.share / most),
            *(Cell(str(one.images[role]), number=True) for role in MEASURED),
        ]
        for value, one in enumerate(checked.classes)
    ]
    head = ["", "class", "labeled pixels", *(f"{role} images" for role in MEASURED)]
    caption = "Share of the annotated pixels of labeled images, and how many masks of each list show the class."
    return Section("Classes", blocks=[Table(head, rows, caption)] if rows else [])


def _samples(material: Material | None) -> Section:
    """Show images of every list, spread evenly over it, beside themselves under their masks."""
    if material is None:
        return Section("Samples")
    dataset, pictures = material.dataset, []
    fine = {one.id for one in material.seen if not one.image_fault and not one.mask_fault}
    for role in ROLES:
        ids = [id for id in material.lists.ids(role) if id in fine]
        for id in evenly_spaced(ids, SAMPLES // len(ROLES)):
            pictures.append(_sample(dataset, id, f"{_name(dataset, id)} ({role})"))
    if not pictures:
        return Section("Samples")
    names = [printable(name) for name in dataset.classes]
    colors = photo(legend(names, dataset.palette, 2 * WIDTH), "The colors of the classes.")
    return Section("Samples", "Images, and their masks laid over them.", [*pictures, colors])


def _sample(dataset: SegmentationDataset, id: str, caption: str) -> Picture:
    image = dataset.read_image(id)
    columns, row = ["image"], [resize_to_width(to_picture(image), WIDTH, smooth=True)]
    if dataset.has_mask(id):
        tinted = overlay(image, dataset.read_mask(id), dataset.palette)
        columns, row = ["image", "mask"], [*row, tinted.resize(row[0].size)]
    return photo(grid(columns, [row]), caption, BYTES)


def _pairs(material: Material | None) -> Section:
    """Show the pairs that look most alike, so that a person may judge."""
    shown: dict[frozenset[str], Pair] = {}
    for pair in material.pairs if material else ():
        shown.setdefault(frozenset((pair.one, pair.other)), pair)
    if material is None or not shown:
        return Section("Look-alikes")
    dataset, pictures = material.dataset, []
    for pair in list(shown.values())[:PAIRS]:
        images = [to_picture(dataset.read_image(id)) for id in (pair.one, pair.other)]
        row = [resize_to_width(image, WIDTH, smooth=True) for image in images]
        names = " and ".join(f"{_name(dataset, id)}" for id in (pair.one, pair.other))
        pictures.append(photo(grid([pair.role, pair.other_role], [row]), names, BYTES))
    return Section("Look-alikes", "The pairs that look most alike.", pictures)


def _name(dataset: SegmentationDataset, id: str) -> str:
    path = dataset.image_path(id)
    return printable(path.name if path else id)
