"""Find files of an own folder that look like labels, class files or lists but are not read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from semiseg.data.class_file import CLASS_FILES
from semiseg.data.files.file_lists import JPEG_SUFFIXES, MASK_SUFFIXES, other_files
from semiseg.data.folder_dataset import FolderDataset
from semiseg.errors import printable

LISTS = ("train.txt", "val.txt", "test.txt")
LIST_FOLDERS = (".", "ImageSets/Segmentation", "ImageSets")
SHOWN = 3
UNREAD_FIX = "save them as PNG, or their images stay unlabeled"


def unread_files(dataset: FolderDataset) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return a problem, its fix and the files for labels, class files and lists that are not read."""
    found = []
    if labels := unread_labels(dataset):
        text = f"{len(labels)} file{'s' * (len(labels) > 1)} of a type that is not read in masks/: {_names(labels)}"
        found.append((text, UNREAD_FIX, labels))
    if files := _class_files(dataset):
        text = f"{_names(files)} is not read, because class files belong into {dataset.root}"
        found.append((text, f"move it to {dataset.root / Path(files[0]).name.lower()}", files))
    if files := _lists(dataset):
        found.append((f"{_names(files)}: lists there are not read", f"move them to {dataset.root / 'splits'}", files))
    return found


def unread_labels(dataset: FolderDataset) -> tuple[str, ...]:
    """Return the files in ``masks/`` of other types that are named after an image without mask."""
    others = other_files(dataset.root / "masks", (*MASK_SUFFIXES, *JPEG_SUFFIXES))
    paths = [path for id, path in others.items() if id in dataset.images and id not in dataset.masks]
    return tuple(path.relative_to(dataset.root).as_posix() for path in paths)


def _class_files(dataset: FolderDataset) -> tuple[str, ...]:
    """Return class files in ``masks/`` or ``images/``, or in another case, of a folder without class file."""
    if dataset.class_file is not None:
        return ()
    entries = {folder: _entries(dataset.root / folder) for folder in (".", "masks", "images")}
    return tuple(
        (Path(folder) / name).as_posix()
        for folder, names in entries.items()
        for name in names
        if name.lower() in CLASS_FILES and (folder != "." or name not in CLASS_FILES)
    )


def _lists(dataset: FolderDataset) -> tuple[str, ...]:
    wanted = [name for name in LISTS if dataset.list_path(name[:-4]) is None]
    paths = (Path(folder) / name for folder in LIST_FOLDERS for name in wanted)
    return tuple(path.as_posix() for path in paths if (dataset.root / path).is_file())


def _entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def _names(files: Sequence[str]) -> str:
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return printable(", ".join(files[:SHOWN])) + more
