"""The interface of importers: images and annotation in the form of another tool, for ``semiseg import``."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from semiseg.data.dataset import default_palette
from semiseg.data.file_dataset import FileDataset
from semiseg.errors import UserError


@dataclass(frozen=True)
class ImportOptions:
    """The options of ``semiseg import`` that importers use.

    Attributes:
        threshold: Masks of gray levels: values from this one on are foreground, others background.
        empty: Whether images that were annotated without any region are all background or unlabeled.
        mask_suffix: The part of a mask's name after the name of its image, as ``_mask``.
    """

    threshold: int | None = None
    empty: Literal["background", "unlabeled"] = "background"
    mask_suffix: str | None = None


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
        images: The file of each image, by id: its path without common folders and suffix.
        masks: The annotation file of each annotated image.
        lists: The ids of the lists ``train``, ``val`` and ``test`` that the form defines.
        notes: What the user should know: ignored shapes, images annotated as empty.
    """

    form: ClassVar[str]
    title: ClassVar[str]
    images: dict[str, Path]
    masks: dict[str, Path]

    def __init__(self, root: Path, options: ImportOptions) -> None:
        self.root, self.options = root, options
        self.name = root.resolve().name
        self.lists: dict[str, Sequence[str]] = {}
        self.notes: list[str] = []
        self.masks = {}

    @classmethod
    @abstractmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether a folder has this form, from names of files and the first bytes of a few."""

    @abstractmethod
    def read_mask(self, id: str) -> Tensor:
        """Return a mask as uint8 ``(H, W)``: class index or 255."""

    def split(self, name: str, missing: list[str] | None = None) -> tuple[str, ...] | None:
        """Return the ids in ``splits/NAME.txt``, else those of the form, or None if there is no such list."""
        return super().split(name, missing) or tuple(self.lists.get(name, ())) or None

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
        self.palette = default_palette(len(self.classes))

    def describe(self) -> list[str]:
        """Return one line for each kind of file that was found, and the notes."""
        lines = [*self._count("photograph", self.images), *self._count("annotated image", self.masks)]
        if unlabeled := len(self.images) - len(self.masks):
            lines.append(f"{unlabeled} of {len(self.images)} images have no annotation: unlabeled")
        listed = ", ".join(f"{len(ids)} {name}" for name in ("train", "val", "test") if (ids := self.split(name, [])))
        lines.append(f"lists: {listed or 'none'}")
        return [*lines, f"{len(self.classes)} classes: {', '.join(self.classes)}", *self.notes]

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
