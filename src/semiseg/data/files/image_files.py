"""Image and mask files on disk: list, read, write."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from semiseg.data.dataset import Color, Decoded
from semiseg.data.files.image_header import UNREADABLE, lossy_kind, open_image
from semiseg.data.files.string_array import FolderFiles
from semiseg.errors import UserError

JPEG_SUFFIXES = (".jpg", ".jpeg")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".webp")
IMAGE_SUFFIXES = JPEG_SUFFIXES + MASK_SUFFIXES
# EXIF orientations. (PIL's exif_transpose also rewrites the EXIF data, which fails on malformed tags.)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def list_files(
    directory: Path, suffixes: tuple[str, ...], clashes: list[UserError] | None = None
) -> Mapping[str, Path]:
    """Map the stem of each file in a folder with one of the suffixes to its path, sorted, without opening files.

    Args:
        directory: The folder. If it does not exist, the result is empty.
        suffixes: Lower-case suffixes; upper-case ones match too.
        clashes: Collects an error for each pair of files with the same stem, of which the first is returned. If None,
            such a pair raises UserError.

    Raises:
        UserError: Two files have the same stem.
    """
    found: dict[str, str] = {}  # stem -> suffix, which is compact enough for a million files
    kinds: dict[str, str] = {}  # ending -> suffix, empty for other suffixes
    for name in sorted(os.listdir(directory)) if directory.is_dir() else ():
        stem, _, ending = name.rpartition(".")
        if ending not in kinds:
            kinds[ending] = "." + ending if {"." + ending, "." + ending.lower()}.intersection(suffixes) else ""
        if not stem or stem[0] == "." or not kinds[ending]:
            continue
        if stem in found:
            first = directory / (stem + found[stem])
            clash = UserError(
                f"{name} in the same folder has the same stem", path=first, fix="rename or remove one of the two"
            )
            if clashes is None:
                raise clash
            clashes.append(clash)
            continue
        found[stem] = kinds[ending]
    return FolderFiles(directory, found)


def list_tree(directory: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """Map the stem of each file in a folder and its subfolders to its path, sorted, without opening files.

    Hidden folders and folders called ``masks`` are skipped.

    Raises:
        UserError: Two files have the same stem, in whichever folders.
    """
    files: dict[str, Path] = {}
    for folder, below, _ in os.walk(directory):
        below[:] = sorted(name for name in below if not name.startswith(".") and name != "masks")
        for stem, path in list_files(Path(folder), suffixes).items():
            if stem in files:
                raise UserError(f"{files[stem]} has the same stem", path=path, fix="rename or remove one of the two")
            files[stem] = path
    return dict(sorted(files.items()))


def image_size(path: Path) -> tuple[int, int]:
    """Return the width and height of an upright image, reading only the header.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        with open_image(path) as opened:
            turned = _orientation(opened) >= 5  # orientations 5 to 8 swap the sides
            width, height = opened.size
    except UNREADABLE as error:
        raise _unreadable("image", str(path), error) from error
    return (height, width) if turned else (width, height)


def read_image_file(path: str | Path) -> Tensor:
    """Read an image of any mode as uint8 ``(3, H, W)``, RGB, turned upright by its EXIF orientation.

    Raises:
        UserError: The file cannot be read.
    """
    return decode(Path(path), str(path)).pixels


def decode(source: Path | IO[bytes], name: str, factor: int = 1) -> Decoded:
    """Decode an image like ``read_image_file``, optionally at reduced size.

    JPEGs are decoded at reduced size, which is faster. Other formats are decoded and averaged over squares. An image
    with an EXIF orientation is reduced only if its sides are multiples of ``factor``; otherwise the squares would not
    start at the corner of the upright image.

    Args:
        source: The file, or its bytes.
        name: The name in error messages.
        factor: 1, 2, 4 or 8.

    Raises:
        UserError: The image cannot be read.
    """
    try:
        with open_image(source) as opened:
            (width, height), turn = opened.size, _orientation(opened)
            if min(width, height) < factor or (turn > 1 and (width % factor or height % factor)):
                factor = 1
            size = (width, height) if turn >= 5 else (height, width)  # orientations 5 to 8 swap the sides
            return Decoded(upright_rgb(opened, factor), size, factor)
    except UNREADABLE as error:
        raise _unreadable("image", name, error) from error


