"""Open an image file by its header, count its pages, and detect lossy compression."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path, PurePath
from typing import IO

from PIL import Image, ImageFile, UnidentifiedImageError

from semiseg.data.files.file_lists import IMAGE_SUFFIXES
from semiseg.errors import UserError, require_regular_file

KINDS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "AVIF")
"""The formats that are read, detected by the first bytes whatever the suffix is. (PIL would run Ghostscript on EPS.)"""
READABLE_SUFFIXES = IMAGE_SUFFIXES
UNSUPPORTED = {
    "video: extract its frames": ".mp4 .mov .avi .mkv .webm .m4v .mpg .mpeg .wmv .mts",
    "DICOM: convert to PNG or TIFF": ".dcm .dicom .ima",
    "volume: convert its slices to PNG or TIFF": ".nii .gz .mha .mhd .nrrd",
    "array: convert to PNG or TIFF": ".npy .npz .mat .h5 .hdf5",
    "camera raw: develop to PNG or TIFF": ".raw .cr2 .cr3 .nef .arw .dng .orf .rw2 .raf .pef .srw",
    "layers: flatten and save as PNG": ".psd .psb .xcf .kra",
    "microscope: convert to TIFF": ".czi .lif .nd2 .oib .oif .vsi .svs .ndpi .mrxs .scn",
    "archive: unpack it": ".zip .tar .7z .rar .tgz",
    "convert to PNG or TIFF": ".jp2 .j2k .jxl .tga .exr .hdr .ppm .pgm .pnm .pbm .ico .svg .pdf .eps .img .ecw .vrt",
}
"""The fix for files that are often kept among images, by fix, and their suffixes."""
HEIC_BRANDS = tuple(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, OverflowError, EOFError, struct.error),
    Image.DecompressionBombError,
)
"""The exceptions that PIL raises for missing, truncated, unknown, damaged and excessively large files."""
NARROW, LONGEST_NARROW = 32, 65_535
"""Networks pad images to a side of 32, so an image of 1,000,000x1 pixels (1 kB as a file) would need gigabytes."""
LOSSY_IN_TIFF = ("jpeg", "tiff_jpeg", "webp")
"""PIL's names of lossy compression in TIFF. WebP in TIFF can be lossless, but PIL does not report it."""


class MissingExtra(ValueError):
    """An image cannot be read without an extra of semiseg.

    Args:
        problem: What cannot be read.
        extra: The extra.
    """

    def __init__(self, problem: str, extra: str) -> None:
        super().__init__(f"{problem} needs an extra")
        self.fix = f"run pip install 'semiseg[{extra}]', or convert it to PNG or uncompressed TIFF"


def open_image(source: Path | IO[bytes]) -> ImageFile.ImageFile:
    """Open an image file, or the first image of an animation or of a file with several pages, without decoding it.

    PIL refuses more than 178,956,970 pixels, twice its limit.

    Raises:
        OSError: The path is a folder, a device or a pipe (which could block), or another of ``UNREADABLE``.
        ValueError: The image is narrower than ``NARROW`` and longer than ``LONGEST_NARROW`` pixels.
        MissingExtra: It is a HEIC file, and pillow-heif is not installed.
    """
    opened = open_header(source)
    check_sides(*opened.size)
    if opened.format == "PNG":  # PIL decodes damaged pixels without an error unless it verifies the checksums
        opened.verify()  # the file has to be reopened afterwards
        if not isinstance(source, Path):
            source.seek(0)
        opened = Image.open(source, formats=KINDS)
    if opened.format == "TIFF":
        opened.filename = ""  # otherwise PIL maps the file into memory, and scrambles pixels with an EXIF orientation
    return opened


def open_header(source: Path | IO[bytes]) -> ImageFile.ImageFile:
    """Open an image file like ``open_image``, without checking its sides and the checksums of a PNG."""
    kinds = ("HEIF",) if is_heic(source) else KINDS
    if "HEIF" in kinds:
        _register_heic()
    return Image.open(require_regular_file(source) if isinstance(source, Path) else source, formats=kinds)


