"""Derive the train, val and test lists from folders of these names."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

LIST_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""The list that a folder of this name, in any case, stands for."""


def lists_by_folder(folders: Mapping[str, Iterable[str]], masks: Container[str]) -> dict[str, Sequence[str]]:
    """Return the lists of the images in folders such as ``train/`` and ``val/``; empty without a val or test folder.

    The val and test lists hold annotated images only. Images in other folders are training images.

    Args:
        folders: The folders of each image below the root, by id.
        masks: The ids of annotated images.
    """
    found = {
        id: next((LIST_FOLDERS[part.lower()] for part in parts if part.lower() in LIST_FOLDERS), "train")
        for id, parts in folders.items()
    }
    lists = {name: [id for id, list in found.items() if list == name and id in masks] for name in ("val", "test")}
    if not any(lists.values()):
        return {}
    return {"train": [id for id, list in found.items() if list == "train"], **lists}
