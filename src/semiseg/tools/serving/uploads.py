"""Read uploaded images; bytes, format and pixels are limited before anything is decoded."""

from __future__ import annotations

import io
from collections.abc import Callable
from operator import mul

from PIL import Image
from torch import Tensor

from semiseg.data.files.image_files import decode, image_size
from semiseg.data.files.image_header import KINDS
from semiseg.data.files.pixel_format import RGB, PixelFormat
from semiseg.errors import UserError

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 13_000_000  # a photo of 4032 x 3024; memory is proportional to classes times pixels


class Refused(Exception):
    """An upload is rejected. The message is shown to the client and must not name files of the server.

    Args:
        status: The HTTP status.
        reason: One line.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def read_upload(data: bytes, peak_pixels: Callable[[int, int], int] = mul, format: PixelFormat = RGB) -> Tensor:
    """Decode an image as uint8 ``(channels, H, W)``, upright.

    Args:
        data: The file.
        peak_pixels: Returns the number of pixels to process for a height and width. It can exceed their product because
            networks pad: an image of 1 x 1,000,000 pixels becomes one of 32 million.
        format: The bands and the white value.

    Raises:
        Refused: Too many bytes or pixels, a format not in ``KINDS``, or not a valid image.
    """
    if len(data) > MAX_BYTES:
        raise Refused(413, f"the file has more than {MAX_BYTES // 2**20} MB: send a smaller one")
    too_large = f"the image has more than {MAX_PIXELS // 10**6} million pixels: send a smaller one"
    try:
        width, height = image_size(io.BytesIO(data))  # reads the header only
    except UserError as error:
        if isinstance(error.__cause__, Image.DecompressionBombError):
            raise Refused(413, too_large) from None
        raise Refused(415, f"not a supported image: send one of {', '.join(KINDS)}") from None
    if height * width > MAX_PIXELS:
        raise Refused(413, too_large)
    if peak_pixels(height, width) > MAX_PIXELS:
        size = f"the image of {width} x {height} pixels has more than {MAX_PIXELS // 10**6} million"
        raise Refused(413, f"{size} as the network resizes and pads it: send a smaller or less narrow one")
    try:
        return decode(io.BytesIO(data), "the image", format=format).pixels
    except UserError as error:
        if "bands" in error.problem:
            raise Refused(415, f"{error.problem}: send images like those of the training data") from None
        raise Refused(415, "the image is damaged: send it again or choose another") from None
