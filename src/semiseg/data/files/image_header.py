"""Open an image file by its header, and detect lossy compression."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from semiseg.errors import UserError, require_regular_file

KINDS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
"""The formats that are read, detected by the first bytes whatever the suffix is. (PIL would run Ghostscript on EPS.)"""
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, OverflowError, EOFError, struct.error),
    Image.DecompressionBombError,
)
"""The exceptions that PIL raises for missing, truncated, unknown, damaged and excessively large files."""
NARROW, LONGEST_NARROW = 32, 65_535
"""Networks pad images to a side of 32, so an image of 1,000,000x1 pixels (1 kB as a file) would need gigabytes."""
LOSSY_IN_TIFF = ("jpeg", "tiff_jpeg", "webp")
"""PIL's names of lossy compression in TIFF. WebP in TIFF can be lossless, but PIL does not report it."""


def open_image(source: Path | IO[bytes]) -> Image.Image:
    """Open an image file, or the first image of an animation or of a file with several pages, without decoding it.

    PIL refuses more than 178,956,970 pixels, twice its limit.

    Raises:
        OSError: The path is a folder, a device or a pipe (which could block), or another of ``UNREADABLE``.
        ValueError: The image is narrower than ``NARROW`` and longer than ``LONGEST_NARROW`` pixels.
    """
    opened = Image.open(require_regular_file(source) if isinstance(source, Path) else source, formats=KINDS)
    if min(opened.size) < NARROW and max(opened.size) > LONGEST_NARROW:
        size = "{} x {}".format(*opened.size)
        raise ValueError(f"{size} pixels: less than {NARROW} by more than {LONGEST_NARROW} is not supported")
    if opened.format == "PNG":  # PIL decodes damaged pixels without an error unless it verifies the checksums
        opened.verify()  # the file has to be reopened afterwards
        if not isinstance(source, Path):
            source.seek(0)
        opened = Image.open(source, formats=KINDS)
    return opened


def lossy_kind(opened: Image.Image, source: Path | IO[bytes]) -> str:
    """Return the name of the lossy compression of an opened image, or an empty string if it is lossless.

    Args:
        opened: The image, from ``open_image``.
        source: The file or its bytes, which are rewound.
    """
    if opened.format in ("JPEG", "MPO"):
        return "JPEG"
    if opened.format == "TIFF" and (inside := opened.info.get("compression")) in LOSSY_IN_TIFF:
        return f"TIFF ({inside} inside)"
    if opened.format != "WEBP":
        return ""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return "lossy WebP" if _is_lossy_webp(file) else ""
    lossy = _is_lossy_webp(source)
    source.seek(0)
    return "lossy WebP" if lossy else ""


def _is_lossy_webp(file: IO[bytes]) -> bool:
    """Return whether the first image of a WebP is lossy: chunk ``VP8`` is lossy, ``VP8L`` lossless."""
    file.seek(12)  # after RIFF, the size and WEBP
    while len(head := file.read(8)) == 8:
        kind, size = head[:4], int.from_bytes(head[4:], "little")
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8 "
        # An animation frame holds its image after 16 bytes of its own. Chunks have an even length.
        file.seek(16 if kind == b"ANMF" else size + size % 2, os.SEEK_CUR)
    return False


def reason(error: Exception) -> str:
    """Return the message of an exception, in one line of at most 120 characters."""
    if isinstance(error, UnidentifiedImageError):  # its message is the path, which is named already
        return "cannot identify what kind of image it is"
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join((words or type(error).__name__).split())[:120]


def unreadable_error(kind: str, name: str, error: Exception) -> UserError:
    """Return the error for a file, called ``name``, that PIL cannot decode. ``kind`` is ``image`` or ``mask``."""
    return UserError(f"the {kind} cannot be read ({reason(error)})", path=name, fix="replace or remove it")
