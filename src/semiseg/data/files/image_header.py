"""A picture in a file, opened by its head: of which kind it is, and whether its pixels are those that were saved."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO

from PIL import Image

from semiseg.errors import require_regular_file

# A file is what its first bytes say, whatever its name; of all that PIL reads only this (EPS would run Ghostscript).
KINDS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
# What PIL raises for files that are missing, cut short, of an unknown kind, broken inside, or absurdly large.
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, OverflowError, EOFError, struct.error),
    Image.DecompressionBombError,
)
# Networks pad a picture to a side of 32. One of a million pixels by one, a kilobyte as a file, would take gigabytes.
NARROW, LONGEST_NARROW = 32, 65_535
LOSSY_IN_TIFF = ("jpeg", "tiff_jpeg", "webp")  # as PIL calls them; WebP may be lossless there, which nobody can tell


def open_image(source: Path | IO[bytes]) -> Image.Image:
    """Open an image file by its head, of which PIL refuses more than 178,956,970 pixels (twice its limit).

    Of animations and files of several pages it is the first picture.

    Raises:
        OSError: it is a folder, a device or a pipe (which would be waited for), or another of ``UNREADABLE``.
        ValueError: it is a line: less than ``NARROW`` pixels by more than ``LONGEST_NARROW``.
    """
    opened = Image.open(require_regular_file(source) if isinstance(source, Path) else source, formats=KINDS)
    if min(opened.size) < NARROW and max(opened.size) > LONGEST_NARROW:
        size = "{} x {}".format(*opened.size)
        raise ValueError(f"{size} pixels: less than {NARROW} by more than {LONGEST_NARROW} are not taken, cut it up")
    if opened.format == "PNG":  # PIL shows what it can of damaged pixels and says nothing; the checksums tell
        opened.verify()  # after which it has to be opened anew
        if not isinstance(source, Path):
            source.seek(0)
        opened = Image.open(source, formats=KINDS)
    return opened


def lossy_kind(opened: Image.Image, source: Path | IO[bytes]) -> str:
    """Return what kind of compression has changed the pixels of an opened picture, empty where none has.

    Args:
        opened: from ``open_picture``.
        source: what it was opened from; bytes are left at their first.
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
    """Tell how the first picture of a WebP is compressed: by the chunk ``VP8`` with loss, by ``VP8L`` without."""
    file.seek(12)  # behind RIFF, the size and WEBP
    while len(head := file.read(8)) == 8:
        kind, size = head[:4], int.from_bytes(head[4:], "little")
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8 "
        # A frame of an animation holds its picture behind 16 bytes of its own; any chunk has an even length.
        file.seek(16 if kind == b"ANMF" else size + size % 2, os.SEEK_CUR)
    return False
