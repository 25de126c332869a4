"""Images from strangers: limited in bytes, kind and pixels before anything is decoded."""

from __future__ import annotations

import io
from collections.abc import Callable
from operator import mul

from PIL import Image
from torch import Tensor

from semiseg.data.files.image_files import upright_rgb
from semiseg.data.files.image_header import UNREADABLE

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 13_000_000  # a phone's photo (4032 x 3024); memory goes with classes times pixels
KINDS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")


class Refused(Exception):
    """An image that is not taken: the HTTP status, and why, in words that name nothing of the server."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def read_upload(data: bytes, pixels: Callable[[int, int], int] = mul) -> Tensor:
    """Decode an image as uint8 ``(3, H, W)``, RGB, upright.

    Args:
        data: the file.
        pixels: how many pixels an image of this height and width costs, which is more than it has where a network
            pads it: a line of a million pixels is a few bytes as a file, and a stripe of 32 million to a network.

    Raises:
        Refused: too many bytes or pixels, a kind that is not in ``KINDS``, no image at all, or a broken one.
    """
    if len(data) > MAX_BYTES:
        raise Refused(413, f"the file has more than {MAX_BYTES // 2**20} MB: send a smaller one")
    too_large = f"the image has more than {MAX_PIXELS // 10**6} million pixels: send a smaller one"
    try:
        opened = Image.open(io.BytesIO(data), formats=KINDS)  # reads the header only
    except Image.DecompressionBombError:
        raise Refused(413, too_large) from None
    except UNREADABLE:
        raise Refused(415, f"not an image that is taken here: send one of {', '.join(KINDS)}") from None
    with opened:
        height, width = opened.height, opened.width
        if height * width > MAX_PIXELS:
            raise Refused(413, too_large)
        if pixels(height, width) > MAX_PIXELS:
            why = f"the image of {width} x {height} pixels has more than {MAX_PIXELS // 10**6} million"
            raise Refused(413, f"{why} as the network resizes and pads it: send a smaller or less narrow one")
        try:
            return upright_rgb(opened)
        except UNREADABLE:
            raise Refused(415, "the image is damaged: send it again, or another") from None
