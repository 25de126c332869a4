"""Read the values that an image file stores, without PIL's conversion to 8 bits and at most four bands."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semiseg.data.files.image_header import (
    UNREADABLE,
    MissingExtra,
    check_sides,
    first_bytes,
    is_tiff,
    open_header,
    open_image,
)
from semiseg.errors import require_regular_file

NODATA = (-9999.0, -32767.0, -32768.0)
"""Negative values that programs write where there is no measurement."""
HUGE = 1e30
"""Larger values mark missing ones, as the smallest float does."""
MIN_IS_WHITE, PALETTE, INKS, ORIENTATION, GDAL_NODATA = 0, 3, 5, 274, 42113  # values and tags of TIFF
PNG_BANDS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by color type


@dataclass(frozen=True)
class StoredFormat:
    """The format of the pixels in a file.

    Attributes:
        bands: The number of values per pixel; 3 for a palette.
        bits: Bits per value.
        integer: Whether values are integers.
        signed: Whether values may be negative.
        alpha: Whether the last band is transparency.
        inks: Whether the bands are cyan, magenta, yellow and black.
    """

    bands: int
    bits: int = 8
    integer: bool = True
    signed: bool = False
    alpha: bool = False
    inks: bool = False

    @property
    def kind(self) -> str:
        """The type of the values in words, such as ``16-bit``."""
        return f"{self.bits}-bit" + ("" if self.integer else " float")

    @property
    def deep(self) -> bool:
        """True if the values have to be scaled to become 8 bits."""
        return self.bits > 8 or self.signed


@dataclass(frozen=True)
class StoredValues:
    """The values of an upright image.

    Attributes:
        values: ``(H, W, bands)``, of any type.
        missing: bool ``(H, W, bands)``, True where a value is not finite or marks missing data; None if there are none.
        min_is_white: Whether 0 is white.
    """

    values: NDArray[Any]
    missing: NDArray[np.bool_] | None = None
    min_is_white: bool = False


def stored_format(source: Path | IO[bytes]) -> StoredFormat:
    """Return the format of the pixels of an image file, from its header.

    Raises:
        Exception: One of ``UNREADABLE`` if the file cannot be read.
    """
    if is_tiff(source):
        with open_tiff_page(source) as page:
            if page.photometric == PALETTE:
                return StoredFormat(3)
            bits, kind = int(np.max(page.bitspersample)), int(np.max(page.sampleformat))
            alpha = any(extra in (1, 2) for extra in page.extrasamples)
            return StoredFormat(
                page.samplesperpixel,
                bits,
                integer=kind != 3,
                signed=kind != 1,
                alpha=alpha,
                inks=page.photometric == INKS,
            )
    head = first_bytes(source)
    if head.startswith(b"\x89PNG"):
        bits, color = head[24], head[25]
        return StoredFormat(PNG_BANDS[color], max(bits, 8), alpha=color >= 4)
    with open_header(source) as opened:
        bands = opened.getbands() if opened.mode != "P" else ("R", "G", "B")
        return StoredFormat(len(bands), alpha=bands[-1] == "A", inks=opened.mode == "CMYK")


def stored_values(source: Path | IO[bytes]) -> StoredValues:
    """Read all values of the first image of a TIFF, or of another file as PIL decodes it; PNG keeps 16 bits.

    Raises:
        MissingExtra: The compression of a TIFF needs imagecodecs.
        Exception: One of ``UNREADABLE`` if the file cannot be read.
    """
    if is_tiff(source):
        return _tiff_values(source)
    with open_image(source) as opened:  # checks the sides and checksums
        orientation = orientation_of(opened)
        if first_bytes(source)[:4] == b"\x89PNG" and first_bytes(source)[24] == 16:
            return StoredValues(turned(_deep_png(source), orientation))
        values = np.array(opened.convert("RGB") if opened.mode in ("P", "1", "YCbCr", "LAB", "HSV") else opened)
    return StoredValues(turned(values.reshape(*values.shape[:2], -1), orientation))


def orientation_of(opened: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, or 1 if the EXIF data is damaged: the pixels may still be valid.

    PIL turns TIFF files itself when it decodes them, and reports the upright size.
    """
    if opened.format == "TIFF":
        return 1
    try:
        value = opened.getexif().get(ORIENTATION)
    except UNREADABLE:
        return 1
    return value if isinstance(value, int) and 2 <= value <= 8 else 1


