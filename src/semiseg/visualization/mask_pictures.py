"""Masks as pictures: in color, over the image, as indexed PNG, side by side with captions."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from semiseg.data.dataset import IGNORE, Color, SegmentationDataset, read_sample
from semiseg.data.preview_selection import evenly_spaced
from semiseg.errors import UserError

IGNORE_COLOR: Color = (232, 232, 232)
GAP = 6
CAPTION = 15  # font size in pixels
Picture = PIL.Image.Image


@dataclass(frozen=True)
class LoadedRun:
    """A run that can predict.

    Attributes:
        name: what to call it, its method's name as a rule.
        predict: image uint8 ``(3, H, W)`` to mask, integers ``(H, W)``, by the default network's best checkpoint.
        dataset: the run's images and masks.
        ids: images that the run may be judged on: test, or else val.
        classes: class names.
        palette: one RGB color per class.
        config: the run's configuration.
    """

    name: str
    predict: Callable[[Tensor], Tensor]
    dataset: SegmentationDataset
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    config: Mapping[str, Any]


def palette_table(palette: Sequence[Color]) -> np.ndarray:
    """Return the colors of mask values 0 to 255, uint8 ``(256, 3)``; what is no class is light gray."""
    table = np.full((IGNORE + 1, 3), IGNORE_COLOR, dtype=np.uint8)
    table[: len(palette)] = np.asarray(palette, dtype=np.uint8).reshape(-1, 3)
    return table


def colorize(mask: Tensor, palette: Sequence[Color]) -> Picture:
    """Return the mask, integers ``(H, W)`` in [0, 255], as an RGB picture; 255 is light gray."""
    return PIL.Image.fromarray(palette_table(palette)[_labels(mask)])


def overlay(image: Tensor, mask: Tensor, palette: Sequence[Color], opacity: float = 0.5) -> Picture:
    """Return the image, uint8 ``(3, H, W)``, tinted by the mask, integers ``(H, W)``; 255 leaves it as it is."""
    labels, pixels = _labels(mask), _pixels(image)
    blend = pixels * (1 - opacity) + palette_table(palette)[labels] * opacity
    return PIL.Image.fromarray(np.where((labels == IGNORE)[..., None], pixels, blend.round()).astype(np.uint8))


def save_indexed_png(mask: Tensor, palette: Sequence[Color], path: Path) -> None:
    """Write the mask, integers ``(H, W)`` in [0, 255], as a PNG whose values are classes and whose palette shows them.

    The file appears whole or not at all.
    """
    save_picture(indexed_picture(mask, palette), path)


def indexed_picture(mask: Tensor, palette: Sequence[Color]) -> Picture:
    """Return the mask, integers ``(H, W)`` in [0, 255], as a picture whose values are classes, with their palette."""
    picture = PIL.Image.fromarray(_labels(mask))
    picture.putpalette(palette_table(palette).flatten().tolist())  # turns the gray picture into an indexed one
    return picture


def save_picture(picture: Picture, path: Path, about: Mapping[str, str] | None = None) -> None:
    """Write a PNG so that it appears whole or not at all, its folder made where missing.

    ``about`` goes into the file as PNG's own texts, so that a picture says what it shows wherever it is moved.
    """
    texts = PngInfo()
    for key, value in (about or {}).items():
        texts.add_text(key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{os.getpid()}.{abs(hash(path.name))}.tmp")  # a name may be as long as names can be
    try:
        picture.save(draft, format="PNG", optimize=True, pnginfo=texts)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def sample_picture(
    image: Tensor,
    masks: Mapping[str, Tensor],
    palette: Sequence[Color],
    classes: Sequence[str] = (),
    cell_width: int = 320,
) -> Picture:
    """Return one row: the image, uint8 ``(3, H, W)``, and every mask, integers ``(H, W)``, each under its name.

    Class names, if given, are explained by their colors below.
    """
    columns = ["image", *masks]
    return grid(columns, [[resized(image, cell_width), *(_cell(m, palette, cell_width) for m in masks.values())]],
                legend(classes, palette, len(columns) * (cell_width + GAP) + GAP) if classes else None)  # fmt: skip


def comparison_picture(
    runs: Sequence[LoadedRun], names: Sequence[str], rows: int = 6, cell_width: int = 320
) -> tuple[Picture, list[str]]:
    """Return image | each run | ground truth for a few images, and their ids, spread evenly over the common list.

    Args:
        runs: at least one, all of the same classes; pictures show the first one's data.
        names: the columns' captions, one a run.
        rows: how many images.
        cell_width: width of each picture in pixels; heights follow.

    Raises:
        UserError: the class lists differ, or no image is in every run's list.
    """
    check_classes({name: run.classes for name, run in zip(names, runs, strict=True)})
    first = runs[0]
    common = [id for id in first.ids if first.dataset.has_mask(id) and all(id in run.ids for run in runs)]
    if not common:
        raise UserError(f"{', '.join(names)}: the runs have no val or test image in common to compare on")
    ids = list(evenly_spaced(common, rows))
    named = dict(zip(names, runs, strict=True))
    return grid(*predicted_rows(named, ids, cell_width), run_legend(named, cell_width)), ids


def predicted_rows(
    runs: Mapping[str, LoadedRun], ids: Sequence[str], cell_width: int = 320
) -> tuple[list[str], list[list[Picture]]]:
    """Return the captions and the rows of a grid: image | each run, by name | ground truth for images with masks."""
    first = next(iter(runs.values()))
    cells = []
    for id in ids:
        sample = read_sample(first.dataset, id)
        assert sample.mask is not None
        masks = [*(run.predict(sample.image) for run in runs.values()), sample.mask]
        cells.append([resized(sample.image, cell_width), *(_cell(mask, first.palette, cell_width) for mask in masks)])
    return ["image", *runs, "ground truth"], cells


def run_legend(runs: Mapping[str, LoadedRun], cell_width: int = 320) -> Picture:
    """Return the legend that goes below a grid of the runs."""
    first = next(iter(runs.values()))
    return legend(first.classes, first.palette, (len(runs) + 2) * (cell_width + GAP) + GAP)


def check_classes(classes: Mapping[str, Sequence[str]]) -> None:
    """Raise UserError where two runs have other classes than each other."""
    first, expected = next(iter(classes.items()), ("", ()))
    for name, found in classes.items():
        if tuple(found) != tuple(expected):
            raise UserError(
                f"{first} and {name} have different classes ({', '.join(expected)}; {', '.join(found)}): "
                "compare runs on the same classes"
            )


def grid(columns: Sequence[str], rows: Sequence[Sequence[Picture]], strip: Picture | None = None) -> Picture:
    """Return pictures in rows under the columns' captions, a strip below."""
    widths = [max(row[column].width for row in rows) for column in range(len(columns))]
    heights = [max(picture.height for picture in row) for row in rows]
    head = CAPTION + 2 * GAP
    width = sum(widths) + GAP * (len(widths) + 1)
    height = head + sum(heights) + GAP * len(heights) + (strip.height if strip else 0)
    canvas = PIL.Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    left = GAP
    for column, name in enumerate(columns):
        draw.text((left + 1, GAP), _shortened(name, widths[column]), fill="black", font=_font(CAPTION))
        top = head
        for row, row_height in zip(rows, heights, strict=True):
            canvas.paste(row[column], (left, top))
            top += row_height + GAP
        left += widths[column] + GAP
    if strip:
        canvas.paste(strip, (0, height - strip.height))
    return canvas


