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
LOSSY_MASK = "a {} mask is blurred at its edges and worthless; save masks as PNG"
JPEG_MASK = LOSSY_MASK.format("JPEG")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".webp")
IMAGE_SUFFIXES = JPEG_SUFFIXES + MASK_SUFFIXES
# What an EXIF orientation asks for. (PIL's exif_transpose also writes the EXIF anew, and fails where a tag is odd.)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def list_files(directory: Path, suffixes: tuple[str, ...], clashes: list[str] | None = None) -> Mapping[str, Path]:
    """Map the stem of each file in a folder with one of the suffixes to its path, sorted, without opening any.

    Two files that share a stem are an error; where ``clashes`` is given, what is wrong is put there, and the first is
    taken.

    Raises:
        UserError: two files share a stem.
    """
    found: dict[str, str] = {}  # a million of them must neither take long nor much memory
    kinds: dict[str, str] = {}  # the suffix of each ending, empty where it is none of those asked for
    for name in sorted(os.listdir(directory)) if directory.is_dir() else ():
        stem, _, ending = name.rpartition(".")
        if ending not in kinds:
            kinds[ending] = "." + ending if {"." + ending, "." + ending.lower()}.intersection(suffixes) else ""
        if not stem or stem[0] == "." or not kinds[ending]:
            continue
        if stem in found:
            first = directory / (stem + found[stem])
            clash = f"{first}: {name} beside it has the same stem; rename or remove one of the two"
            if clashes is None:
                raise UserError(clash)
            clashes.append(clash)
            continue
        found[stem] = kinds[ending]
    return FolderFiles(directory, found)


