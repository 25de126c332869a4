"""Read and write mask files."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from semiseg.data.dataset import Color
from semiseg.data.files.image_header import UNREADABLE, lossy_kind, open_image, unreadable_error
from semiseg.errors import UserError


def read_mask_file(path: Path, colors: bool = False) -> NDArray[np.uint8]:
    """Read the stored values of a mask.

    Returns:
        uint8 ``(H, W)``, integers or palette indices, or uint8 ``(H, W, 3)``, RGB colors. With ``colors`` always the
        latter: the displayed colors, however they are stored.

    Raises:
        UserError: The file cannot be read, its compression is lossy, or its values do not fit into 8 bits.
    """
    return decode_mask(path, str(path), colors)


def decode_mask(source: Path | IO[bytes], name: str, colors: bool = False) -> NDArray[np.uint8]:
    """Decode a mask like ``read_mask_file``, from a file or its bytes. Error messages call it ``name``."""
    try:
        with open_image(source) as opened:
            if kind := lossy_kind(opened, source):
                raise lossy_mask_error(name, kind)
            if colors or len(opened.getbands()) > 2:
                return np.array(opened.convert("RGB"))
            values = np.array(opened)
    except UNREADABLE as error:
        raise unreadable_error("mask", name, error) from error
    return mask_values(values if values.ndim == 2 else values[..., 0], name)  # the second band is transparency


def lossy_mask_error(path: str | Path, kind: str) -> UserError:
    """Return the error for a mask with lossy compression. ``kind`` names the compression."""
    problem = f"a {kind} mask is blurred at its edges by lossy compression"
    return UserError(problem, path=path, fix="save masks as PNG")


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


def color_indices(values: NDArray[np.uint8], colors: tuple[Color, ...]) -> NDArray[np.uint8] | Color:
    """Convert colors ``(H, W, 3)`` to their indices ``(H, W)``, or return the first color that is not in ``colors``."""

    def codes(rgb: NDArray[Any]) -> NDArray[np.int32]:
        red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
        return red << 16 | green << 8 | blue

    wanted, known = codes(values), codes(np.array(colors))
    order = np.argsort(known, kind="stable")
    indices = order[np.searchsorted(known[order], wanted).clip(max=len(known) - 1)]
    unknown = known[indices] != wanted
    if unknown.any():
        red, green, blue = values[unknown][0].tolist()
        return red, green, blue
    return indices.astype(np.uint8)
