"""Write an own folder from data in another form: images linked, masks as indexed PNG, classes and lists."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from semiseg.data.class_file import write_class_file
from semiseg.data.dataset import read_ahead
from semiseg.data.files.atomic_folder import new_folder, require_free
from semiseg.data.files.image_files import image_size
from semiseg.data.files.image_header import open_image
from semiseg.data.files.mask_files import write_mask_file
from semiseg.data.importers.class_order import ClassOrder
from semiseg.data.importers.foreign_data import ForeignData
from semiseg.data.splits.list_files import read_list, write_list
from semiseg.data.tag_file import read_tags
from semiseg.errors import UserError

Progress = Callable[[int, int], None]


def write_import(
    data: ForeignData,
    out: Path,
    copy: bool = False,
    progress: Progress | None = None,
    order: ClassOrder | None = None,
) -> list[str]:
    """Write data as an own folder, completely or not at all.

    Args:
        data: The opened data.
        out: The folder to create.
        copy: Copy the images instead of linking them.
        progress: Called with the number of masks written and their total number.
        order: The classes to write; None writes those of the data.

    Returns:
        Lines that report what was taken for what.

    Raises:
        UserError: A file cannot be read, ``out`` is not empty or inside the source, or it cannot be written.
    """
    require_outside(data.root, out)
    require_free(out)
    table = order.table(data.classes, data.root) if order else None
    kinds: set[str] = set()
    images: dict[str, Path] = {}
    with new_folder(out, "images", "masks", "splits") as draft:
        for id in data.ids:
            how, images[id] = _write_image(data, id, draft / "images", copy)
            kinds.add(how)
        annotated = [id for id in data.ids if data.has_mask(id)]
        for done, (id, mask) in enumerate(zip(annotated, read_ahead(data.read_mask, annotated), strict=True), 1):
            _check_mask_size(data, id, images[id], (mask.shape[1], mask.shape[0]))
            target = draft / "masks" / f"{id}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            if table is not None:
                mask = table[mask.int()]
            write_mask_file(target, mask, order.palette if order else data.palette)
            if progress is not None:
                progress(done, len(annotated))
        for name in ("train", "val", "test"):
            if ids := data.split(name, []):
                write_list(draft / "splits" / f"{name}.txt", ids)
        lines = data.describe()  # may raise
        if order:
            lines.append(f"classes are numbered as in {order.path}")
            data.classes, data.palette = order.names, order.palette
        write_class_file(draft / "classes.json", data)
        lines += _carry_over(data, draft)
    return [*lines, *_how(kinds, data.root)]


def require_outside(root: Path, out: Path) -> None:
    """Raise UserError if ``out`` is the source or inside it, where the next import would read it."""
    if out.resolve() == root.resolve() or root.resolve() in out.resolve().parents:
        fix = f"choose a folder outside, such as {root.resolve().name}-semiseg"
        raise UserError(f"{out} is inside {root}, the data that are read", option="out", fix=fix)


def link_or_copy(source: Path, target: Path, copy: bool = False) -> str:
    """Make ``target`` a symbolic link, else a hard link, else a copy, and return which one.

    Windows refuses symbolic links without privileges; some file systems support no links.
    """
    absolute = os.path.abspath(source)
    for kind, make in (("link", os.symlink), ("hard link", os.link)) if not copy else ():
        try:
            make(absolute, target)
            return kind
        except (OSError, NotImplementedError):
            continue
    shutil.copyfile(source, target)
    return "copy"


def _write_image(data: ForeignData, id: str, folder: Path, copy: bool) -> tuple[str, Path]:
    """Write one image. Return how, by a link, a hard link, a copy or from the bytes of a file, and its path."""
    source: Path | None = data.image_path(id)
    if source is None:
        content = data.image_content(id)
        with open_image(BytesIO(content)) as opened:
            target = folder / f"{id}.{str(opened.format).lower()}"
        target.write_bytes(content)
        return "file", target
    target = folder / f"{id}{source.suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    return link_or_copy(source, target, copy or not source.is_relative_to(data.root)), target


def _carry_over(data: ForeignData, draft: Path) -> list[str]:
    """Copy tags and lists of labeled images, as ``splits/1_2/``, and report them and those that do not fit."""
    tags, carried, left = data.root / "tags.csv", list[str](), list[str]()
    for path in (*([tags] if tags.is_file() else []), *sorted(data.root.glob("splits/*/**/*.txt"))):
        name = path.relative_to(data.root)
        try:
            if path == tags:
                read_tags(path, data.classes, data.ids)
                shutil.copyfile(path, draft / name)
            else:
                ids = read_list(path, data)
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                write_list(draft / name, ids)
            carried.append(name.as_posix())
        except UserError as error:
            left.append(f"{name.as_posix()} is not carried over: {error.problem}")
    return [*([f"carried over: {', '.join(carried)}"] if carried else []), *left]


def _check_mask_size(data: ForeignData, id: str, image: Path, size: tuple[int, int]) -> None:
    """Raise UserError unless a mask has the size of its image."""
    if size != (expected := image_size(image)):
        problem = "the annotation is {}x{}, its image {} is {}x{}".format(*size, data.image_path(id) or id, *expected)
        raise UserError(problem, path=data.mask_path(id) or id, fix="use the image that was annotated")


def _how(kinds: set[str], root: Path) -> list[str]:
    """Report how the images were written."""
    if "link" in kinds:
        return [f"images are links into {root}: keep it, or import again with --copy"]
    if "hard link" in kinds:
        return ["images are hard links: they take no additional disk space"]
    return ["images are copies"]
