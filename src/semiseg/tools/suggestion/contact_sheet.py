"""The contact sheet of suggestions: each image with its draft mask and the uncertainty of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import PIL.Image
from PIL import ImageDraw
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from semiseg.data.dataset import Color
from semiseg.visualization.mask_pictures import CAPTION, GAP, Picture, caption_font, legend, overlay, stack, to_picture

WIDTH = 240  # pixels of each picture
COLUMNS = 2  # suggestions in a row
CAPTION_LETTERS = 80  # about as many as fit above three pictures
UNCERTAIN = (255, 140, 0)


def panels(
    image: Tensor, mask: Tensor, confidence: Tensor, palette: Sequence[Color], classes: Sequence[str] = ()
) -> list[Picture]:
    """Return three pictures: the image, the image with the draft mask, and the gray image with uncertainty in orange.

    Args:
        image: uint8 ``(3, H, W)``.
        mask: uint8 ``(H, W)``.
        confidence: Float ``(H, W)`` in [0, 1].
        palette: One RGB color per class.
        classes: The class names.
    """
    height = min(2 * WIDTH, max(1, round(image.shape[1] * WIDTH / image.shape[2])))
    image = resize(image, [height, WIDTH], antialias=True)
    mask = resize(mask[None], [height, WIDTH], InterpolationMode.NEAREST)[0]
    confidence = resize(confidence[None], [height, WIDTH], antialias=True)[0]
    plain = to_picture(image)
    uncertainty = ((1 - confidence.cpu().clamp(0, 1)) * 255).round().byte()
    uncertain = PIL.Image.composite(
        PIL.Image.new("RGB", plain.size, UNCERTAIN),
        plain.convert("L").convert("RGB"),
        PIL.Image.fromarray(uncertainty.contiguous().numpy()),
    )
    return [plain, overlay(image, mask, palette, classes=classes), uncertain]


def contact_sheet(
    entries: Mapping[str, Sequence[Picture]], classes: Sequence[str], palette: Sequence[Color]
) -> Picture:
    """Return the ``panels`` of all suggestions under their captions, two suggestions in a row, and the legend."""
    cell_width = 3 * (WIDTH + 2) + 2 * GAP
    captions, rows = list(entries), []
    for start in range(0, len(captions), COLUMNS):
        row = captions[start : start + COLUMNS]
        height = max(entries[caption][0].height for caption in row) + CAPTION + 3 * GAP
        canvas = PIL.Image.new("RGB", (COLUMNS * cell_width, height), "white")
        for column, caption in enumerate(row):
            left = column * cell_width + GAP
            text = " ".join(caption.split())[:CAPTION_LETTERS]
            ImageDraw.Draw(canvas).text((left, GAP), text, fill="black", font=caption_font())
            for index, picture in enumerate(entries[caption]):
                canvas.paste(picture, (left + index * (WIDTH + 2), CAPTION + 2 * GAP))
        rows.append(canvas)
    return stack([*rows, legend(classes, palette, COLUMNS * cell_width)])
