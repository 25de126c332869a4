"""Build HTML pages from sections of text, tables and pictures; a page is one file without external resources."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import PIL.Image
from matplotlib.figure import Figure

from semiseg.errors import os_error
from semiseg.training.checkpoint import write_atomically

DPI = 120
PHOTO_WIDTH = 1600  # pixels; wider pictures are scaled down
PAGE_WIDTH = 960  # pixels of the page on a large screen
TEMPLATE = Path(__file__).with_name("report.html.jinja")


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: Its text.
        number: Whether it is a number, which is aligned right.
        percent: Length of a bar behind the text, in percent of the cell's width.
        shade: Depth of the cell's color, in percent.
    """

    text: str
    number: bool = False
    percent: float | None = None
    shade: float | None = None


@dataclass(frozen=True)
class Table:
    """A table with a caption below; ``vertical_head`` turns the column heads by 90 degrees to save width."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    vertical_head: bool = False
    kind: str = "table"


@dataclass(frozen=True)
class Picture:
    """A picture with a caption.

    Attributes:
        uri: The picture as a data URI.
        caption: Text below the picture.
        alt: Alternative text; the caption if empty.
        min_width: Width in pixels below which the picture scrolls instead of shrinking.
    """

    uri: str
    caption: str
    alt: str = ""
    min_width: int = 0
    kind: str = "picture"


@dataclass(frozen=True)
class Strip:
    """A row of pictures under a title; a row wider than the page scrolls."""

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
    """A section with a heading; a ``collapsed`` one shows its content on a click."""

    title: str
    text: str = ""
    blocks: Sequence[Block] = ()
    collapsed: bool = False


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: The title.
        summary: One or two sentences.
        tiles: Key figures: label, value, remark.
        findings: Whether it is a warning, sentence, advice.
        sections: The sections.
        footer: Last line.
    """

    title: str
    summary: str
    tiles: Sequence[tuple[str, str, str]] = ()
    findings: Sequence[tuple[bool, str, str]] = ()
    sections: Sequence[Section] = field(default_factory=tuple)
    footer: str = "Written by semiseg from the run's files. IoU and mIoU are in percent."


def render(page: Page) -> str:
    """Return the page as HTML; all text is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(page=page)


def number(value: float | None, digits: int = 1, bar: bool = False) -> Cell:
    """Return a number as a cell, or a dash for None; ``bar`` adds a bar of that many percent."""
    if value is None:
        return Cell("–", number=True)
    return Cell(f"{value:.{digits}f}", number=True, percent=min(max(value, 0.0), 100.0) if bar else None)


def plot(figure: Figure | None, path: Path, caption: str, min_width: int = 0) -> list[Picture]:
    """Save a figure as PNG and return it as a list of one picture; return an empty list for None."""
    if figure is None:
        return []
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    write(path, buffer.getvalue())
    return [Picture(_uri("png", buffer.getvalue()), caption, min_width=min_width)]


def photo(
    source: Path | PIL.Image.Image, caption: str, limit: int = 300_000, alt: str = "", min_width: int = 0
) -> Picture:
    """Return a picture of at most ``limit`` bytes: a small PNG file as it is, anything else as a scaled JPEG.

    Raises:
        Exception: One of ``semiseg.data.files.image_header.UNREADABLE`` if the file cannot be read.
    """
    picture = (PIL.Image.open(source) if isinstance(source, Path) else source).convert("RGB")
    if isinstance(source, Path) and source.suffix == ".png" and source.stat().st_size <= limit:
        return Picture(_uri("png", source.read_bytes()), caption, alt, min_width)
    picture.thumbnail((PHOTO_WIDTH, 4 * PHOTO_WIDTH))
    while True:
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=88, optimize=True)
        if buffer.tell() <= limit or min(picture.size) < 64:
            return Picture(_uri("jpeg", buffer.getvalue()), caption, alt, min_width)
        picture = picture.resize((picture.width * 4 // 5, picture.height * 4 // 5), PIL.Image.Resampling.LANCZOS)


def write(path: Path, content: bytes, option: str = "--out") -> None:
    """Write a file atomically and create its directory if needed; ``option`` is the one that named the path.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise os_error(error, "cannot be written", path, f"choose another {option}") from None


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