def legend(classes: Sequence[str], palette: Sequence[Color], width: int) -> Picture:
    """Return a strip of the given width in pixels: a colored box and a name for each class, and for ignored pixels."""
    entries = [*zip(classes, palette, strict=True), ("ignored", IGNORE_COLOR)]
    line, left, top = CAPTION + GAP, GAP, GAP
    places: list[tuple[int, int, str, Color]] = []
    for name, color in entries:
        needed = int(_font(CAPTION).getlength(name)) + CAPTION + 3 * GAP
        if left + needed > width and left > GAP:
            left, top = GAP, top + line
        places.append((left, top, name, (color[0], color[1], color[2])))
        left += needed
    strip = PIL.Image.new("RGB", (width, top + line), "white")
    draw = ImageDraw.Draw(strip)
    for left, top, name, color in places:
        draw.rectangle((left, top + 1, left + CAPTION - 1, top + CAPTION), fill=color, outline="black")
        draw.text((left + CAPTION + GAP, top), name, fill="black", font=_font(CAPTION))
    return strip


def _labels(mask: Tensor) -> np.ndarray:
    """Return the mask as uint8 ``(H, W)`` on the CPU."""
    return np.ascontiguousarray(mask.detach().cpu().numpy().astype(np.uint8))


def _pixels(image: Tensor) -> np.ndarray:
    """Return the image, uint8 ``(3, H, W)``, as ``(H, W, 3)`` on the CPU."""
    return np.ascontiguousarray(image.detach().cpu().permute(1, 2, 0).numpy())


def resized(image: Tensor, width: int) -> Picture:
    """Return the image, uint8 ``(3, H, W)``, as a picture of the given width in pixels."""
    picture = PIL.Image.fromarray(_pixels(image))
    size = (width, max(1, round(picture.height * width / picture.width)))
    return picture.resize(size, PIL.Image.Resampling.LANCZOS)


def _cell(mask: Tensor, palette: Sequence[Color], width: int) -> Picture:
    picture = colorize(mask, palette)  # nearest neighbor: a class between two others would be an invention
    return picture.resize((width, max(1, round(picture.height * width / picture.width))), PIL.Image.Resampling.NEAREST)


def _shortened(text: str, width: int) -> str:
    """Return as much of the text as fits into ``width`` pixels."""
    if _font(CAPTION).getlength(text) <= width:
        return text
    while text and _font(CAPTION).getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib: the same on every machine, Latin, Greek and Cyrillic."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def caption_font() -> ImageFont.FreeTypeFont:
    """Return the font of captions."""
    return _font(CAPTION)
