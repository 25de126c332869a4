"""Find the images of an export and the image that an annotation names, without leaving the folder of the export."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from semiseg.data.files.file_lists import IMAGE_SUFFIXES

SKIPPED = ("__MACOSX", "masks", "SegmentationClassVisualization")
"""Folders that hold no photographs, in any form."""


def walk_files(root: Path) -> Iterator[Path]:
    """Yield the files below a folder, sorted, without hidden files and folders. Links to folders are not followed."""
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith(".") and name != "__MACOSX")
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder, name)


def find_images(root: Path, skipped: tuple[str, ...] = SKIPPED) -> dict[str, Path]:
    """Return the images below a folder by id, sorted.

    Args:
        root: The folder.
        skipped: Names of folders without photographs.
    """
    files = [path for path in walk_files(root) if path.suffix.lower() in IMAGE_SUFFIXES]
    return name_images(path for path in files if not set(path.relative_to(root).parts[:-1]).intersection(skipped))


def name_images(paths: Iterator[Path] | list[Path]) -> dict[str, Path]:
    """Return images by id, sorted: the path below their common folder, without suffix, in Unicode NFC.

    Images whose ids are equal get their suffix too: ``a_png`` and ``a_jpg``.
    """
    paths = list(paths)
    if not paths:
        return {}
    common = Path(os.path.commonpath([path.parent for path in paths]))
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        groups[as_id(path.relative_to(common).with_suffix(""))].append(path)
    images = {}
    for id, group in groups.items():
        for path in group:
            unique = id if len(group) == 1 else f"{id}_{path.suffix[1:]}"
            while unique in images or (unique != id and unique in groups):
                unique += "_"
            images[unique] = path
    return dict(sorted(images.items()))


def as_id(path: PurePosixPath | Path) -> str:
    """Return a relative path as an id: forward slashes, Unicode NFC."""
    return unicodedata.normalize("NFC", path.as_posix())


class ImageFinder:
    """Finds the image that an annotation names by a path, a URL or a file name.

    A path is compared from its end, so that it may be absolute, of another machine, or use backslashes. It can only
    match an image that was found below the folder of the export.

    Args:
        images: The images, from ``find_images``.
    """

    def __init__(self, images: Mapping[str, Path]) -> None:
        self._by_name: dict[str, list[tuple[str, tuple[str, ...]]]] = defaultdict(list)
        for id, path in images.items():
            parts = _parts(path.as_posix())
            self._by_name[parts[-1]].append((id, parts))
            self._by_name[parts[-1].rpartition(".")[0] + "."].append((id, parts))  # for names in another format

    def find(self, reference: str, *folders: str) -> str | None:
        """Return the id of the image, or None if there is none or several match equally well.

        Args:
            reference: A path or file name.
            folders: Names of folders to prefer among images of one name.
        """
        parts = _parts(reference)
        candidates = self._by_name.get(parts[-1]) or self._by_name.get(parts[-1].rpartition(".")[0] + ".") or []

        exact = "/".join(parts).rpartition(".")[0]  # the path below the common folder of the images

        def rank(id: str, found: tuple[str, ...]) -> tuple[int, int, bool]:
            pairs = zip(reversed(parts[:-1]), reversed(found[:-1]), strict=False)
            equal = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(parts), len(found)) - 1)
            return equal, len(set(folders).intersection(found[:-1])), id == exact

        ranked = sorted(((rank(id, found), id) for id, found in candidates), reverse=True)
        if not ranked or (len(ranked) > 1 and ranked[0][0] == ranked[1][0]):
            return None
        return ranked[0][1]


def _parts(text: str) -> tuple[str, ...]:
    """Return the components of a path or URL, in Unicode NFC."""
    if re.match(r"\w{2,}://", text):
        text = unquote(text.split("?")[0])
    return tuple(part for part in unicodedata.normalize("NFC", text.replace("\\", "/")).split("/") if part) or ("",)
