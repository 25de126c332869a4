"""Derive the train, val and test lists from folders of these names."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

LIST_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""The list that a folder of this name, in any case, stands for."""


def list_of(parts: Iterable[str]) -> str | None:
    """Return the list that the folders of a path name, or None."""
    return next((LIST_FOLDERS[part.lower()] for part in parts if part.lower() in LIST_FOLDERS), None)


def lists_by_folder(images: Mapping[str, Path], masks: Container[str], root: Path) -> dict[str, Sequence[str]]:
    """Return the lists of the images in folders such as ``train/`` and ``val/``; empty without a val or test folder.

    The val and test lists hold annotated images only. Images in other folders are training images.

    Args:
        images: The image files, by id.
        masks: The ids of annotated images.
        root: The folder of the export.
    """
    found = {id: list_of(path.relative_to(root).parts[:-1]) for id, path in images.items()}
    lists = {name: [id for id, list in found.items() if list == name and id in masks] for name in ("val", "test")}
    if not any(lists.values()):
        return {}
    train = [id for id, list in found.items() if list not in lists]
    return {"train": train, **lists}
