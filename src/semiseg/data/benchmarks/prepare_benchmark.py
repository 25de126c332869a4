"""Validate a downloaded benchmark data set and lay it out for training: a tree of links and the lists."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from semiseg.data import Ade20k, Cityscapes, Voc, check_masks
from semiseg.data.file_dataset import FileDataset
from semiseg.data.files.atomic_folder import is_free, new_folder
from semiseg.data.splits.list_files import matching_unlabeled_list, read_list, write_list
from semiseg.errors import UserError, lookup


@dataclass(frozen=True)
class Benchmark:
    """A benchmark data set.

    Attributes:
        open: Opens a copy of it.
        list_lengths: The number of images in the train and val list that publications use.
        list_folders: Names that published collections of lists use for the data set.
        extra_files: Further files that belong to it.
        original_masks: The partition whose masks come from the authors, if others have added coarser masks.
    """

    open: Callable[[str], FileDataset]
    list_lengths: dict[str, int]
    list_folders: tuple[str, ...]
    extra_files: tuple[str, ...] = ()
    original_masks: str = ""


BENCHMARKS: dict[str, Benchmark] = {
    "voc2012": Benchmark(Voc, {"train": 10582, "val": 1449}, ("pascal", "voc2012"), original_masks="1464/labeled"),
    "cityscapes": Benchmark(Cityscapes, {"train": 2975, "val": 500}, ("cityscapes",)),
    "ade20k": Benchmark(Ade20k, {"train": 20210, "val": 2000}, ("ade20k",), ("objectInfo150.txt",)),
}

Lists = dict[str, tuple[str, ...]]


def prepare_benchmark(
    name: str,
    source: str | Path,
    out: str | Path,
    *,
    existing_only: bool = False,
    lists: str | Path | None = None,
) -> list[str]:
    """Validate a copy of a benchmark data set and create ``out`` with links to its files and with its lists.

    Every list is compared with the images and masks that exist. Each mask of the train and val list is read once with
    its image. Links are absolute; files that cannot be linked are copied. ``out`` appears only when it is complete.

    Args:
        name: ``voc2012``, ``cityscapes`` or ``ade20k``.
        source: The copy.
        out: The directory to create.
        existing_only: Skip missing images instead of raising an error.
        lists: A folder of published lists. Defaults to ``splits/`` of the copy.

    Returns:
        Lines that report what was found, what is missing and how to train.

    Raises:
        UserError: The name is unknown, ``out`` exists, or the copy is incomplete.
    """
    benchmark, out = lookup("data set", name, BENCHMARKS), Path(out)
    if not is_free(out):
        raise UserError("already exists", path=out, fix="choose another --out")
    if lists is not None and not Path(lists).is_dir():
        raise UserError(
            f"{lists} is not a folder",
            option="--lists",
            fix="give a folder of lists, such as UniMatch's splits/pascal",
        )
    dataset = benchmark.open(str(source))
    reader = BenchmarkLists(dataset, existing_only)
    reader.report.append(f"{name} in {dataset.root}: {len(dataset)} images, {len(dataset.masks)} masks")
    found = reader.read(benchmark, Path(lists) if lists else dataset.root / "splits")
    masked = [id for id in dict.fromkeys((*found["train"], *found["val"])) if dataset.has_mask(id)]
    pixels = check_masks(dataset, masked)
    report = [*reader.report, f"masks: {len(masked)} of the train and val lists are valid"]
    if absent := [name for name, count in zip(dataset.classes, pixels, strict=True) if not count]:
        report.append(f"masks: {len(absent)} of {len(pixels)} classes have no pixels, e.g. {absent[0]}")
    copied = make_tree(dataset, benchmark, out, found)
    report.append(f"{out}: created from {f'copies ({copied} files could not be linked)' if copied else 'links'}")
    return [*report, *next_step(out, found)]


def next_step(out: Path, lists: Lists) -> list[str]:
    """Return lines with the command that trains on the new directory."""
    pairs = ((lists[name], lists[f"{name[:-7]}unlabeled"], name) for name in lists if name.endswith("/labeled"))
    chosen = next((name for labeled, unlabeled, name in pairs if labeled and unlabeled), None)
    if chosen:
        return [f"next: semiseg train --data {out} --labeled {(out / 'splits' / chosen).as_posix()}.txt"]
    return [
        "no lists of labeled images found: give a published collection with --lists DIR or sample a share",
        f"next: semiseg train --data {out} --labeled 1/16",
    ]


@dataclass
class BenchmarkLists:
    """Reads the lists of a copy and reports which images exist.

    Attributes:
        dataset: The copy.
        existing_only: Skip missing images instead of raising an error.
        report: Lines for the user.
    """

    dataset: FileDataset
    existing_only: bool
    report: list[str] = field(default_factory=list)

    def read(self, benchmark: Benchmark, folder: Path) -> Lists:
        """Return the train list, the val list and every pair of lists in ``folder`` by their name in ``splits/``.

        Raises:
            UserError: A list is missing, contradicts the data, or names missing images.
        """
        folder = next((folder / name for name in benchmark.list_folders if (folder / name).is_dir()), folder)
        found: Lists = {}
        for name, length in benchmark.list_lengths.items():
            found[name] = self.read_split(name, folder, length)
        for name, (labeled, unlabeled) in partitions(folder).items():
            pair = self.read_file(f"{name}/labeled", labeled), self.read_file(f"{name}/unlabeled", unlabeled)
            both, unmasked = set(pair[0]) & set(pair[1]), [id for id in pair[0] if not self.dataset.has_mask(id)]
            if both:
                self.report.append(f"{name}: skipped: {len(both)} images are in both lists, e.g. {min(both)}")
            elif unmasked:
                self.report.append(f"{name}: skipped: {len(unmasked)} labeled images have no mask, e.g. {unmasked[0]}")
            else:
                found |= {f"{name}/labeled": pair[0], f"{name}/unlabeled": pair[1]}
        if not self.existing_only:  # shares of a subset are not informative
            self.report_original_masks(found, benchmark.original_masks)
        return found

    def report_original_masks(self, found: Lists, original_masks: str) -> None:
        """Report the share of masks from the authors in each list, which is worth 2 to 4 mIoU."""
        for name, ids in found.items():
            if name.endswith("/labeled") and original_masks in found and name != original_masks:
                share = 100 * len({*ids} & {*found[original_masks]}) / max(1, len(ids))
                self.report.append(f"{name}: {share:.1f} % of its masks are in {original_masks}")

    def read_split(self, name: str, folder: Path, length: int) -> tuple[str, ...]:
        """Read the train or val list from the folder of lists, else from the data set."""
        candidates = (folder / f"{stem}.txt" for stem in (name, f"{name}_aug"))
        file = next((path for path in candidates if path.is_file()), None)
        missing: list[str] = []
        ids = read_list(file, self.dataset, missing) if file else self.dataset.split(name, missing) or ()
        if not ids and not missing:
            raise UserError(
                f"no {name} images found",
                path=self.dataset.root,
                fix=f"download that part or add splits/{name}.txt",
            )
        self.check_missing(name, file or self.dataset.root, ids, missing)
        if len(ids) + len(missing) != length:
            self.report.append(f"{name}: publications use a list of {length} images: save it as splits/{name}.txt")
        if name == "val" and (unmasked := [id for id in ids if not self.dataset.has_mask(id)]):
            raise UserError(
                f"{len(unmasked)} val images have no mask, e.g. {unmasked[0]}",
                path=self.dataset.root,
                fix="add the masks",
            )
        return ids

    def read_file(self, name: str, file: Path) -> tuple[str, ...]:
        """Read a list from a file."""
        missing: list[str] = []
        ids = read_list(file, self.dataset, missing)
        self.check_missing(name, file, ids, missing)
        return ids

    def check_missing(self, name: str, source: Path, ids: tuple[str, ...], missing: list[str]) -> None:
        """Report the length of a list; raise UserError if images are missing without ``existing_only``."""
        if missing and not self.existing_only:
            raise UserError(
                f"{len(missing)} of {len(ids) + len(missing)} {name} images are missing, e.g. {missing[0]}",
                path=source,
                fix="complete the download or skip them with --existing-only",
            )
        self.report.append(f"{name}: {len(ids)} images" + (f", skipping {len(missing)} missing" if missing else ""))


def partitions(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Map the name of each partition below ``folder`` to its labeled and unlabeled list."""
    found: dict[str, tuple[Path, Path]] = {}
    for labeled in sorted(folder.rglob("*.txt")):
        if unlabeled := matching_unlabeled_list(labeled):
            own = re.sub(r"_?labeled_?|_l$", "_", labeled.stem).strip("_")
            name = labeled.parent.relative_to(folder) / own
            found[name.as_posix() if name.name else folder.name] = labeled, unlabeled
    return found


def make_tree(dataset: FileDataset, benchmark: Benchmark, out: Path, lists: Lists) -> int:
    """Create ``out`` atomically and return the number of files that had to be copied."""
    extras = (dataset.root / file for file in benchmark.extra_files if (dataset.root / file).is_file())
    with new_folder(out) as draft:
        copied = sum(link(file, draft / file.relative_to(dataset.root)) for file in all_files(dataset, extras))
        for name, ids in lists.items():
            path = draft / "splits" / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_list(path, ids)
    return copied


def all_files(dataset: FileDataset, extras: Iterable[Path]) -> Iterable[Path]:
    """Yield every image, mask and extra file."""
    yield from dataset.images.values()
    yield from dataset.masks.values()
    yield from extras


def link(file: Path, target: Path) -> bool:
    """Link ``target`` to a file, or copy the file if links are unsupported. Return whether it was copied."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(file.resolve())
        return False
    except (OSError, NotImplementedError):
        shutil.copyfile(file, target)
        return True
