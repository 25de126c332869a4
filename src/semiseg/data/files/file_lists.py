"""List image and mask files by id, without opening them.

The id of a file is its path below the listed folder without the suffix, with ``/``, in Unicode normalization form C:
``2023/site a/img03`` for ``images/2023/site a/img03.JPG``. Names from macOS may be in form D, which looks the same.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from semiseg.data.files.string_array import FolderFiles
from semiseg.errors import UserError, os_error

JPEG_SUFFIXES = (".jpg", ".jpeg")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".webp")
IMAGE_SUFFIXES = (*JPEG_SUFFIXES, *MASK_SUFFIXES, ".gif", ".heic", ".heif", ".avif")


def nfc(text: str) -> str:
    """Return text in Unicode normalization form C."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def list_files(
    directory: Path, suffixes: tuple[str, ...], clashes: list[UserError] | None = None, nested: bool = False
) -> Mapping[str, Path]:
    """Map the id of each file in a folder with one of the suffixes to its path, sorted, without opening files.

    Hidden files and folders are skipped. Links to files and folders are followed.

    Args:
        directory: The folder. If it does not exist, the result is empty.
        suffixes: Lower-case suffixes; upper-case ones match too.
        clashes: Collects an error for each pair of files with the same id; the first file is returned. If None, such
            a pair raises UserError.
        nested: List subfolders as well.

    Raises:
        UserError: Two files have the same id.
    """
    found: dict[str, str] = {}  # id -> suffix, which is compact enough for a million files
    original: dict[str, str] = {}  # id -> path without suffix, where it is not the id
    kinds: dict[str, str] = {}  # ending -> suffix, empty for other suffixes
    for folder, names, _ in _walk(directory, suffixes, nested):
        for name in names:
            stem, _, ending = name.rpartition(".")
            if ending not in kinds:
                kinds[ending] = "." + ending if {"." + ending, "." + ending.lower()}.intersection(suffixes) else ""
            if not stem or stem[0] == "." or not kinds[ending]:
                continue
            path = folder + stem
            id = nfc(path)
            if id in found:
                first = directory / (original.get(id, id) + found[id])
                where = f"{folder}{name}" if nested and folder else f"{name} in the same folder"
                clash = UserError(f"{where} has the same stem", path=first, fix="rename one of the two and its mask")
                if clashes is None:
                    raise clash
                clashes.append(clash)
                continue
            found[id] = kinds[ending]
            if id != path:
                original[id] = path
    return FolderFiles(directory, found, original)


def other_files(directory: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Map the id of each file in a folder and its subfolders with none of the suffixes to its path.

    Hidden files and folders are skipped. Of several files with the same id, the last is returned.
    """
    found = dict[str, Path]()
    for folder, _, names in _walk(directory, suffixes, nested=True):
        paths = (directory / folder / name for name in names if name[0] != ".")
        found |= {nfc(folder + path.stem): path for path in paths if path.is_file()}
    return found


def _walk(directory: Path, suffixes: tuple[str, ...], nested: bool) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield the path of each folder below ``directory``, empty or ending with a slash, and its sorted names.

    The names come in two lists: those with one of the suffixes, and all others except folders. (Without ``nested``, the
    first list holds all names.) A folder that several links lead to is listed once, so a loop of links ends. Links are
    followed after all other folders.
    """
    if not nested:
        if directory.is_dir():
            yield "", sorted(os.listdir(directory)), []
        return
    seen: set[tuple[int, int]] = set()
    folders, links = [""], list[str]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        path = os.path.join(directory, folder)
        try:
            status = os.stat(path)
            if (key := (status.st_dev, status.st_ino)) in seen or not os.path.isdir(path):
                continue
            seen.add(key)
            names, others, below = [], [], []
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.lower().endswith(suffixes):  # a folder of this name cannot be read later
                        names.append(entry.name)
                    elif entry.is_dir(follow_symlinks=False):
                        below.append(entry.name)
                    elif entry.is_symlink() and _is_dir(entry):
                        links.append(f"{folder}{entry.name}/")
                    else:
                        others.append(entry.name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise os_error(error, "cannot be read", path) from None
        folders += [f"{folder}{name}/" for name in sorted(below, reverse=True) if name[0] != "."]
        links.sort()
        yield folder, sorted(names), sorted(others)


def _is_dir(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):  # a loop of links
        return entry.name[0] != "." and entry.is_dir()
    return False


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
                raise UserError(f"{files[stem]} has the same stem", path=path, fix="rename one of the two")
            files[stem] = path
    return dict(sorted(files.items()))
