"""List image and mask files by their stems, without opening them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from semiseg.data.files.string_array import FolderFiles
from semiseg.errors import UserError

JPEG_SUFFIXES = (".jpg", ".jpeg")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".webp")
IMAGE_SUFFIXES = (*JPEG_SUFFIXES, *MASK_SUFFIXES, ".gif", ".heic", ".heif", ".avif")


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
