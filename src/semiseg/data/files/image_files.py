"""Read and write image files."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from semiseg.data.dataset import Decoded
from semiseg.data.files.image_header import UNREADABLE, is_tiff, open_header, open_image, unreadable_error
from semiseg.data.files.pixel_format import RGB, PixelFormat
from semiseg.data.files.stored_values import (
    ORIENTATION,
    StoredFormat,
    StoredValues,
    open_tiff_page,
    orientation_of,
    stored_format,
    stored_values,
)
from semiseg.errors import UserError

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


def image_size(source: Path | IO[bytes]) -> tuple[int, int]:
    """Return the width and height of an upright image, reading only the header.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        try:
            with open_header(source) as opened:
                orientation = orientation_of(opened)
                width, height = opened.size
        except UnidentifiedImageError:
            if not is_tiff(source):
                raise
            with open_tiff_page(source) as page:
                orientation = page.tags[ORIENTATION].value if ORIENTATION in page.tags else 1
                width, height = page.imagewidth, page.imagelength
    except UNREADABLE as error:
        raise unreadable_error("image", str(source), error) from error
    return (height, width) if orientation >= 5 else (width, height)  # orientations 5 to 8 swap the sides


def read_image_file(path: str | Path, format: PixelFormat = RGB) -> Tensor:
    """Read an image as uint8 ``(channels, H, W)``, turned upright by its EXIF orientation.

    Args:
        path: The file.
        format: The bands and the white value. By default, an image of any mode is read as RGB.

    Raises:
        UserError: The file cannot be read.
    """
    return decode(Path(path), str(path), format=format).pixels


def decode(source: Path | IO[bytes], name: str, factor: int = 1, format: PixelFormat = RGB) -> Decoded:
    """Decode an image like ``read_image_file``, optionally at reduced size.

    JPEGs are decoded at reduced size, which is faster. Other formats are decoded and averaged over squares. An image
    with an EXIF orientation is reduced only if its sides are multiples of ``factor``; otherwise the squares would not
    start at the corner of the upright image.

    Args:
        source: The file, or its bytes.
        name: The name in error messages.
        factor: 1, 2, 4 or 8.
        format: The bands and the white value.

    Raises:
        UserError: The image cannot be read.
    """
    try:
        if _needs_values(source, format):
            pixels = channels(stored_values(source), stored_format(source), format)
            factor = 1 if min(pixels.shape[:2]) < factor else factor
            return Decoded(_as_tensor(pixels, factor), (pixels.shape[0], pixels.shape[1]), factor)
        with open_image(source) as opened:
            (width, height), turn = opened.size, orientation_of(opened)
            if min(width, height) < factor or (turn > 1 and (width % factor or height % factor)):
                factor = 1
            size = (width, height) if turn >= 5 else (height, width)  # orientations 5 to 8 swap the sides
            return Decoded(_upright_rgb(opened, factor), size, factor)
    except UNREADABLE as error:
        raise unreadable_error("image", name, error) from error


def _needs_values(source: Path | IO[bytes], format: PixelFormat) -> bool:
    """Return whether an image is read by ``stored_values``; otherwise PIL converts it to RGB."""
    if format.bands:
        return True
    if format.white is not None and stored_format(source).deep:
        return True
    if not is_tiff(source):
        return False
    try:
        with open_header(source):
            return False
    except UnidentifiedImageError:
        return True


def channels(stored: StoredValues, kind: StoredFormat, format: PixelFormat) -> NDArray[np.uint8]:
    """Return the selected bands of an image, scaled to 8 bits: uint8 ``(H, W, channels)``.

    Raises:
        ValueError: The image has not the selected bands, or most of its values are below 0.
    """
    count = stored.values.shape[-1]
    if format.bands is not None:
        chosen = [band - 1 for band in format.bands]
        if max(chosen) >= count:
            raise ValueError(f"it has {count} bands, and band {max(format.bands)} is to be read")
    else:
        if count > 4 or (count == 2 and not kind.alpha):
            raise ValueError(f'it has {count} bands: select some by "bands" in classes.json')
        chosen = [0, 1, 2] if count >= 3 else [0, 0, 0]
    scaled = {band: _scaled(stored, band, kind, format.white) for band in sorted(set(chosen))}
    return np.stack([scaled[band] for band in chosen], axis=-1)


def _scaled(stored: StoredValues, band: int, kind: StoredFormat, white: float | None) -> NDArray[np.uint8]:
    """Return one band in 8 bits. Missing values become 0."""
    values = stored.values[..., band]
    missing = None if stored.missing is None else stored.missing[..., band]
    if kind.bits != 8 or kind.deep:
        valid = values if missing is None else values[~missing]
        white = (white if kind.deep else None) or _default_white(kind, float(valid.max(initial=1)))
        if valid.size and (valid < -white / 510).mean() > 0.5:  # a few are noise around black
            raise ValueError(f"most of its values are below 0, such as {valid.min():g}")
        values = to_8_bits(values, white, missing)
    if stored.min_is_white:
        values = 255 - values
    return values if missing is None else np.where(missing, np.uint8(0), values)


def to_8_bits(values: NDArray[Any], white: float, missing: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Return values scaled so that ``white`` becomes 255, and clipped. Missing values become 0."""
    known = (
        values.astype(np.float32) if missing is None else np.where(missing, np.float32(0), values).astype(np.float32)
    )
    return np.rint(known.clip(0, white) * (255 / white)).astype(np.uint8)


def _default_white(kind: StoredFormat, largest: float) -> float:
    """Return the white value of an image of a data set whose format is not known."""
    if kind.bits <= 16:
        return float(2**kind.bits - 1)
    return max(65535.0 if kind.integer else 1.0, largest)


def _as_tensor(pixels: NDArray[np.uint8], factor: int) -> Tensor:
    """Return pixels ``(H, W, channels)`` as a tensor ``(channels, h, w)``, averaged over squares of side ``factor``."""
    if factor > 1:
        bands = (Image.fromarray(np.ascontiguousarray(band)).reduce(factor) for band in np.moveaxis(pixels, -1, 0))
        return torch.from_numpy(np.stack([np.asarray(band) for band in bands]))
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 0)))


def _upright_rgb(opened: Image.Image, factor: int = 1) -> Tensor:
    """Decode an opened image of any mode as uint8 ``(3, H, W)``, RGB, turned upright by its EXIF orientation.

    With a ``factor`` (see ``decode``), the sides are divided by it and rounded up.
    """
    turn, whole = TURNS.get(orientation_of(opened)), opened.size
    if factor > 1:
        opened.draft(None, (max(1, whole[0] // factor), max(1, whole[1] // factor)))  # affects JPEGs only
    rgb = _as_rgb(opened if turn is None else opened.transpose(turn))
    if factor > 1 and opened.size == whole:
        rgb = rgb.reduce(factor)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # The rule of version 0.1.0 without a white value: PIL would clip at 255 instead of scaling.
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
    """Write an image, uint8 ``(3, H, W)``, as PNG, and create its folder if needed.

    Raises:
        UserError: The image does not have three channels.
    """
    if len(image) != 3:
        problem = f"an image of {len(image)} channels cannot be written as PNG"
        raise UserError(problem, path=path, fix='select three of them by "bands" in classes.json')
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(path, compress_level=1)
