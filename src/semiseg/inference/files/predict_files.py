"""Predict image files and write their predictions."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from semiseg.data.dataset import read_ahead
from semiseg.errors import UserError, os_error, printable
from semiseg.inference.files.find_images import FoundImage
from semiseg.inference.files.image_source import Header, large_images, open_source, read_ahead_of
from semiseg.inference.formats.geotiff import EXTRA, has_rasterio, is_geotiff
from semiseg.inference.formats.prediction_writer import MASK, PredictionWriter, file_of
from semiseg.inference.formats.write_error import WriteError


@dataclass(frozen=True)
class Task:
    """An image and the files to write for it.

    Attributes:
        image: The image.
        mask: The file of its mask.
        files: The files to write by kind; those that exist are left out.
        georeferenced: Whether the files get the georeference of the image.
    """

    image: FoundImage
    mask: Path
    files: Mapping[str, Path]
    georeferenced: bool


def plan_files(images: Sequence[FoundImage], kinds: Sequence[str], out: Path, skip_existing: bool) -> list[Task]:
    """Return the images to predict, each with the files to write.

    Args:
        images: The images.
        kinds: The kinds of files to write.
        out: The output directory.
        skip_existing: Whether to leave out files that exist instead of raising an error.

    Raises:
        UserError: A file exists, or two images would be written to the same file.
    """
    owners: dict[Path, Path] = {}
    tasks = []
    georeferences_lost = []
    for image in images:
        georeferenced = is_geotiff(image.path)
        if georeferenced and not has_rasterio():
            georeferences_lost.append(image.path)
            georeferenced = False
        files = {kind: file_of(out, image.name, kind, georeferenced) for kind in kinds}
        for file in files.values():
            if owners.setdefault(file, image.path) != image.path:
                problem = f"would be written for two images, {owners[file]} and {image.path}"
                raise UserError(problem, path=file, fix="predict the two images into separate directories")
            require_new(file, skip_existing)
        missing = {kind: file for kind, file in files.items() if not file.exists()}
        if missing:
            tasks.append(Task(image, file_of(out, image.name, MASK, georeferenced), missing, georeferenced))
    if georeferences_lost:
        lost = f"{len(georeferences_lost)} GeoTIFF files such as {georeferences_lost[0]}"
        print(printable(f"note: the masks of {lost} get no georeference. To keep it, {EXTRA}"), file=sys.stderr)
    return tasks


def predict_files(writer: PredictionWriter, tasks: Sequence[Task], skip_unreadable: bool = True) -> Iterator[bool]:
    """Predict images and write their files; yield for each image whether it could be predicted.

    Args:
        writer: Predicts and writes.
        tasks: The images and the files to write.
        skip_unreadable: Whether to print an error about an unreadable image and continue, instead of raising it.

    Raises:
        WriteError: A file cannot be written.
        UserError: An image cannot be read.
    """

    def read(task: Task) -> tuple[Header | UserError, Task]:
        try:
            return read_ahead_of(task.image.path, writer.predictor.predictor.pixel_format), task
        except UserError as error:
            return error, task

    with large_images(), closing(read_ahead(read, tasks)) as headers:
        for header, task in headers:
            try:
                if isinstance(header, UserError):
                    raise header
                predict_file(writer, task, header)
            except WriteError:
                raise
            except UserError as error:
                if not skip_unreadable:
                    raise
                print_skipped(error)
                yield False
            else:
                yield True


def predict_file(writer: PredictionWriter, task: Task, header: Header) -> None:
    """Predict an image and write its files."""
    path = task.image.path
    if header.pages > 1:
        print(printable(f"note: {path} has {header.pages} pages. Only the first is predicted"), file=sys.stderr)
    if header.format.deep and writer.predictor.predictor.pixel_format.white is None:
        line = (
            f"warning: {path} is {header.format.kind}, but the model was trained without a white value, as for 8 bits"
        )
        print(printable(line), file=sys.stderr)
    with open_source(path, header, task.georeferenced, writer.predictor) as (image, raster):
        writer.write(image, task.files, task.mask, raster)


def require_new(file: Path, skip_existing: bool) -> None:
    """Raise UserError if a file exists, unless ``skip_existing``."""
    if file.exists() and not skip_existing:
        raise UserError("exists", path=file, fix="choose another --out, or add --skip-existing")


def print_skipped(error: UserError) -> None:
    """Print that an image or shard is skipped because of ``error``."""
    print(f"skipped: {printable(str(error))}", file=sys.stderr)


def make_folder(out: Path) -> None:
    """Create a directory and its parents.

    Raises:
        UserError: It cannot be created.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise os_error(error, "cannot be written", out, "choose another --out") from None
