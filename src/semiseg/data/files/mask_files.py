"""Read and write mask files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from torch import Tensor

from semiseg.data.dataset import Color
from semiseg.data.files.image_header import UNREADABLE, lossy_kind, open_image, unreadable_error
from semiseg.data.files.mask_layers import (
    FAX,
    ORIENTATION,
    SOURCE,
    opaque,
    read_tiff_values,
    refuse_layers,
    refuse_unclear_polarity,
)
from semiseg.errors import UserError


@dataclass(frozen=True)
class StoredMask:
    """A decoded mask, upright.

    Attributes:
        values: ``(H, W)``, integers as stored in the file, not scaled or inverted, uint8 or wider; or uint8
            ``(H, W, 3)``, RGB colors.
        palette: uint8 ``(256, 3)``, the displayed color of each index; None unless the file has a palette.
        entries: The number of entries of the palette in the file; further ones are black.
        orientation: The EXIF orientation of the file, 1 to 8. The mask is upright.
    """

    values: NDArray[Any]
    palette: NDArray[np.uint8] | None = None
    entries: int = 0
    orientation: int = 1


def read_mask_file(path: Path, colors: bool = False) -> NDArray[np.uint8]:
    """Read the stored values of a mask.

    Returns:
        uint8 ``(H, W)``, integers or palette indices, or uint8 ``(H, W, 3)``, RGB colors. With ``colors`` always the
        latter: the displayed colors, however they are stored.

    Raises:
        UserError: The file cannot be read, its compression is lossy, it has several pages or partly transparent pixels,
            or its values do not fit into 8 bits.
    """
    return decode_mask(path, str(path), colors)


def decode_mask(source: Path | IO[bytes], name: str, colors: bool = False) -> NDArray[np.uint8]:
    """Decode a mask like ``read_mask_file``, from a file or its bytes. Error messages call it ``name``."""
    mask = load_mask(source, name)
    if mask.values.ndim == 3:
        return mask.values
    values = mask_values(mask.values, name)
    if not colors:
        return values
    return np.repeat(values[..., None], 3, axis=2) if mask.palette is None else mask.palette[values]


def load_mask(source: Path | IO[bytes], name: str) -> StoredMask:
    """Decode a mask without interpreting its values. Raises UserError for files that ``read_mask_file`` refuses."""
    try:
        with open_image(source) as opened:
            if kind := lossy_kind(opened, source):
                raise lossy_mask_error(name, kind)
            refuse_layers(opened, name)
            refuse_unclear_polarity(opened, name)
            stored_as = _raw_mode(opened)  # before the orientation, for which PIL may decode the file
            turn = exif_orientation(opened)
            palette, entries = None, 0
            if "16" in stored_as and opened.mode in ("RGB", "RGBA"):  # PIL drops the lower 8 bits
                raise UserError("the mask holds colors of 16 bits", path=name, fix="save an 8-bit mask")
            opened.load()
            image: Image.Image = opened
            if opened.mode in ("P", "PA"):
                listed = np.array(opened.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
                entries, palette = len(listed), np.zeros((256, 3), dtype=np.uint8)
                palette[:entries] = listed
            elif opened.mode in ("LA", "La", "RGBA", "RGBa"):
                image = opaque(opened.convert(opened.mode.upper()), name)
            elif len(opened.getbands()) > 1:
                image = opened.convert("RGB")
            values = np.array(image)
            if opened.mode == "PA":
                values = values[..., 0]
            values = _as_stored(values, stored_as, opened.info.get("compression", ""))
            if not values.size:
                raise ValueError("it has no pixels")
    except UNREADABLE as error:
        if (found := read_tiff_values(source, name)) is None:
            raise unreadable_error("mask", name, error) from error
        values, turn = found
        return StoredMask(_upright(values, turn), orientation=turn)
    values = values if opened.format == "TIFF" else _upright(values, turn)  # PIL turns TIFF files itself
    return StoredMask(values, palette, entries, turn)


def exif_orientation(opened: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, or 1 if the EXIF data is damaged."""
    try:
        value = opened.getexif().get(ORIENTATION)
    except UNREADABLE:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _raw_mode(opened: ImageFile.ImageFile) -> str:
    """Return PIL's name for the stored form of the pixels, as ``L;2I`` for inverted gray of 2 bits, before decoding."""
    arguments = opened.tile[0][3] if opened.tile else ""
    parts = arguments if isinstance(arguments, tuple) else (arguments,)
    return next((part for part in parts if isinstance(part, str)), "")


def _as_stored(values: NDArray[Any], stored_as: str, compression: str) -> NDArray[Any]:
    """Undo the scaling of gray values of 2 and 4 bits and the inversion of TIFF files in which 0 is white.

    Fax compression is the exception: programs that use it store white as 0 and mean the displayed value.
    """
    depth = stored_as.partition(";")[2]
    if "I" in depth and values.dtype in (np.bool_, np.uint8) and compression not in FAX:
        values = ~values
    if stored_as.startswith("L;") and depth[:1] in ("2", "4"):
        values = values // (85 if depth[0] == "2" else 17)
    return values


def _upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn a stored array ``(H, W, ...)`` upright."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return np.ascontiguousarray(values)


THRESHOLD = f"run `semiseg import {SOURCE} --threshold 128` to round to the nearest class"
"""The fix for masks with blurred edges."""


def lossy_mask_error(path: str | Path, kind: str) -> UserError:
    """Return the error for a mask with lossy compression. ``kind`` names the compression."""
    problem = f"a {kind} mask is blurred at its edges by lossy compression"
    return UserError(problem, path=path, fix=f"save masks as PNG, or {THRESHOLD}")


def mask_values(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Return the values of a mask as uint8. Raises UserError, naming ``name``, if they do not fit into 8 bits."""
    with np.errstate(invalid="ignore"):  # NaN raises UserError below
        mask: NDArray[np.uint8] = values.astype(np.uint8)
    if values.dtype not in (np.uint8, np.bool_) and (mask != values).any():
        value = values[mask != values][0]
        raise UserError(f"value {value} is not an integer from 0 to 255", path=name, fix="save an 8-bit mask")
    return mask


def write_mask_file(path: Path, mask: Tensor, palette: tuple[Color, ...]) -> None:
    """Write an integer mask ``(H, W)`` as indexed PNG: the indices are the values, 255 is white.

    The folder is created if needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask.cpu().numpy().astype(np.uint8))
    colors = np.zeros((256, 3), dtype=np.uint8)
    colors[: len(palette)] = palette
    colors[255] = 255
    image.putpalette(colors.tobytes())
    image.save(path)


def color_codes(rgb: NDArray[Any]) -> NDArray[np.int32]:
    """Return one integer for each color ``(..., 3)``."""
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    codes: NDArray[np.int32] = red << 16 | green << 8 | blue
    return codes


def color_indices(values: NDArray[np.uint8], colors: tuple[Color, ...]) -> NDArray[np.uint8] | Color:
    """Convert colors ``(H, W, 3)`` to their indices ``(H, W)``, or return the first color that is not in ``colors``."""
    wanted, known = color_codes(values), color_codes(np.array(colors))
    order = np.argsort(known, kind="stable")
    indices = order[np.searchsorted(known[order], wanted).clip(max=len(known) - 1)]
    unknown = known[indices] != wanted
    if unknown.any():
        red, green, blue = values[unknown][0].tolist()
        return red, green, blue
    return indices.astype(np.uint8)
