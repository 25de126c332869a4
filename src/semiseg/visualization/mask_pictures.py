"""Pictures of masks: in color, over the image, as indexed PNG, in rows with captions and a legend."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from semiseg.data.dataset import IGNORE, Color

IGNORE_COLOR: Color = (232, 232, 232)
BACKGROUND = ("background", "bg")  # names of a class 0 that overlays leave clear, in lower case
GAP = 6  # pixels between pictures
CAPTION = 15  # font size in pixels
Picture = PIL.Image.Image


def palette_table(palette: Sequence[Color]) -> np.ndarray:
    """Return the colors of mask values 0 to 255, uint8 ``(256, 3)``; values that are not classes are light gray."""
    table = np.full((IGNORE + 1, 3), IGNORE_COLOR, dtype=np.uint8)
    table[: len(palette)] = np.asarray(palette, dtype=np.uint8).reshape(-1, 3)
    return table


def colorize(mask: Tensor, palette: Sequence[Color]) -> Picture:
    """Return the mask, integers ``(H, W)`` in [0, 255], as an RGB picture; 255 is light gray."""
    return PIL.Image.fromarray(palette_table(palette)[_labels(mask)])


def overlay(
    image: Tensor, mask: Tensor, palette: Sequence[Color], opacity: float = 0.5, classes: Sequence[str] = ()
) -> Picture:
    """Return the image, uint8 ``(3, H, W)``, blended with the colors of the mask, integers ``(H, W)``.

    Pixels with mask value 255 stay unchanged, and those of a class 0 that is called background in ``classes``.
    """
    labels, pixels = _labels(mask), _pixels(image)
    blend = pixels * (1 - opacity) + palette_table(palette)[labels] * opacity
    clear = labels == IGNORE
    if classes and classes[0].strip("_ ").casefold() in BACKGROUND:
        clear |= labels == 0
    return PIL.Image.fromarray(np.where(clear[..., None], pixels, blend.round()).astype(np.uint8))


def indexed_picture(mask: Tensor, palette: Sequence[Color]) -> Picture:
    """Return the mask, integers ``(H, W)`` in [0, 255], as an indexed picture: pixel values are classes."""
    picture = PIL.Image.fromarray(_labels(mask))
    picture.putpalette(palette_table(palette).flatten().tolist())  # turns the gray picture into an indexed one
    return picture


def save_indexed_png(mask: Tensor, palette: Sequence[Color], path: Path) -> None:
    """Write the mask, integers ``(H, W)`` in [0, 255], atomically as an indexed PNG."""
    save_picture(indexed_picture(mask, palette), path)


def save_picture(picture: Picture, path: Path, texts: Mapping[str, str] | None = None) -> None:
    """Write a PNG atomically and create its directory if needed; ``texts`` become text chunks of the file."""
    info = PngInfo()
    for key, value in (texts or {}).items():
        info.add_text(key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{abs(hash(path.name))}.tmp")  # short: the name may have maximal length
    try:
        picture.save(temporary, format="PNG", pnginfo=info)  # optimize=True takes 7 times as long and saves 5 %
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def to_picture(image: Tensor) -> Picture:
    """Return the image, uint8 ``(3, H, W)``, as a picture."""
    return PIL.Image.fromarray(_pixels(image))


def resize_to_width(picture: Picture, width: int, smooth: bool = False) -> Picture:
    """Resize a picture to a width in pixels, keeping its aspect ratio.

    ``smooth`` is for photos. Masks need nearest neighbor: blending two classes would show a third one.
    """
    size = (width, max(1, round(picture.height * width / picture.width)))
    return picture.resize(size, PIL.Image.Resampling.LANCZOS if smooth else PIL.Image.Resampling.NEAREST)


def sample_picture(
    image: Tensor,
    masks: Mapping[str, Tensor],
    palette: Sequence[Color],
    classes: Sequence[str] = (),
    cell_width: int = 320,
) -> Picture:
    """Return one row: the image, uint8 ``(3, H, W)``, and every mask, integers ``(H, W)``, each under its name.

    If class names are given, a legend of their colors follows below.
    """
    row = [resize_to_width(to_picture(image), cell_width, smooth=True)]
    row += [resize_to_width(colorize(mask, palette), cell_width) for mask in masks.values()]
    picture = grid(["image", *masks], [row])
    return stack([picture, legend(classes, palette, picture.width)]) if classes else picture


def grid(columns: Sequence[str], rows: Sequence[Sequence[Picture]]) -> Picture:
    """Return pictures in rows under the captions of their columns."""
    widths = [max(row[column].width for row in rows) for column in range(len(columns))]
    heights = [max(picture.height for picture in row) for row in rows]
    head = CAPTION + 2 * GAP
    size = (sum(widths) + GAP * (len(widths) + 1), head + sum(heights) + GAP * len(heights))
    canvas = PIL.Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    left = GAP
    for column, name in enumerate(columns):
        draw.text((left + 1, GAP), _shortened(name, widths[column]), fill="black", font=caption_font())
        top = head
        for row, row_height in zip(rows, heights, strict=True):
            canvas.paste(row[column], (left, top))
            top += row_height + GAP
        left += widths[column] + GAP
    return canvas


def stack(pictures: Sequence[Picture]) -> Picture:
    """Return pictures below each other."""
    size = max(picture.width for picture in pictures), sum(picture.height for picture in pictures)
    canvas = PIL.Image.new("RGB", size, "white")
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas


def legend(classes: Sequence[str], palette: Sequence[Color], width: int) -> Picture:
    """Return a picture ``width`` pixels wide with a colored box and a name for each class and for ignored pixels."""
    line, left, top = CAPTION + GAP, GAP, GAP
    boxes: list[tuple[int, int, str, Color]] = []
    for name, color in [*zip(classes, palette, strict=True), ("ignored", IGNORE_COLOR)]:
        needed = int(caption_font().getlength(name)) + CAPTION + 3 * GAP
        if left + needed > width and left > GAP:
            left, top = GAP, top + line
        boxes.append((left, top, name, (color[0], color[1], color[2])))
        left += needed
    picture = PIL.Image.new("RGB", (width, top + line), "white")
    draw = ImageDraw.Draw(picture)
    for left, top, name, color in boxes:
        draw.rectangle((left, top + 1, left + CAPTION - 1, top + CAPTION), fill=color, outline="black")
        draw.text((left + CAPTION + GAP, top), name, fill="black", font=caption_font())
    return picture


@lru_cache
def caption_font() -> ImageFont.FreeTypeFont:
    """Return the font of captions: DejaVu Sans, which comes with matplotlib and has Latin, Greek and Cyrillic."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", CAPTION)


def _labels(mask: Tensor) -> np.ndarray:
    """Return the mask as uint8 ``(H, W)`` on the CPU."""
    return np.ascontiguousarray(mask.detach().cpu().numpy().astype(np.uint8))


def _pixels(image: Tensor) -> np.ndarray:
    """Return the image, uint8 ``(channels, H, W)``, as ``(H, W, 3)`` on the CPU.

    Of more than three channels, the first three are shown as RGB; of fewer, the first one in gray.
    """
    shown = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    return np.ascontiguousarray(shown.detach().cpu().permute(1, 2, 0).numpy())


def _shortened(text: str, width: int) -> str:
    """Return the text, shortened so that it fits into ``width`` pixels."""
    if caption_font().getlength(text) <= width:
        return text
    while text and caption_font().getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