def _orientation(opened: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, or 1 if the EXIF data is damaged: the pixels may still be valid."""
    try:
        value = opened.getexif().get(0x0112)
    except UNREADABLE:
        return 1
    return value if value in TURNS else 1


def upright_rgb(opened: Image.Image, factor: int = 1) -> Tensor:
    """Decode an opened image of any mode as uint8 ``(3, H, W)``, RGB, turned upright by its EXIF orientation.

    With a ``factor`` (see ``decode``), the sides are divided by it and rounded up.
    """
    turn, whole = TURNS.get(_orientation(opened)), opened.size
    if factor > 1:
        opened.draft(None, (max(1, whole[0] // factor), max(1, whole[1] // factor)))  # affects JPEGs only
    rgb = _as_rgb(opened if turn is None else opened.transpose(turn))
    if factor > 1 and opened.size == whole:
        rgb = rgb.reduce(factor)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # 16 bits and more: PIL would clip at 255 instead of scaling
        values = np.asarray(image, dtype=np.float32)
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are not finite")
        full = max(1.0 if image.mode == "F" else 65535.0, float(values.max()))  # above 16 bits: scale by the maximum
        if values.min() < -full / 510:  # less than half a gray level below 0 is rounding
            beyond = ", or above 2147483647" if image.mode == "I" else ""  # which PIL reads as negative
            raise ValueError(f"it holds values below 0{beyond}, such as {values.min():g}")
        image = Image.fromarray((values.clip(0, full) * (255 / full)).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")  # convert always copies


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
        raise _unreadable("mask", name, error) from error
    return mask_values(values if values.ndim == 2 else values[..., 0], name)  # the second band is transparency


def lossy_mask_error(path: str | Path, kind: str) -> UserError:
    """Return the error for a mask with lossy compression. ``kind`` names the compression."""
    problem = f"a {kind} mask is blurred at its edges by lossy compression"
    return UserError(problem, path=path, fix="save masks as PNG")


def _unreadable(kind: str, name: str, error: Exception) -> UserError:
    return UserError(f"the {kind} cannot be read ({reason(error)})", path=name, fix="replace or remove it")


def mask_values(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Return the values of a mask as uint8. Raises UserError, naming ``name``, if they do not fit into 8 bits."""
    with np.errstate(invalid="ignore"):  # NaN raises UserError below
        mask: NDArray[np.uint8] = values.astype(np.uint8)
    if values.dtype not in (np.uint8, np.bool_) and (mask != values).any():
        value = values[mask != values][0]
        raise UserError(f"value {value} is not an integer from 0 to 255", path=name, fix="save an 8-bit mask")
    return mask


def write_mask_file(path: Path, mask: Tensor, palette: tuple[Color, ...]) -> None:
    """Write an integer mask ``(H, W)`` as indexed PNG: the indices are the values, 255 is white."""
    image = Image.fromarray(mask.cpu().numpy().astype(np.uint8))
    colors = np.zeros((256, 3), dtype=np.uint8)
    colors[: len(palette)] = palette
    colors[255] = 255
    image.putpalette(colors.tobytes())
    image.save(path)


def write_image_file(path: Path, image: Tensor) -> None:
    """Write an image, uint8 ``(3, H, W)``, as PNG."""
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(path, compress_level=1)


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


def reason(error: Exception) -> str:
    """Return the message of an exception, in one line of at most 120 characters."""
    if isinstance(error, UnidentifiedImageError):  # its message is the path, which is named already
        return "cannot identify what kind of image it is"
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join((words or type(error).__name__).split())[:120]