def check_sides(width: int, height: int) -> None:
    """Raise ValueError if an image is narrower than ``NARROW`` and longer than ``LONGEST_NARROW`` pixels."""
    if min(width, height) < NARROW and max(width, height) > LONGEST_NARROW:
        size = f"{width} x {height} pixels"
        raise ValueError(f"{size}: less than {NARROW} by more than {LONGEST_NARROW} is not supported")


def is_heic(source: Path | IO[bytes]) -> bool:
    """Return whether a file, or its bytes, which are rewound, is a HEIC image."""
    head = first_bytes(source)
    return head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS and b"avi" not in head[12:]


def is_tiff(source: Path | IO[bytes]) -> bool:
    """Return whether a file, or its bytes, which are rewound, is a TIFF or BigTIFF."""
    return first_bytes(source)[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def first_bytes(source: Path | IO[bytes]) -> bytes:
    """Return the first bytes of a file, or of its bytes, which are rewound."""
    if isinstance(source, Path):
        with open(require_regular_file(source), "rb") as file:
            return file.read(64)
    source.seek(0)
    head = source.read(64)
    source.seek(0)
    return head


def _register_heic() -> None:
    """Let PIL open HEIC files. They are turned upright, and their EXIF orientation becomes 1."""
    for module in ("pi_heif", "pillow_heif"):
        with suppress(ImportError):
            import_module(module).register_heif_opener()
            return
    raise MissingExtra("HEIC", "heic")


def page_count(path: Path) -> int:
    """Return the number of pages or frames of an image file, of which only the first is read.

    Previews inside JPEG, TIFF and HEIC files and TIFF masks do not count. The channels of an ImageJ hyperstack do.

    Raises:
        Exception: One of ``UNREADABLE`` if the file cannot be read.
    """
    if is_tiff(path):
        from tifffile import TiffFile

        with TiffFile(path) as tiff:
            images = (tiff.imagej_metadata or {}).get("images", 1)  # a large stack has a header for the first page only
            pages = (page.aspage() for page in tiff.pages)
            return max(images, sum(not (page.is_reduced or page.is_mask) for page in pages), 1)
    with open_header(path) as opened:
        return int(getattr(opened, "n_frames", 1)) if opened.format in ("PNG", "WEBP", "GIF", "AVIF") else 1


def describe_unsupported(paths: Iterable[str | Path]) -> str:
    """Return the suffixes of files that are not read, with counts and a way out: ``2 .dcm (DICOM: convert ...)``."""
    counts = Counter(PurePath(path).suffix.lower() or "without suffix" for path in paths)
    texts = []
    for suffix, count in sorted(counts.items()):
        kind = way_out(suffix)
        texts.append(f"{count} {suffix}" + (f" ({kind})" if kind else ""))
    return ", ".join(texts)


def way_out(path: str | Path) -> str:
    """Return the fix for a file or suffix that is not read, or an empty string if its kind is unknown."""
    suffix = str(path) if str(path).startswith(".") else PurePath(path).suffix.lower()
    return next((kind for kind, suffixes in UNSUPPORTED.items() if suffix in suffixes.split()), "")


def lossy_kind(opened: Image.Image, source: Path | IO[bytes]) -> str:
    """Return the name of the lossy compression of an opened image, or an empty string if it is lossless.

    Args:
        opened: The image, from ``open_image``.
        source: The file or its bytes, which are rewound.
    """
    if opened.format in ("JPEG", "MPO"):
        return "JPEG"
    if opened.format in ("AVIF", "HEIF"):
        return {"HEIF": "HEIC"}.get(opened.format, opened.format)
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
    if os.path.islink(name) and not os.path.exists(name):
        problem = f"the {kind} cannot be read (No such file or directory: it links to {os.path.realpath(name)})"
        return UserError(problem, path=name, fix="move that file back, or import the data again with --copy")
    fix = error.fix if isinstance(error, MissingExtra) else "replace or remove it"
    return UserError(f"the {kind} cannot be read ({reason(error)})", path=name, fix=fix)
