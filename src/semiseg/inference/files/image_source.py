"""Open an image to predict: decoded in memory, or a TIFF file that is read in windows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import PIL.Image
import torch
from torch import Tensor

from semiseg.data.files.image_files import image_size, read_image_file
from semiseg.data.files.image_header import UNREADABLE, is_tiff, page_count, unreadable_error
from semiseg.data.files.pixel_format import PixelFormat
from semiseg.data.files.stored_values import StoredFormat, stored_format
from semiseg.errors import UserError
from semiseg.inference.bounded_predictor import BoundedPredictor
from semiseg.inference.formats.geotiff import EXTRA, RasterImage, has_rasterio, open_raster
from semiseg.inference.formats.prediction_writer import Image
from semiseg.inference.memory_estimate import available_memory

LARGEST_IMAGE = 2**30  # pixels of an image that is decoded in memory, such as 32,768 x 32,768
READ_AHEAD = 2**24  # pixels; larger images are decoded one at a time
DECODING_BYTES = 8  # per pixel: Pillow's image and the tensor
CPU = torch.device("cpu")


class MemoryImage:
    """A decoded image.

    Args:
        pixels: uint8 ``(channels, H, W)``.
        name: The file, for messages.
    """

    def __init__(self, pixels: Tensor, name: str) -> None:
        self.pixels, self.name = pixels, name
        self.size = (pixels.shape[-2], pixels.shape[-1])

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """Return the pixels of a rectangle, uint8 ``(channels, height, width)``."""
        return self.pixels[:, top : top + height, left : left + width]

    def reduced(self, factor: int) -> Tensor:
        """Return every ``factor``-th pixel, uint8 ``(channels, ceil(H / factor), ceil(W / factor))``."""
        return self.pixels[:, ::factor, ::factor]


class Header(NamedTuple):
    """The size ``(height, width)`` of an image, its number of pages, its format, and its pixels unless it is large."""

    size: tuple[int, int]
    pages: int
    format: StoredFormat
    pixels: Tensor | None


def read_ahead_of(path: Path, format: PixelFormat) -> Header:
    """Read the header of an image file, and its pixels, in the format of the networks, unless it is large.

    Raises:
        UserError: The file cannot be read.
    """
    width, height = image_size(path)
    try:
        pages, stored = page_count(path), stored_format(path)
    except UNREADABLE as error:
        raise unreadable_error("image", str(path), error) from None
    pixels = read_image_file(path, format) if height * width <= READ_AHEAD else None
    return Header((height, width), pages, stored, pixels)


@contextmanager
def open_source(
    path: Path, header: Header, georeferenced: bool, predictor: BoundedPredictor
) -> Iterator[tuple[Image, RasterImage | None]]:
    """Open an image, and the raster with its georeference if the predictions get one.

    A TIFF file that is predicted in windows is read in windows, if rasterio is installed.

    Raises:
        UserError: The file cannot be read, or its pixels do not fit into memory.
    """
    from_disk = header.pixels is None and has_rasterio() and is_tiff(path) and not predictor.fits(header.size)
    if not (from_disk or georeferenced):
        yield decoded(path, header, predictor), None
        return
    with open_raster(path) as dataset:
        raster = RasterImage(dataset, str(path), predictor.predictor.pixel_format)
        if from_disk:
            yield raster, raster if georeferenced else None
        else:
            yield decoded(path, header, predictor), raster


def decoded(path: Path, header: Header, predictor: BoundedPredictor) -> MemoryImage:
    """Return the decoded image."""
    if header.pixels is not None:
        return MemoryImage(header.pixels, str(path))
    height, width = header.size
    if height * width > LARGEST_IMAGE or DECODING_BYTES * height * width > available_memory(CPU):
        problem = f"{width} x {height} pixels are too many to decode at once"
        raise UserError(problem, path=path, fix=f"convert it to TIFF, which is read in windows, and {EXTRA}")
    return MemoryImage(read_image_file(path, predictor.predictor.pixel_format), str(path))


@contextmanager
def large_images() -> Iterator[None]:
    """Let Pillow open images of any size inside this context. `decoded` refuses those above ``LARGEST_IMAGE``."""
    before = PIL.Image.MAX_IMAGE_PIXELS
    PIL.Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = before
