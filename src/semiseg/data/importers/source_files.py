"""Find the images of an export and the image that an annotation names, without leaving the folder of the export."""

from __future__ import annotations

import codecs
import mmap
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from semiseg.data.file_dataset import read_json
from semiseg.data.files.file_lists import IMAGE_SUFFIXES
from semiseg.data.importers.list_folders import LIST_FOLDERS
from semiseg.errors import UserError

SKIPPED = ("__MACOSX", "masks", "SegmentationClassVisualization")
"""Folders that hold no photographs, in any form."""
MAX_ANNOTATION_BYTES = 2**30
"""The largest annotation file that is read as a whole. The largest file of COCO 2017 has 470 MB."""


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


def list_word(name: str) -> str | None:
    """Return ``train``, ``val`` or ``test`` if that word is in the name of a file, else None. The last word counts."""
    found = [LIST_FOLDERS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in LIST_FOLDERS]
    return found[-1] if found else None


def list_folder(folder: PurePosixPath | Path) -> str | None:
    """Return ``train``, ``val`` or ``test`` if a folder of the path has that name, as ``train2017``, else None."""
    names = (re.sub(r"[-_\d]+$", "", part.lower()) for part in reversed(folder.parts))
    return next((LIST_FOLDERS[name] for name in names if name in LIST_FOLDERS), None)


def is_own_folder(root: Path) -> bool:
    """Return whether a directory holds ``images/`` and ``masks/``.

    Without ``splits/``, which imports always write, both must not be divided into folders for the lists, as
    ``images/train`` and ``masks/train``.
    """
    images = root / "images"
    if not (images.is_dir() and (root / "masks").is_dir()):
        return False
    return (root / "splits").is_dir() or not any(list_folder(Path(path.name)) for path in images.glob("*/"))


def folder_names(path: Path) -> tuple[str, ...]:
    """Return names of folders that may hold the images of a file: ``train2017`` for ``instances_train2017.json``."""
    stem = path.stem.removeprefix("instances_").removeprefix("panoptic_")
    word = list_word(path.stem)
    return (path.parent.name, stem, *((word, {"val": "valid"}.get(word, word)) if word else ()))


def json_files(root: Path, depth: int = 4) -> list[Path]:
    """Return the JSON files of a folder and those at most ``depth`` folders below, sorted."""
    patterns = ("*/" * level + "*.json" for level in range(depth + 1))
    return [path for pattern in patterns for path in sorted(root.glob(pattern)) if not path.name.startswith(".")]


def is_json(path: Path, *words: bytes, start: bytes = b"{") -> bool:
    """Return whether a JSON file begins with ``start`` and contains all the words, without decoding it."""
    try:
        if not path.is_file() or path.stat().st_size < len(start):  # reading a pipe would block
            return False
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            head = content[:100].removeprefix(codecs.BOM_UTF8).lstrip()
            return head.startswith(start) and all(content.find(word) >= 0 for word in words)
    except (OSError, ValueError):
        return False


def read_bounded_json(path: Path) -> Any:
    """Read a JSON file. Raises UserError if it cannot be read or is larger than ``MAX_ANNOTATION_BYTES``."""
    require_bounded(path)
    return read_json(path)


def require_bounded(path: Path) -> None:
    """Raise UserError if an annotation file is larger than ``MAX_ANNOTATION_BYTES``."""
    if path.is_file() and (size := path.stat().st_size) > MAX_ANNOTATION_BYTES:
        limit = f"{MAX_ANNOTATION_BYTES / 2**30:.0f} GiB"
        raise UserError(f"the file has {size} bytes, more than {limit}", path=path, fix="export it in several files")


_KINDS = (
    "image images img imgs jpegimages photo photos ann anns annot annots annotation annotations json jsons xml xmls "
    "txt label labels"
)
ROLE_WORDS = frozenset(_KINDS.split())
"""Names of folders that say what the files in them are, but not which images they belong to."""


