"""Find the images to predict in files and directories, and name their predictions."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from semiseg.data.files.file_lists import IMAGE_SUFFIXES
from semiseg.data.files.image_header import UNSUPPORTED, describe_unsupported
from semiseg.errors import UserError, printable

SIDECARS = (
    *(".txt", ".csv", ".tsv", ".json", ".geojson", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".log"),
    *(".md", ".rst", ".html", ".htm", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".py", ".sh", ".ipynb", ".db", ".url"),
    *(".tfw", ".tifw", ".jgw", ".pgw", ".wld", ".prj", ".ovr", ".aux", ".rrd", ".cpg", ".dbf", ".shp", ".shx", ".qgz"),
    *(".xmp", ".thm", ".aae", ".part", ".tmp", ".bak", ".crdownload", ".md5", ".sha256"),
)
"""Suffixes of texts and metadata, which are not reported."""
NOT_READ = {suffix for suffixes in UNSUPPORTED.values() for suffix in suffixes.split()}


@dataclass(frozen=True)
class FoundImage:
    """An image to predict.

    Attributes:
        path: The file.
        name: The path of its predictions below the output directory, without suffix, such as ``day 1/IMG_0001``.
        root: The given directory, or the directory of a given file.
    """

    path: Path
    name: str
    root: Path

    @property
    def relative(self) -> str:
        """The path below ``root``, with ``/``."""
        return self.path.relative_to(self.root).as_posix()


@dataclass(frozen=True)
class FoundImages:
    """The images in files and directories, and the files of unsupported kinds."""

    images: tuple[FoundImage, ...]
    unsupported: tuple[Path, ...]

    def print_unsupported(self) -> None:
        """Print how many files are not images that semiseg reads."""
        if self.unsupported:
            shown = ", ".join(map(str, self.unsupported[:3])) + (", ..." if len(self.unsupported) > 3 else "")
            text = f"{describe_unsupported(self.unsupported)}, kinds of files that are not read: {shown}"
            print(printable(f"skipped: {text}"), file=sys.stderr)


def find_images(paths: Iterable[str | Path], out: Path) -> FoundImages:
    """Find the images in files, directories and their subdirectories, and name their predictions.

    The predictions mirror the tree below each given directory: ``day 1/a.jpg`` becomes ``OUT/day 1/a.png``. If two
    given directories contain the same name, all names begin with the name of the directory. If two files differ only in
    their suffix, their names end with it: ``a.jpg.png`` and ``a.png.png``.

    Args:
        paths: Files and directories. Hidden files are skipped, and ``masks`` beside ``images`` is not searched.
        out: The output directory, which is not searched.

    Raises:
        UserError: A path is missing, no image is found, or two predictions would have the same name.
    """
    found: dict[Path, FoundImage] = {}
    unsupported: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise UserError("no such file or directory", path=path, fix="check the path")
        root = path if path.is_dir() else path.parent
        for file in list_directory(path, out) if path.is_dir() else [path]:
            suffix = file.suffix.lower()
            if suffix in IMAGE_SUFFIXES or (file == path and suffix not in NOT_READ):
                name = file.relative_to(root).with_suffix("").as_posix()
                found.setdefault(file.resolve(), FoundImage(file, name, root))
            elif suffix not in SIDECARS:
                unsupported.setdefault(file.resolve(), file)
    if not found:
        other = f"; found {describe_unsupported(unsupported)}" if unsupported else ""
        problem = f"{', '.join(map(str, paths))}: no images found (suffixes: {', '.join(IMAGE_SUFFIXES)}){other}"
        raise UserError(problem, fix="check the path")
    return FoundImages(distinct(found.values()), tuple(unsupported.values()))


def list_directory(directory: Path, out: Path) -> Iterator[Path]:
    """Yield the files of a directory and its subdirectories, sorted, without hidden ones and without ``out``.

    Links to directories are followed; a directory that several links lead to is listed once.
    """
    seen = {out.resolve(), directory.resolve()}
    for folder, below, names in os.walk(directory, followlinks=True):
        kept = []
        for name in sorted(below):
            path = Path(folder, name).resolve()
            if name.startswith((".", "__MACOSX")) or (name == "masks" and "images" in below) or path in seen:
                continue
            seen.add(path)
            kept.append(name)
        below[:] = kept
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith(".") and name != "Thumbs.db")


def distinct(images: Iterable[FoundImage]) -> tuple[FoundImage, ...]:
    """Return the images with distinct names, see `find_images`."""
    images = list(images)
    if any(len({image.root.resolve() for image in group}) > 1 for group in equal_names(images)):
        images = [replace(image, name=f"{image.root.resolve().name}/{image.name}") for image in images]
    equal = {image.path for group in equal_names(images) for image in group}
    images = [replace(i, name=i.name + i.path.suffix) if i.path in equal else i for i in images]
    for first, second, *_ in equal_names(images):
        problem = f"its prediction would have the name of that of {first.path}"
        raise UserError(problem, path=second.path, fix="predict the two into separate directories")
    return tuple(images)


def equal_names(images: Iterable[FoundImage]) -> list[list[FoundImage]]:
    """Return groups of images whose names are equal, for file systems that ignore case and normalize Unicode."""
    groups: defaultdict[str, list[FoundImage]] = defaultdict(list)
    for image in images:
        groups[unicodedata.normalize("NFC", image.name).casefold()].append(image)
    return [group for group in groups.values() if len(group) > 1]
