"""Check a downloaded copy of a published data set, and lay it out for training: a tree of links, and the lists."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from semiseg.data import Ade20k, Cityscapes, Voc, check_masks
from semiseg.data.file_dataset import FileDataset
from semiseg.data.files.atomic_folder import is_free, new_folder
from semiseg.data.splits.list_files import matching_unlabeled_list, read_list, write_list
from semiseg.errors import UserError, lookup


@dataclass(frozen=True)
class Form:
    """A published data set.

    Attributes:
        open: reads a copy of it.
        counts: how many images the field's lists have.
        folders: what published collections of lists call it.
        extras: further files that belong to it.
        first_hand: the list of images with the masks of the data set's authors, where others have added coarser ones.
    """

    open: Callable[[str], FileDataset]
    counts: dict[str, int]
    folders: tuple[str, ...]
    extras: tuple[str, ...] = ()
    first_hand: str = ""


FORMS: dict[str, Form] = {
    "voc2012": Form(Voc, {"train": 10582, "val": 1449}, ("pascal", "voc2012"), first_hand="1464/labeled"),
    "cityscapes": Form(Cityscapes, {"train": 2975, "val": 500}, ("cityscapes",)),
    "ade20k": Form(Ade20k, {"train": 20210, "val": 2000}, ("ade20k",), ("objectInfo150.txt",)),
}

Lists = dict[str, tuple[str, ...]]


def prepare(
    name: str,
    source: str | Path,
    out: str | Path,
    *,
    existing_only: bool = False,
    lists: str | Path | None = None,
) -> list[str]:
    """Check a copy of a published data set and make ``out``: links to its files, and its lists.

    Every list is compared with the images and masks that are there, and each mask of a train or val list is read once
    with its image. Files are linked by their absolute path, copied where links are impossible; ``out`` is made in one
    piece.

    Args:
        name: ``voc2012``, ``cityscapes`` or ``ade20k``.
        source: the copy.
        out: a directory to make.
        existing_only: leave out of the lists what is not there; otherwise that is an error.
        lists: a folder of published lists; the copy's own ``splits`` where absent.

    Returns:
        What was found and what is missing, line by line, for a person to read.

    Raises:
        UserError: an unknown name, an ``out`` that exists, or a copy that is not whole; one line says what to do.
    """
    form, out = lookup("data set", name, FORMS), Path(out)
    if not is_free(out):
        raise UserError(f"{out} exists: nothing is overwritten: choose another --out")
    if lists is not None and not Path(lists).is_dir():
        raise UserError(f"--lists {lists}: no such folder; give one that holds lists, such as UniMatch's splits/pascal")
    dataset = form.open(str(source))
    told = [f"{name} in {dataset.root}: {len(dataset)} images, {len(dataset.masks)} masks"]
    found = Checked(dataset, existing_only, told).read(form, Path(lists) if lists else dataset.root / "splits")
    masked = [id for id in dict.fromkeys((*found["train"], *found["val"])) if dataset.has_mask(id)]
    pixels = check_masks(dataset, masked)
    told.append(f"masks: {len(masked)} of the train and val lists read, every value is right")
    if absent := [name for name, count in zip(dataset.classes, pixels, strict=True) if not count]:
        told.append(f"masks: no pixel of {len(absent)} of {len(pixels)} classes, e.g. {absent[0]}")
    copied = make_tree(dataset, form, out, found)
    told.append(f"{out}: made of {f'copies, since {copied} files could not be linked' if copied else 'links'}")
    return [*told, *next_step(out, found)]


def next_step(out: Path, lists: Lists) -> list[str]:
    """Tell how to train on what was made."""
    pairs = ((lists[name], lists[f"{name[:-7]}unlabeled"], name) for name in lists if name.endswith("/labeled"))
    chosen = next((name for labeled, unlabeled, name in pairs if labeled and unlabeled), None)
    if chosen:
        return [f"next: semiseg train --data {out} --labeled {(out / 'splits' / chosen).as_posix()}.txt"]
    return [
        "no lists of labeled images: give a published collection by --lists DIR, or draw some",
        f"next: semiseg train --data {out} --labeled 1/16",
    ]


@dataclass
class Checked:
    """Reads the lists of a copy, and tells of each what is there and what is not."""

    dataset: FileDataset
    existing_only: bool
    told: list[str]

    def read(self, form: Form, folder: Path) -> Lists:
        """Return the train and val list and every pair of lists in ``folder``, under their names in ``splits/``.

        Raises:
            UserError: a list is missing, contradicts the data, or names what is not there.
        """
        folder = next((folder / name for name in form.folders if (folder / name).is_dir()), folder)
        found: Lists = {}
        for name, count in form.counts.items():
            found[name] = self.whole(name, folder, count)
        for name, (labeled, unlabeled) in partitions(folder).items():
            pair = self.one(f"{name}/labeled", labeled), self.one(f"{name}/unlabeled", unlabeled)
            both, bare = set(pair[0]) & set(pair[1]), [id for id in pair[0] if not self.dataset.has_mask(id)]
            if both:
                self.told.append(f"{name}: left out: {len(both)} images are in both lists, e.g. {min(both)}")
            elif bare:
                self.told.append(f"{name}: left out: {len(bare)} labeled images have no mask, e.g. {bare[0]}")
            else:
                found |= {f"{name}/labeled": pair[0], f"{name}/unlabeled": pair[1]}
        if not self.existing_only:  # of a few images, a share says nothing
            self.tell_shares(found, form.first_hand)
        return found

    def tell_shares(self, found: Lists, first_hand: str) -> None:
        """Tell how many of a list's masks are those of the authors: 14 % or all of them is worth 2 to 4 mIoU."""
        for name, ids in found.items():
            if name.endswith("/labeled") and first_hand in found and name != first_hand:
                share = 100 * len({*ids} & {*found[first_hand]}) / max(1, len(ids))
                self.told.append(f"{name}: {share:.1f} % of its masks are among those of {first_hand}")

    def whole(self, name: str, folder: Path, count: int) -> tuple[str, ...]:
        """Read the train or val list: from the folder of lists, else as it comes with the data."""
        file = next(
            (folder / f"{stem}.txt" for stem in (name, f"{name}_aug") if (folder / f"{stem}.txt").is_file()), None
        )
        missing: list[str] = []
        ids = read_list(file, self.dataset, missing) if file else self.dataset.split(name, missing) or ()
        if not ids and not missing:
            raise UserError(f"{self.dataset.root}: no {name} images; download that part, or add splits/{name}.txt")
        ids = self.present(name, file or self.dataset.root, ids, missing)
        if len(ids) + len(missing) != count:
            self.told.append(f"{name}: the list of the published tables has {count}: put it into splits/{name}.txt")
        if name == "val" and (bare := [id for id in ids if not self.dataset.has_mask(id)]):
            raise UserError(f"{self.dataset.root}: {len(bare)} val images have no mask, e.g. {bare[0]}; add the masks")
        return ids

    def one(self, name: str, file: Path) -> tuple[str, ...]:
        """Read a list from a file."""
        missing: list[str] = []
        return self.present(name, file, read_list(file, self.dataset, missing), missing)

    def present(self, name: str, source: Path, ids: tuple[str, ...], missing: list[str]) -> tuple[str, ...]:
        """Tell how many images of a list are there; raises UserError where one is not, and that is not wanted."""
        if missing and not self.existing_only:
            remedy = "complete the download, or leave them out by --existing-only"
            whole = len(ids) + len(missing)
            raise UserError(
                f"{source}: {len(missing)} of {whole} {name} images are not there, e.g. {missing[0]}; {remedy}"
            )
        left_out = f", {len(missing)} are not there and are left out" if missing else ""
        self.told.append(f"{name}: {len(ids)} images{left_out}")
        return ids


