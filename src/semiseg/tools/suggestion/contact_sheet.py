"""The contact sheet: the images to annotate next at a glance, each with its draft and where the model is unsure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import PIL.Image
from PIL import ImageDraw
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from semiseg.data.dataset import Color
from semiseg.visualization.mask_pictures import CAPTION, GAP, Picture, caption_font, legend, overlay, to_picture

WIDTH = 240  # of each picture in pixels
COLUMNS = 2  # suggestions side by side
LETTERS = 80  # of a caption, about as many as fit over three pictures
UNSURE = (255, 140, 0)


@dataclass(frozen=True)
class Entry:
    """One suggestion: its caption, and its three pictures."""

    caption: str
    pictures: tuple[Picture, ...]


def entry(caption: str, image: Tensor, mask: Tensor, confidence: Tensor, palette: Sequence[Color]) -> Entry:
    """Return image | draft over the image | the image, brighter the less sure the model is.

    Args:
        caption: rank and name.
        image: uint8 ``(3, H, W)``.
        mask: uint8 ``(H, W)``.
        confidence: float ``(H, W)`` in [0, 1].
        palette: a color a class.
    """
    height = min(2 * WIDTH, max(1, round(image.shape[1] * WIDTH / image.shape[2])))
    image = resize(image, [height, WIDTH], antialias=True)
    mask = resize(mask[None], [height, WIDTH], InterpolationMode.NEAREST)[0]
    confidence = resize(confidence[None], [height, WIDTH], antialias=True)[0]
    plain = to_picture(image)
    doubt = ((1 - confidence.cpu().clamp(0, 1)) * 255).round().byte()
    glow = PIL.Image.composite(
        PIL.Image.new("RGB", plain.size, UNSURE),
        plain.convert("L").convert("RGB"),
        PIL.Image.fromarray(doubt.contiguous().numpy()),
    )
    pictures = (plain, overlay(image, mask, palette), glow)
    line = " ".join(caption.split())[:LETTERS]
    return Entry(line, pictures)


def contact_sheet(entries: Sequence[Entry], classes: Sequence[str], palette: Sequence[Color]) -> Picture:
    """Return all entries, two in a row, each under its caption, and the legend."""
    cell = 3 * (WIDTH + 2) + 2 * GAP
    width = COLUMNS * cell
    rows = [entries[start : start + COLUMNS] for start in range(0, len(entries), COLUMNS)]
    heights = [max(entry.pictures[0].height for entry in row) + CAPTION + 3 * GAP for row in rows]
    strip = legend(classes, palette, width)
    canvas = PIL.Image.new("RGB", (width, sum(heights) + strip.height), "white")
    draw = ImageDraw.Draw(canvas)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, one in enumerate(row):
            left = column * cell + GAP
            draw.text((left, top + GAP), one.caption, fill="black", font=caption_font())
            for index, picture in enumerate(one.pictures):
                canvas.paste(picture, (left + index * (WIDTH + 2), top + CAPTION + 2 * GAP))
        top += height
    canvas.paste(strip, (0, top))
    return canvas