def list_tree(directory: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """Map the stem of each such file in a folder and all folders below to its path, sorted, without opening any.

    Hidden folders and those called ``masks`` are passed over: pictures of masks are no images.

    Raises:
        UserError: two files share a stem, wherever they lie.
    """
    files: dict[str, Path] = {}
    for folder, below, _ in os.walk(directory):
        below[:] = sorted(name for name in below if not name.startswith(".") and name != "masks")
        for stem, path in list_files(Path(folder), suffixes).items():
            if stem in files:
                raise UserError(f"{path}: {files[stem]} has the same stem; rename or remove one of the two")
            files[stem] = path
    return dict(sorted(files.items()))


def image_size(path: Path) -> tuple[int, int]:
    """Return an image's width and height, upright as ``read_image_file`` gives it, from the file's head alone.

    Raises:
        UserError: it cannot be read; the message names it.
    """
    try:
        with open_image(path) as opened:
            turned = _orientation(opened) >= 5  # orientations 5 to 8 swap the sides
            width, height = opened.size
    except UNREADABLE as error:
        raise UserError(f"{path}: the image cannot be read ({reason(error)}); replace or remove it") from error
    return (height, width) if turned else (width, height)


def read_image_file(path: str | Path) -> Tensor:
    """Read an image of any mode as uint8 ``(3, H, W)``, RGB, turned upright by its EXIF orientation.

    Raises:
        UserError: it cannot be read; the message names it.
    """
    return decode(Path(path), str(path)).pixels


def decode(source: Path | IO[bytes], name: str, factor: int = 1) -> Decoded:
    """Do what ``read_image_file`` does from a file or its bytes; messages call it ``name``.

    By a ``factor`` of 2, 4 or 8, JPEGs are decoded smaller, which is quicker, and all others averaged over squares. A
    turned image is so only if its sides are multiples of it: its squares would not begin at the upright one's corner.
    """
    try:
        with open_image(source) as opened:
            (width, height), turn = opened.size, _orientation(opened)
            if min(width, height) < factor or (turn > 1 and (width % factor or height % factor)):
                factor = 1
            size = (width, height) if turn >= 5 else (height, width)  # orientations 5 to 8 swap the sides
            return Decoded(upright_rgb(opened, factor), size, factor)
    except UNREADABLE as error:
        raise UserError(f"{name}: the image cannot be read ({reason(error)}); replace or remove it") from error


def _orientation(opened: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; a damaged one turns nothing, since the picture itself may be whole."""
    try:
        value = opened.getexif().get(0x0112)
    except UNREADABLE:
        return 1
    return value if value in TURNS else 1


def upright_rgb(opened: Image.Image, factor: int = 1) -> Tensor:
    """Decode an opened image of any mode as uint8 ``(3, H, W)``, RGB, turned upright by its EXIF orientation.

    With a ``factor`` as ``decode``, each side is so much shorter, and rounded up.
    """
    turn, whole = TURNS.get(_orientation(opened)), opened.size
    if factor > 1:
        opened.draft(None, (max(1, whole[0] // factor), max(1, whole[1] // factor)))  # does nothing but to a JPEG
    rgb = _as_rgb(opened if turn is None else opened.transpose(turn))
    if factor > 1 and opened.size == whole:
        rgb = rgb.reduce(factor)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # 16 bits and more: PIL would clip at 255 instead of scaling.
        values = np.asarray(image, dtype=np.float32)
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are no finite numbers")
        full = max(1.0 if image.mode == "F" else 65535.0, float(values.max()))  # more than 16 bits: by the brightest
        if values.min() < -full / 510:  # of half a gray level it is nothing but rounding
            beyond = ", or above 2147483647" if image.mode == "I" else ""  # which PIL reads as a negative one
            raise ValueError(f"it holds values below 0{beyond}, such as {values.min():g}")
        image = Image.fromarray((values.clip(0, full) * (255 / full)).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def read_mask_file(path: Path, colors: bool = False) -> NDArray[np.uint8]:
    """Read a mask's stored values: uint8 ``(H, W)`` integers or palette indices, or uint8 ``(H, W, 3)`` RGB colors.

    With ``colors`` it is always the latter: what the file shows, however it is stored.

    Raises:
        UserError: it cannot be read, is compressed with loss, or holds values that 8 bits do not; the message names it.
    """
    return decode_mask(path, str(path), colors)


def decode_mask(source: Path | IO[bytes], name: str, colors: bool = False) -> NDArray[np.uint8]:
    """Do what ``read_mask_file`` does from a file or its bytes; messages call it ``name``."""
    try:
        with open_image(source) as opened:
            if kind := lossy_kind(opened, source):
                raise UserError(f"{name}: {LOSSY_MASK.format(kind)}")
            if colors or len(opened.getbands()) > 2:
                return np.array(opened.convert("RGB"))
            values = np.array(opened)
    except UNREADABLE as error:
        raise UserError(f"{name}: the mask cannot be read ({reason(error)}); replace or remove it") from error
    return mask_values(values if values.ndim == 2 else values[..., 0], name)  # a second band is transparency


def mask_values(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Return a mask's values as uint8; raises UserError, calling it ``name``, where 8 bits do not hold them."""
    with np.errstate(invalid="ignore"):  # NaN: told below
        mask: NDArray[np.uint8] = values.astype(np.uint8)
    if values.dtype not in (np.uint8, np.bool_) and (mask != values).any():
        raise UserError(f"{name}: value {values[mask != values][0]} is no integer from 0 to 255; save an 8-bit mask")
    return mask


def write_mask_file(path: Path, mask: Tensor, palette: tuple[Color, ...]) -> None:
    """Write a mask, integer ``(H, W)``, as indexed PNG: the values are the indices, 255 is shown in white."""
    image = Image.fromarray(mask.cpu().numpy().astype(np.uint8))
    colors = np.zeros((256, 3), dtype=np.uint8)
    colors[: len(palette)] = palette
    colors[255] = 255
    image.putpalette(colors.tobytes())
    image.save(path)


def color_indices(values: NDArray[np.uint8], colors: tuple[Color, ...]) -> NDArray[np.uint8] | Color:
    """Turn colors ``(H, W, 3)`` into their indices ``(H, W)``, or return the first color that has none."""

    def codes(rgb: NDArray[Any]) -> NDArray[np.int32]:
        red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
        return red << 16 | green << 8 | blue

    wanted, known = codes(values), codes(np.array(colors))
    order = np.argsort(known, kind="stable")
    indices = order[np.searchsorted(known[order], wanted).clip(max=len(known) - 1)]
    strange = known[indices] != wanted
    if strange.any():
        red, green, blue = values[strange][0].tolist()
        return red, green, blue
    return indices.astype(np.uint8)


def reason(error: Exception) -> str:
    """Put an exception into a few words on one line."""
    if isinstance(error, UnidentifiedImageError):  # its words are the file's path, which is named already
        return "cannot identify what kind of image it is"
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join((words or type(error).__name__).split())[:120]
