"""Read and write image files."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from semiseg.data.dataset import Decoded
from semiseg.data.files.image_header import UNREADABLE, open_image, unreadable_error

# EXIF orientations. (PIL's exif_transpose also rewrites the EXIF data, which fails on malformed tags.)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def image_size(path: Path) -> tuple[int, int]:
    """Return the width and height of an upright image, reading only the header.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        with open_image(path) as opened:
            turned = _orientation(opened) >= 5  # orientations 5 to 8 swap the sides
            width, height = opened.size
    except UNREADABLE as error:
        raise unreadable_error("image", str(path), error) from error
    return (height, width) if turned else (width, height)


def read_image_file(path: str | Path) -> Tensor:
    """Read an image of any mode as uint8 ``(3, H, W)``, RGB, turned upright by its EXIF orientation.

    Raises:
        UserError: The file cannot be read.
    """
    return decode(Path(path), str(path)).pixels


def decode(source: Path | IO[bytes], name: str, factor: int = 1) -> Decoded:
    """Decode an image like ``read_image_file``, optionally at reduced size.

    JPEGs are decoded at reduced size, which is faster. Other formats are decoded and averaged over squares. An image
    with an EXIF orientation is reduced only if its sides are multiples of ``factor``; otherwise the squares would not
    start at the corner of the upright image.

    Args:
        source: The file, or its bytes.
        name: The name in error messages.
        factor: 1, 2, 4 or 8.

    Raises:
        UserError: The image cannot be read.
    """
    try:
        with open_image(source) as opened:
            (width, height), turn = opened.size, _orientation(opened)
            if min(width, height) < factor or (turn > 1 and (width % factor or height % factor)):
                factor = 1
            size = (width, height) if turn >= 5 else (height, width)  # orientations 5 to 8 swap the sides
            return Decoded(upright_rgb(opened, factor), size, factor)
    except UNREADABLE as error:
        raise unreadable_error("image", name, error) from error


def _orientation(opened: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, or 1 if the EXIF data is damaged: the pixels may still be valid.

    PIL turns TIFF files itself when it decodes them, and reports the upright size.
    """
    if opened.format == "TIFF":
        return 1
    try:
        value = opened.getexif().get(0x0112)
    except UNREADABLE:
        return 1
    return value if value in TURNS else 1


def upright_rgb(opened: Image.Image, factor: int = 1) -> Tensor:
    """Decode an opened image of any mode as uint8 ``(3, H, W)``, RGB, turned upright by its EXIF orientation.

    With a ``factor`` (see ``decode``), the sides are divided by it and rounded up.
    """
    turn, whole = TURNS.get(_orientation(opened)), opened.size
    if factor > 1:
        opened.draft(None, (max(1, whole[0] // factor), max(1, whole[1] // factor)))  # affects JPEGs only
    rgb = _as_rgb(opened if turn is None else opened.transpose(turn))
    if factor > 1 and opened.size == whole:
        rgb = rgb.reduce(factor)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # 16 bits and more: PIL would clip at 255 instead of scaling
        values = np.asarray(image, dtype=np.float32)
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are not finite")
        full = max(1.0 if image.mode == "F" else 65535.0, float(values.max()))  # above 16 bits: scale by the maximum
        if values.min() < -full / 510:  # less than half a gray level below 0 is rounding
            beyond = ", or above 2147483647" if image.mode == "I" else ""  # which PIL reads as negative
            raise ValueError(f"it holds values below 0{beyond}, such as {values.min():g}")
        image = Image.fromarray((values.clip(0, full) * (255 / full)).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")  # convert always copies


def write_image_file(path: Path, image: Tensor) -> None:
    """Write an image, uint8 ``(3, H, W)``, as PNG, and create its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(path, compress_level=1)