def turned(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return an image ``(H, W, bands)`` turned upright from an EXIF orientation, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values


@contextmanager
def open_tiff_page(source: Path | IO[bytes]) -> Iterator[Any]:
    """Open the first page of a TIFF with tifffile.

    Raises:
        ValueError: The file is damaged, or the image is too narrow and long.
        Image.DecompressionBombError: The image has more pixels than PIL reads.
    """
    from tifffile import TiffFile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # errors are raised, or do not concern the pixels
    try:
        with TiffFile(require_regular_file(source) if isinstance(source, Path) else source) as tiff:
            page = tiff.pages.first
            width, height = page.imagewidth, page.imagelength
            check_sides(width, height)
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and width * height * max(1, page.samplesperpixel // 4) > 2 * limit:
                raise Image.DecompressionBombError(f"{width} x {height} pixels of {page.samplesperpixel} bands")
            yield page
    except (ValueError, OSError, Image.DecompressionBombError):
        raise
    except Exception as error:  # tifffile raises many types for damaged files
        raise ValueError(f"damaged TIFF, {type(error).__name__}") from error
    finally:
        if not isinstance(source, Path):
            source.seek(0)


def _tiff_values(source: Path | IO[bytes]) -> StoredValues:
    with open_tiff_page(source) as page:
        try:
            values: NDArray[Any] = page.asarray(maxworkers=1)
        except ValueError as error:
            if "imagecodecs" in str(error):
                raise MissingExtra(f"TIFF with {page.compression.name} compression", "tiff") from None
            raise
        if page.axes not in ("YX", "YXS", "SYX") or page.photometric == PALETTE:
            raise ValueError(f"TIFF of axes {page.axes}, {page.photometric.name.lower()}, is not supported")
        if page.axes == "SYX":  # one plane per band
            values = np.moveaxis(values, 0, -1)
        orientation = page.tags[ORIENTATION].value if ORIENTATION in page.tags else 1
        nodata = page.nodata if GDAL_NODATA in page.tags else None
        min_is_white = page.photometric == MIN_IS_WHITE
    values = turned(values.reshape(*values.shape[:2], -1), orientation)
    return StoredValues(values, missing_values(values, nodata), min_is_white)


def missing_values(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_] | None:
    """Return where values are missing, or None if none are."""
    missing = np.zeros(values.shape, dtype=np.bool_)
    if nodata is not None and not np.isnan(nodata):
        missing |= values == nodata
    if values.dtype.kind in "fi":
        missing |= np.isin(values, NODATA)
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            missing |= ~(np.abs(values) < HUGE)  # NaN as well
    return missing if missing.any() else None


def _deep_png(source: Path | IO[bytes]) -> NDArray[np.uint16]:
    """Read a PNG of 16 bits as ``(H, W, channels)``. PIL drops the low bytes of colors: decode them a second time."""
    high = _png_pixels(source)
    if high.ndim == 2:
        return high.astype(np.uint16)[..., None]
    low = _png_pixels(source, low=True)
    if low.dtype == np.uint16:
        return low
    return high.astype(np.uint16) << 8 | low


def _png_pixels(source: Path | IO[bytes], low: bool = False) -> NDArray[Any]:
    """Decode a PNG of 16 bits with PIL: the high or ``low`` bytes of colors; gray with opacity whole if ``low``."""
    with open_image(source) as opened:
        tile = opened.tile[0]
        parts = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "LA;16B": "RGBA"}  # of PIL's names for stored pixels
        if low:
            opened.tile = [tile._replace(args=parts[str(tile.args)])]
        pixels = np.array(opened)
    if low and tile.args == "LA;16B":
        pixels = pixels.astype(np.uint16)[..., ::2] << 8 | pixels[..., 1::2]
    return pixels