class ImageFinder:
    """Finds the image that an annotation names by a path, a URL or a file name.

    A path is compared from its end, so that it may be absolute, of another machine, or use backslashes. It can only
    match an image that was found below the folder of the export.

    Args:
        images: The images, from ``find_images``.
        root: The folder of the export.
    """

    def __init__(self, images: Mapping[str, Path], root: Path) -> None:
        self._root = _parts(root.as_posix())
        self._places = {id: self._place(_parts(path.as_posix())) for id, path in images.items()}
        self._common = _common([*self._places.values()])
        self._by_name: dict[str, list[tuple[str, tuple[str, ...]]]] = defaultdict(list)
        for id, path in images.items():
            parts = _parts(path.as_posix())
            self._by_name[parts[-1]].append((id, parts))
            self._by_name[parts[-1].rpartition(".")[0] + "."].append((id, parts))  # for names in another format

    def find_all(self, references: Sequence[tuple[str, Sequence[str]]]) -> list[str | None]:
        """Return the id of each image, or None if it is missing.

        An image in another folder than the one that its annotation names may be another image of the same name. It only
        counts if no reference agrees with the folder of its image. For file names, the preferred folders count instead.

        Args:
            references: Paths or file names, each with names of folders to prefer, as in ``find``.
        """
        found = [self.find(reference, *folders) for reference, folders in references]
        parts = [_parts(reference) for reference, _ in references]
        places = [self._place(names) for names in parts]
        common = _common([place for place, names in zip(places, parts, strict=True) if len(names) > 1])
        agreeing: dict[bool, dict[int, bool]] = {False: {}, True: {}}
        for index, (id, (_, folders)) in enumerate(zip(found, references, strict=True)):
            bare = len(parts[index]) == 1
            if id is not None:
                own = self._places[id]
                agreeing[bare][index] = (
                    own[-1:] != () and own[-1] in folders if bare else self._agrees(id, places[index], common)
                )
        for group in agreeing.values():
            for index, agrees in group.items():
                if not agrees and any(group.values()):
                    found[index] = None
        return found

    def is_beside(self, id: str, file: Path) -> bool:
        """Return whether the folder of an image is that of an annotation file, or the corresponding one."""
        return self._places[id] == self._place(_parts(file.as_posix()))

    def _agrees(self, id: str, place: tuple[str, ...], common: int) -> bool:
        """Return whether the folder of an image is the one that a reference names."""
        own = self._places[id]
        shorter = min(len(own), len(place))
        ends = shorter > 0 and own[-shorter:] == place[-shorter:]
        return own == place or ends or own[self._common :] == place[common:]

    def _place(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        """Return the folders of a path below the root, without those that only name a kind of file."""
        below = parts[len(self._root) : -1] if parts[: len(self._root)] == self._root else parts[:-1]
        return tuple(part for part in below if part.lower() not in ROLE_WORDS)

    def find(self, reference: str, *folders: str) -> str | None:
        """Return the id of the image, or None if there is none or several match equally well.

        Args:
            reference: A path or file name.
            folders: Names of folders to prefer among images of one name.
        """
        ids = self.find_equal(reference, *folders)
        return ids[0] if len(ids) == 1 else None

    def find_equal(self, reference: str, *folders: str) -> list[str]:
        """Return the ids of all images that match a reference equally well, as in ``find``."""
        parts = _parts(reference)
        name = re.sub(r"^[0-9a-f]{8}[-_]+", "", parts[-1])  # Label Studio puts such a prefix before names
        forms = (parts[-1], parts[-1].rpartition(".")[0] + ".", name, name.rpartition(".")[0] + ".")
        candidates = next((self._by_name[form] for form in forms if form in self._by_name), [])

        exact = "/".join(parts).rpartition(".")[0]  # the path below the common folder of the images

        def rank(id: str, found: tuple[str, ...]) -> tuple[int, int, bool]:
            pairs = zip(reversed(parts[:-1]), reversed(found[:-1]), strict=False)
            equal = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(parts), len(found)) - 1)
            return equal, len(set(folders).intersection(found[:-1])), id == exact

        ranked = [(rank(id, found), id) for id, found in candidates]
        best = max((key for key, _ in ranked), default=None)
        return [id for key, id in ranked if key == best]


def _parts(text: str) -> tuple[str, ...]:
    """Return the components of a path or URL, in Unicode NFC."""
    if re.match(r"\w{2,}://", text):
        text = unquote(text.split("?")[0])
    return tuple(part for part in unicodedata.normalize("NFC", text.replace("\\", "/")).split("/") if part) or ("",)


def _common(places: Sequence[tuple[str, ...]]) -> int:
    """Return the number of leading folders that all places share."""
    return sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*places, strict=False)))
