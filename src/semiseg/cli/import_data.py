"""``semiseg import``: turn the annotation of another tool into an own folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from semiseg.cli.check import print_check, progress_bar
from semiseg.cli.option_parsing import Argv, parse


@dataclass
class Import:
    """Write an own folder from the export of an annotation tool, and check it. Exit status as semiseg check."""

    source: tyro.conf.Positional[str]
    """Folder of the export."""
    out: str
    """Folder to create, outside the export."""
    form: str | None = None
    """Form of the data, if it is not detected or detected wrongly; semiseg datasets lists them."""
    threshold: int | None = None
    """Gray masks: values from this one on are foreground."""
    empty: Literal["background", "unlabeled"] = "background"
    """Images that were annotated without any region: all background, or unlabeled."""
    mask_suffix: str | None = None
    """End of a mask's name after the name of its image, such as _mask."""
    images: str | None = None
    """Folder of the images, below the export, if it is not recognized."""
    masks: str | None = None
    """Folder of the masks, below the export."""
    attribute: str | None = None
    """Attribute that holds the class of a region, in projects of the VGG Image Annotator."""
    classes: str | None = None
    """Own folder or class file that sets the order of the classes, found by name, to copy masks to that folder."""
    copy: bool = False
    """Copy the images instead of linking them."""


def import_data(argv: Argv) -> None:
    """Turn the annotation of another tool into a folder to train on."""
    from semiseg.errors import printable
    from semiseg.workflows.import_data import import_data as run

    a: Import = parse(Import, argv, "semiseg import")
    with progress_bar("writing masks") as progress:
        imported = run(
            a.source,
            a.out,
            form=a.form,
            threshold=a.threshold,
            empty=a.empty,
            mask_suffix=a.mask_suffix,
            images=a.images,
            masks=a.masks,
            attribute=a.attribute,
            classes=a.classes,
            copy=a.copy,
            progress=progress,
        )
    print(printable(f"{a.source} is {imported.title}"))
    print("".join(f"  {printable(note)}\n" for note in imported.notes))
    print_check(imported.checked)
    if a.classes is None:
        print("To copy masks to another folder, import with --classes FOLDER, which numbers the classes as there.")
