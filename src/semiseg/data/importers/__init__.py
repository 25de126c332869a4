"""Importers of other tools' annotation, one file per form. ``semiseg import`` writes an own folder from them."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from semiseg.data.benchmarks.recognition import recognize_benchmark
from semiseg.data.folder_dataset import FolderDataset
from semiseg.data.importers.cvat import CvatMask
from semiseg.data.importers.foreign_data import ForeignData, ImportOptions
from semiseg.data.importers.huggingface import HuggingFace
from semiseg.data.importers.mask_trees.folders import MaskTree, Roboflow
from semiseg.data.importers.mask_trees.mask_per_class import MaskPerClass
from semiseg.data.importers.mask_trees.one_hot import OneHot
from semiseg.data.importers.mask_trees.roles import NoPairsError
from semiseg.data.importers.shapes.coco import Coco
from semiseg.data.importers.shapes.coco_panoptic import CocoPanoptic
from semiseg.data.importers.shapes.cvat_images import CvatImages
from semiseg.data.importers.shapes.darwin import Darwin
from semiseg.data.importers.shapes.label_studio import LabelStudio
from semiseg.data.importers.shapes.labelme import LabelMe
from semiseg.data.importers.shapes.supervisely import Supervisely
from semiseg.data.importers.shapes.via import Via
from semiseg.data.importers.shapes.yolo import Yolo
from semiseg.data.importers.source_files import is_own_folder
from semiseg.data.importers.survey import unknown_form_error
from semiseg.data.importers.voc_like import VocLike
from semiseg.errors import UserError, lookup

FORMS: tuple[type[ForeignData], ...] = (
    CvatMask,
    VocLike,
    CvatImages,
    LabelMe,
    Yolo,
    LabelStudio,
    HuggingFace,
    Supervisely,
    Darwin,
    Via,
    CocoPanoptic,
    Coco,
    Roboflow,
    MaskPerClass,
    MaskTree,
    OneHot,
)
IMPORTERS: dict[str, type[ForeignData]] = {importer.form: importer for importer in FORMS}
"""The importers by form, most specific first: the first that recognizes a folder is used."""


GENERAL = (MaskPerClass, MaskTree, OneHot)
"""Forms without a file of a tool, which only count if no folder below has another form."""


def detect_form(root: Path) -> str | None:
    """Return the form of a folder or of the only folder in it, or None if no importer recognizes it."""
    return _locate_form(root)[0]


def _locate_form(root: Path) -> tuple[str | None, Path]:
    """Return the form of a folder, and the folder: the given one, or the one in it that an archive has added."""
    folder: Path | None = root
    for _ in range(4):
        for form, importer in IMPORTERS.items():
            if folder is not None and importer not in GENERAL and importer.recognizes(folder):
                return form, folder
        folder = folder and _only_folder(folder)
    return next((importer.form for importer in GENERAL if importer.recognizes(root)), None), root


def _only_folder(root: Path) -> Path | None:
    """Return the only folder in a folder that holds no other files than a text to read first, or None."""
    found = [path for path in root.iterdir() if not path.name.startswith((".", "__MACOSX"))]
    found = [path for path in found if not (path.is_file() and path.name.lower().startswith("readme"))]
    return found[0] if len(found) == 1 and found[0].is_dir() else None


def _require_one_export(root: Path) -> None:
    """Raise UserError if folders in a folder are exports with a catalog of classes each."""
    for folder in islice(sorted(root.glob("*/")), 20):
        if CvatMask.recognizes(folder):
            problem = f"{folder.name}/ is {CvatMask.title} of its own"
            fix = f"import each folder on its own: semiseg import {folder} --out {folder}-semiseg"
            raise UserError(problem, path=root, fix=fix)


def open_foreign(source: str | Path, form: str | None, options: ImportOptions) -> ForeignData:
    """Open data in another form.

    Args:
        source: A folder, or ``hf:NAME``.
        form: The form; None to detect it.
        options: The options of ``semiseg import``.

    Raises:
        UserError: The form is unknown, or the data cannot be read.
    """
    if form is not None:
        lookup("form", form, IMPORTERS)
    if str(source).startswith("hf:") and not os.path.exists(source):
        if str(source) == "hf:":
            raise UserError("hf: is not followed by a name", fix="give hf:FOLDER or hf:OWNER/NAME")
        return IMPORTERS["hf"](Path(str(source)[3:]), options)
    root = Path(source)
    if not os.path.isdir(root):  # False for invalid names, on which Path raises
        problem, fix = ("is a file", "unpack it") if os.path.isfile(root) else ("there is no such folder", "check it")
        raise UserError(problem, path=f"{root!s:.200}", fix=f"{fix} and give the folder of the export")
    if form is None and (reason := recognize_benchmark(root)[1]):
        raise UserError(reason, path=root, fix=f"train with --data {root}, without an import")
    found, folder = _locate_form(root)
    if form is not None and found != form:
        found, folder = form, root
    if found is not None:
        if form is None and IMPORTERS[found] in GENERAL:
            _require_one_export(root)
        data = IMPORTERS[found](folder, options)
        if folder != root:
            data.notes.insert(0, f"read from {folder.relative_to(root).as_posix()}/, the only folder in {root.name}/")
        return data
    try:
        return MaskTree(root, options)  # an own folder, or images and masks that differ by their pixels only
    except NoPairsError as error:
        if not is_own_folder(root):
            raise unknown_form_error(root, tried=True) from None
        FolderDataset(root)  # describes better what is missing
        raise error


__all__ = ["IMPORTERS", "ForeignData", "ImportOptions", "detect_form", "open_foreign"]
