"""Refuse masks of several pages, planes or partly transparent pixels."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semiseg.data.files.image_header import UNREADABLE, is_tiff
from semiseg.errors import UserError

SOURCE = "SRC --out DIR"  # a data set replaces it by its own path
ONE_HOT = f"run `semiseg import {SOURCE} --form one-hot`"
FAX = ("tiff_ccitt", "group3", "group4")
"""PIL's names of compression for black and white pixels in TIFF."""
SUBFILE, PHOTOMETRIC, ORIENTATION, SAMPLES, PLANAR, SOFTWARE, EXTRA = 254, 262, 274, 277, 284, 305, 338  # TIFF tags
REDUCED_OR_TRANSPARENCY = 5  # bits of the tag SUBFILE: a preview or a transparency mask of another page
COLOR_SAMPLES = {2: 3, 5: 4, 6: 3, 8: 3}  # samples per pixel by the tag PHOTOMETRIC; gray and indices have one


def refuse_layers(opened: Image.Image, name: str) -> None:
    """Raise UserError if an opened mask has several pages or frames, or samples besides a color and its opacity."""
    if (pages := _count_pages(opened)) > 1:
        raise _pages_error(pages, name)
    if opened.format != "TIFF":
        return
    tags: Any = opened.tag_v2  # type: ignore[attr-defined]  # only TIFF files have tags
    samples = tags.get(SAMPLES, 1)
    extra = samples - COLOR_SAMPLES.get(tags.get(PHOTOMETRIC, 1), 1)
    if samples > 1 and (tags.get(PLANAR) == 2 or extra > 1 or (extra == 1 and 0 in tags.get(EXTRA, ()))):
        raise _samples_error(samples, name)


def refuse_unclear_polarity(opened: Image.Image, name: str) -> None:
    """Raise UserError for a black and white TIFF that stores white as 0, unless tifffile wrote it.

    tifffile stores False as 0 and calls it white. Image programs store white, which often marks the object, as 0. With
    fax compression only the latter is usual.
    """
    if opened.format != "TIFF" or opened.mode != "1" or opened.info.get("compression") in FAX:
        return
    tags: Any = opened.tag_v2  # type: ignore[attr-defined]
    if tags.get(PHOTOMETRIC) == 0 and not str(tags.get(SOFTWARE, "")).startswith("tifffile"):
        problem = "the mask is a black and white TIFF in which 0 is white, so it is unclear which of the two is class 1"
        raise UserError(problem, path=name, fix="save masks as PNG")


def _count_pages(opened: Image.Image) -> int:
    """Return the number of frames, or of TIFF pages without previews."""
    frames = getattr(opened, "n_frames", 1)
    if frames == 1 or opened.format != "TIFF":
        return int(frames)
    pages = 0
    for frame in range(frames):
        try:
            opened.seek(frame)
        except UNREADABLE:
            pages += 1
        else:
            pages += not opened.tag_v2.get(SUBFILE, 0) & REDUCED_OR_TRANSPARENCY  # type: ignore[attr-defined]
    opened.seek(0)
    return pages


def _pages_error(pages: int, name: str) -> UserError:
    problem = f"the mask has {pages} pages"
    return UserError(problem, path=name, fix=f"{ONE_HOT} if each page is one class, or save one page")


def _samples_error(samples: int, name: str) -> UserError:
    problem = f"the mask has {samples} values per pixel, which are not a color"
    return UserError(problem, path=name, fix=f"{ONE_HOT} if each of them is one class, or save one class per pixel")


def opaque(image: Image.Image, name: str) -> Image.Image:
    """Return a mask with opacity as gray or RGB.

    Raises:
        UserError: Pixels are partly transparent, or fully transparent pixels hide different values.
    """
    pixels = np.array(image)
    values, opacity = pixels[..., :-1], pixels[..., -1]
    if ((opacity > 0) & (opacity < 255)).any():
        count = int(((opacity > 0) & (opacity < 255)).sum())
        raise UserError(
            f"{count} pixels of the mask are partly transparent, as at antialiased edges",
            path=name,
            fix="save masks without antialiasing and without transparency",
        )
    hidden = values[opacity == 0]
    if len(hidden) and (hidden != hidden[0]).any():
        problem = "transparent pixels of the mask hide different values"
        raise UserError(problem, path=name, fix="save masks without transparency")
    if len(hidden) and not (opacity == 0).all() and (values == hidden[0]).all():
        problem = "the mask has one color throughout and varies only in its alpha channel"
        raise UserError(problem, path=name, fix="save its alpha channel as a gray PNG instead")
    return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)


def read_tiff_values(source: Path | IO[bytes], name: str) -> tuple[NDArray[Any], int] | None:
    """Read a TIFF mask of a type that PIL does not read, such as 64-bit integers.

    Returns:
        The values ``(H, W)`` as stored and the orientation, 1 to 8; None if this is not a readable TIFF either.

    Raises:
        UserError: The mask has several pages or values per pixel.
    """
    from tifffile import TiffFile

    try:
        if not is_tiff(source):  # raises for a pipe, which would block
            return None
        with TiffFile(source) as tiff:
            page = tiff.pages.first
            if (pages := sum(not page.aspage().subfiletype & REDUCED_OR_TRANSPARENCY for page in tiff.pages)) > 1:
                raise _pages_error(pages, name)
            if page.samplesperpixel > 1:
                raise _samples_error(page.samplesperpixel, name)
            pixels = page.imagewidth * page.imagelength * page.imagedepth
            if page.imagedepth > 1 or not 0 < pixels <= 2 * (Image.MAX_IMAGE_PIXELS or 0):
                return None
            turn = page.tags.get(ORIENTATION)
            return page.asarray(), int(turn.value) if turn else 1
    except UserError:
        raise
    except Exception:  # tifffile raises exceptions of many types for damaged and foreign files
        return None