def partitions(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Map the names of partitions to the labeled and the unlabeled list of every published pair below ``folder``."""
    found: dict[str, tuple[Path, Path]] = {}
    for labeled in sorted(folder.rglob("*.txt")):
        if unlabeled := matching_unlabeled_list(labeled):
            own = re.sub(r"_?labeled_?|_l$", "_", labeled.stem).strip("_")
            place = labeled.parent.relative_to(folder) / own
            found[place.as_posix() if place.name else folder.name] = labeled, unlabeled
    return found


def make_tree(dataset: FileDataset, form: Form, out: Path, lists: Lists) -> int:
    """Fill a draft beside ``out`` and rename it into place; return how many files had to be copied."""
    extras = (dataset.root / file for file in form.extras if (dataset.root / file).is_file())
    with new_folder(out) as draft:
        copied = sum(link(file, draft / file.relative_to(dataset.root)) for file in every_file(dataset, extras))
        for name, ids in lists.items():
            path = draft / "splits" / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_list(path, ids)
    return copied


def every_file(dataset: FileDataset, extras: Iterable[Path]) -> Iterable[Path]:
    """Every image, mask and further file of the data."""
    yield from dataset.images.values()
    yield from dataset.masks.values()
    yield from extras


def link(file: Path, target: Path) -> bool:
    """Link ``target`` to a file, or copy it where that is impossible; tell whether it was copied."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(file.resolve())
        return False
    except (OSError, NotImplementedError):
        shutil.copyfile(file, target)
        return True
