"""The interface of importers: images and annotation in the form of another tool, for ``semiseg import``."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.dataset import default_palette
from semiseg.data.file_dataset import FileDataset
from semiseg.data.files.image_files import image_size
from semiseg.errors import UserError


@dataclass(frozen=True)
class ImportOptions:
    """The options of ``semiseg import`` that importers use.

    Attributes:
        threshold: Masks of gray levels: values from this one on are foreground, others background.
        empty: Whether images that were annotated without any region are all background or unlabeled.
        mask_suffix: The part of a mask's name after the name of its image, as ``_mask``.
        images: The folder of the images, relative to the root, if it is not found by names and pixels.
        masks: The folder of the masks, likewise.
        attribute: The attribute that holds the class of a region (VIA).
    """

    threshold: int | None = None
    empty: Literal["background", "unlabeled"] = "background"
    mask_suffix: str | None = None
    images: str | None = None
    masks: str | None = None
    attribute: str | None = None


class ForeignData(FileDataset):
    """Images and annotation in the form of another tool.

    A subclass registers in ``IMPORTERS``. Its ``__init__`` calls this one, ``set_images`` and ``set_classes``, and sets
    ``masks``. ``read_mask`` returns class indices or 255 at the size of the upright image.

    Args:
        root: The folder of the export.
        options: The options of ``semiseg import``.

    Attributes:
        form: The value of ``--form``.
        title: The form in messages, with an article: ``a LabelMe export``.
        options: The options.
        uses: The names of the options that the form uses; others are refused.
        images: The file of each image, by id: its path without common folders and suffix.
        masks: The annotation file of each annotated image.
        background: The class of pixels that no region covers.
        lists: The ids of the lists ``train``, ``val`` and ``test`` that the form defines.
        notes: What the user should know: ignored shapes, images annotated as empty.
    """

    form: ClassVar[str]
    title: ClassVar[str]
    uses: ClassVar[tuple[str, ...]] = ("empty",)
    images: dict[str, Path]
    masks: dict[str, Path]

    def __init__(self, root: Path, options: ImportOptions) -> None:
        self.root, self.options = root, options
        self._check_options()
        self.name = root.resolve().name
        self.lists: dict[str, Sequence[str]] = {}
        self.notes: list[str] = []
        self.masks = {}
        self.background = 0

    def _check_options(self) -> None:
        """Raise UserError for an option that the form does not use, or a threshold below 1."""
        for field in fields(self.options):
            if field.name not in self.uses and getattr(self.options, field.name) != field.default:
                fix = "remove it, or name another form with --form"
                raise UserError(f"does not apply to {self.title}", option=field.name, fix=fix)
        if self.options.threshold is not None and self.options.threshold < 1:
            raise UserError("must be at least 1", option="threshold", fix="use 128 for masks of 0 and 255")

    @classmethod
    @abstractmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether a folder has this form, from names of files and the first bytes of a few."""

    @abstractmethod
    def read_mask(self, id: str) -> Tensor:
        """Return a mask as uint8 ``(H, W)``: class index or 255."""

    def split(self, name: str, missing: list[str] | None = None) -> tuple[str, ...] | None:
        """Return the ids in ``splits/NAME.txt``, else those of the form, or None."""
        return super().split(name, missing) or tuple(self.lists.get(name, ())) or None

    def image_content(self, id: str) -> bytes:
        """Return the bytes of the file of an image, for images whose ``image_path`` is None."""
        raise NotImplementedError

    def set_images(self, images: dict[str, Path], folder: Path | None = None, fix: str = "") -> None:
        """Set the images and their ids. Raises UserError, naming ``folder``, if there are none."""
        if not images:
            fix = fix or "copy the images that were annotated there"
            raise UserError("no images found", path=folder or self.root, fix=fix)
        self.images, self.ids = images, tuple(images)

    def set_classes(self, names: Iterable[str], source: Path) -> None:
        """Set the classes and their colors. Raises UserError, naming ``source``, unless there are 1 to 255 names."""
        self.classes = tuple(names)
        if not 1 <= len(self.classes) <= 255 or len(set(self.classes)) < len(self.classes):
            twice = [name for name, count in Counter(self.classes).items() if count > 1]
            problem = f"class {twice[0]!r} is listed twice" if twice else f"found {len(self.classes)} classes"
            raise UserError(problem, path=source, fix="define 1 to 254 classes, each with a unique name")
        if not all(name.strip() for name in self.classes):
            raise UserError("a class has an empty name", path=source, fix="give it a name")
        self.palette = default_palette(len(self.classes))

    def set_lists(self, assigned: Mapping[str, str | None]) -> None:
        """Set the lists from the one that each image belongs to: ``train``, ``val``, ``test`` or None.

        The val and test lists hold annotated images only. If both are empty, there are no lists.
        """
        held_out = {
            name: [id for id in self.ids if assigned.get(id) == name and id in self.masks] for name in ("val", "test")
        }
        if any(held_out.values()):
            train = [id for id in self.ids if assigned.get(id) not in ("val", "test")]
            self.lists = {"train": train, **held_out}

    def add_empty(self, files: Mapping[str, Path]) -> None:
        """Take images that were annotated without any region as background or unlabeled, and note it."""
        if not files:
            return
        if self.options.empty == "background":
            self.masks = dict(sorted({**self.masks, **files}.items()))
            other = "--empty unlabeled if they are not annotated yet"
        else:
            other = "--empty background if they show no class"
        if self.options.empty == "background" and 2 * len(files) >= len(self.masks):
            self.notes.append(
                f"warning: {len(files)} of {len(self.masks)} images have no region and become all background. "
                "If they are not annotated yet, import with --empty unlabeled"
            )
        else:
            self.notes.append(f"images without regions: {len(files)}, {self.options.empty} ({other})")

    def require_masks(self, source: Path) -> None:
        """Raise UserError, naming ``source``, if no image is annotated."""
        if not self.masks:
            raise UserError("no annotated image was found", path=source, fix="annotate a few images and export again")

    def canvas(self, id: str, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Return a mask ``(H, W)`` of background, to draw on.

        Args:
            id: The image.
            size: Width and height of the image that was annotated, if known.

        Raises:
            UserError: The image has another size.
        """
        width, height = image_size(self.images[id])
        if size is not None and size != (width, height):
            problem = f"the annotated image {id} is {size[0]}x{size[1]}, the file is {width}x{height}"
            raise UserError(problem, path=self.masks[id], fix=f"use the image that was annotated as {self.images[id]}")
        return np.full((height, width), self.background, dtype=np.uint8)

    def describe(self) -> list[str]:
        """Return one line for each kind of file that was found, and the notes.

        It is called after all masks have been read. Raises UserError if together they are not valid.
        """
        lines = [*self._count("photograph", self.images), *self._count("annotated image", self.masks)]
        if unlabeled := len(self.images) - len(self.masks):
            lines.append(f"{unlabeled} of {len(self.images)} images have no annotation: unlabeled")
        listed = ", ".join(f"{len(ids)} {name}" for name in ("train", "val", "test") if (ids := self.split(name, [])))
        lines.append(f"lists: {listed or 'none'}")
        lines += [f"{len(self.classes)} classes: {', '.join(self.classes)}", *self.notes]
        return sorted(lines, key=lambda line: not line.startswith("warning:"))

    def _count(self, noun: str, files: dict[str, Path]) -> list[str]:
        """Return lines such as ``8 photographs from images/``, for at most four folders or annotation files."""
        shared = len(set(files.values())) < len(files)  # several images in one annotation file
        sources = Counter(path if shared else path.parent for path in files.values())
        lines = []
        for source, count in sorted(sources.items())[:4]:
            below = source.relative_to(self.root).as_posix() if source.is_relative_to(self.root) else str(source)
            where = "this folder" if below == "." else below if shared else f"{below}/"
            lines.append(f"{count} {noun}{'s' if count > 1 else ''} from {where}")
        if len(sources) > 4:
            lines.append(f"... {len(sources)} sources with {len(files)} {noun}s in total")
        return lines
