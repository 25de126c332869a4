"""The page: sections of text, tables and pictures, written as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import PIL.Image
from matplotlib.figure import Figure

from semiseg.errors import UserError

DPI = 120
PHOTO_WIDTH = 1600  # pixels; wider pictures are made smaller for the page
WIDE = 960  # pixels to which a picture of many columns may shrink, the width of the page on a large screen
TEMPLATE = Path(__file__).with_name("report.html.jinja")


@dataclass(frozen=True)
class Cell:
    """A cell of a table: text, perhaps a number (right-aligned).

    Perhaps with a bar of ``percent`` behind it, or all of it in a color as deep as ``shade``, in percent.
    """

    text: str
    number: bool = False
    percent: float | None = None
    shade: float | None = None


@dataclass(frozen=True)
class Table:
    """A table: column heads, rows of cells, and a caption below; ``turned`` heads read upward and take little room."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    turned: bool = False
    kind: str = "table"


@dataclass(frozen=True)
class Picture:
    """A picture embedded as a data URI, with a caption.

    Attributes:
        uri: the picture.
        caption: what stands below it.
        alt: what it shows, for those who cannot see it; the caption where empty.
        at_least: pixels of the page below which it does not shrink, but scrolls in a box of its own.
    """

    uri: str
    caption: str
    alt: str = ""
    at_least: int = 0
    kind: str = "picture"


@dataclass(frozen=True)
class Strip:
    """Pictures side by side under a title, in one row that scrolls where it is longer than the page is wide."""

    title: str
    pictures: Sequence[Picture]
    kind: str = "strip"


@dataclass(frozen=True)
class Legend:
    """Names and their colors."""

    entries: Sequence[tuple[str, tuple[int, int, int]]]
    kind: str = "legend"


Block = Table | Picture | Strip | Legend


@dataclass(frozen=True)
class Section:
    """A headed part of the page; ``folded`` ones open at a click."""

    title: str
    text: str = ""
    blocks: Sequence[Block] = ()
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """A page: title, summary of a sentence or two, tiles (label, value, remark), findings, sections, where it is from.

    Findings are (whether to worry, sentence, what to try).
    """

    title: str
    summary: str
    tiles: Sequence[tuple[str, str, str]] = ()
    findings: Sequence[tuple[bool, str, str]] = ()
    sections: Sequence[Section] = field(default_factory=tuple)
    footer: str = "Written by semiseg from the run's own files. IoU and mIoU in percent."


def render(page: Page) -> str:
    """Return the page as HTML; every text in it is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(page=page)


def number(value: float | None, digits: int = 1, bar: bool = False) -> Cell:
    """Return a number as a cell, a dash where there is none; ``bar`` draws it as a share of 100."""
    if value is None:
        return Cell("–", number=True)
    return Cell(f"{value:.{digits}f}", number=True, percent=min(max(value, 0.0), 100.0) if bar else None)


def plot(figure: Figure | None, path: Path, caption: str, at_least: int = 0) -> list[Picture]:
    """Save a figure as PNG and return it as a picture of the page; nothing where there is no figure."""
    if figure is None:
        return []
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    write(path, buffer.getvalue())
    return [Picture(_uri("png", buffer.getvalue()), caption, at_least=at_least)]


def photo(
    source: Path | PIL.Image.Image, caption: str, limit: int = 300_000, alt: str = "", at_least: int = 0
) -> Picture:
    """Return a picture for the page of at most ``limit`` bytes: a PNG that is small as it is, or else as JPEG.

    What is too large is made smaller; raises what Pillow raises where the source cannot be read.
    """
    picture = (PIL.Image.open(source) if isinstance(source, Path) else source).convert("RGB")
    if isinstance(source, Path) and source.suffix == ".png" and source.stat().st_size <= limit:
        return Picture(_uri("png", source.read_bytes()), caption, alt, at_least)
    picture.thumbnail((PHOTO_WIDTH, 4 * PHOTO_WIDTH))
    while True:
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=88, optimize=True)
        if buffer.tell() <= limit or min(picture.size) < 64:
            return Picture(_uri("jpeg", buffer.getvalue()), caption, alt, at_least)
        picture = picture.resize((picture.width * 4 // 5, picture.height * 4 // 5), PIL.Image.Resampling.LANCZOS)


def write(path: Path, content: bytes, option: str = "--out") -> None:
    """Write a file so that it appears whole or not at all, its folder made where missing; ``option`` named the place.

    Raises:
        UserError: the place cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        os.replace(draft, path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror}): choose another place by {option}") from None


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
