"""``import``: turn the annotation of another tool into an own folder."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from semiseg.data.files.atomic_folder import require_free
from semiseg.data.files.mask_files import SOURCE
from semiseg.data.importers import ImportOptions, open_foreign
from semiseg.data.importers.class_order import read_class_order
from semiseg.data.importers.write_import import require_outside, write_import
from semiseg.errors import UserError
from semiseg.tools.checking import DataCheck, check_data


@dataclass(frozen=True)
class Imported:
    """The result of an import.

    Attributes:
        out: The new folder.
        title: The form that was read, as ``a LabelMe export``.
        notes: Lines that report what was taken for what.
        checked: The result of ``semiseg check`` on the new folder.
    """

    out: Path
    title: str
    notes: tuple[str, ...]
    checked: DataCheck


def import_data(
    source: str | Path,
    out: str | Path,
    *,
    form: str | None = None,
    threshold: int | None = None,
    empty: Literal["background", "unlabeled"] = "background",
    mask_suffix: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    attribute: str | None = None,
    classes: str | Path | None = None,
    copy: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Write an own folder from the annotation of another tool, and check it.

    Args:
        source: The folder of the export.
        out: The folder to create, outside ``source``.
        form: The form of the data, a key of ``IMPORTERS``. None detects it.
        threshold: Masks of gray levels: values from this one on are foreground.
        empty: Whether images that were annotated without any region are background or unlabeled.
        mask_suffix: The part of a mask's name after the name of its image, as ``_mask``.
        images: The folder of the images below ``source``, if it cannot be found by names and pixels.
        masks: The folder of the masks, likewise.
        attribute: The attribute that holds the class of a region, in projects of the VGG Image Annotator.
        classes: An own folder or a class file. Its classes are written, with their numbers, so that masks can be copied
            to that folder. Classes are found by name.
        copy: Copy the images instead of linking them.
        progress: Called with the number of masks written and their total number.

    Raises:
        UserError: The data cannot be read, or ``out`` cannot be written.

    Example:
        >>> semiseg.import_data("exported", "flowers").checked.usable  # doctest: +SKIP
    """
    target = Path(out)
    require_outside(Path(source), target)
    require_free(target)
    order = None if classes is None else read_class_order(classes)
    options = ImportOptions(threshold, empty, mask_suffix, images, masks, attribute)
    try:
        data = open_foreign(source, form, options)
        notes = write_import(data, target, copy, progress, order)
    except UserError as error:
        if error.fix:
            error.fix = error.fix.replace(SOURCE, shlex.join([str(source), "--out", str(out)]))
        raise
    return Imported(target, data.title, tuple(notes), check_data(target)[0])
