"""Predict image files and directories of image files."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from torch import Tensor

from semiseg.data.dataset import read_ahead
from semiseg.data.files.file_lists import IMAGE_SUFFIXES, list_files
from semiseg.data.files.image_files import read_image_file
from semiseg.errors import UserError, os_error, printable
from semiseg.inference.mask_writer import PredictionRenderer, write_pictures

Task = tuple[Path, dict[str, Path]]
"""An image and the files to write for it, by kind of picture ("", ``_overlay``, ``_confidence``)."""


def collect_images(paths: Iterable[str | Path]) -> dict[str, Path]:
    """Return the image files in ``paths`` (files and directories) by their stem, that is, path without suffix.

    Raises:
        UserError: A path is missing, no image is found, or two images have the same stem.
    """
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise UserError("no such file or directory", path=path, fix="check the path")
        files = list_files(path, IMAGE_SUFFIXES) if path.is_dir() else {path.stem: path}
        for stem, file in files.items():
            if found.setdefault(stem, file) != file:
                problem = f"has the same stem as {found[stem]}, so that one mask would overwrite the other"
                raise UserError(problem, path=file, fix="predict the two images into separate directories")
    if not found:
        problem = f"{', '.join(map(str, paths))}: no images found (suffixes: {', '.join(IMAGE_SUFFIXES)})"
        raise UserError(problem, fix="check the path")
    return found


def plan_files(found: Mapping[str, Path], kinds: Iterable[str], out: Path, skip_existing: bool) -> list[Task]:
    """Return the images to predict, each with the files to write.

    Args:
        found: The images by stem.
        kinds: The kinds of pictures to write.
        out: The output directory.
        skip_existing: Whether to leave out files that exist instead of raising an error.

    Raises:
        UserError: A file exists, or two images would be written to the same file.
    """
    owners: dict[Path, Path] = {}
    tasks: dict[Path, dict[str, Path]] = {}
    for stem, source in found.items():
        for kind in kinds:
            file = out / f"{stem}{kind}.png"
            if owners.setdefault(file, source) != source:
                problem = f"would be written for two images, {owners[file]} and {source}"
                raise UserError(problem, path=file, fix="predict the two images into separate directories")
            if not file.exists():
                tasks.setdefault(source, {})[kind] = file
            elif not skip_existing:
                raise UserError("exists", path=file, fix="choose another --out, or add --skip-existing")
    return [*tasks.items()]


def predict_files(renderer: PredictionRenderer, tasks: Sequence[Task], skip_unreadable: bool = True) -> Iterator[bool]:
    """Predict images and write their pictures; yield for each image whether it could be read.

    Args:
        renderer: Predicts and renders.
        tasks: The images and the files to write.
        skip_unreadable: Whether to print an error about an unreadable image and continue, instead of raising it.

    Raises:
        UserError: A picture cannot be written, or an image cannot be read.
    """

    def read(task: Task) -> tuple[Tensor | UserError, dict[str, Path]]:
        source, files = task
        try:
            return read_image_file(source), files
        except UserError as error:
            if not skip_unreadable:
                raise
            return error, files

    with closing(read_ahead(read, tasks)) as images:
        for image, files in images:
            if isinstance(image, UserError):
                print_skipped(image)
            else:
                write_pictures(renderer.render(image, files), files)
            yield not isinstance(image, UserError)


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
