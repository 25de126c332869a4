"""Read the lists of a data set, and find what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.file_dataset import FileDataset
from semiseg.data.folder_dataset import FolderDataset
from semiseg.data.splits.hold_out import FEW_VAL, hold_out
from semiseg.data.splits.id_lookup import IdLookup
from semiseg.data.splits.list_files import read_lines, read_list, spelling_fix
from semiseg.data.unread_files import UNREAD_FIX, unread_labels
from semiseg.errors import UserError
from semiseg.tools.checking.finding import Finding, format_count, format_names, from_errors, image_names, relative

Role = Literal["labeled", "unlabeled", "val", "test", "unlisted"]
ROLES: tuple[Role, ...] = ("labeled", "unlabeled", "val", "test")
NAMES = ("train", "val", "test")


@dataclass(frozen=True)
class Lists:
    """The lists of a data set.

    Attributes:
        roles: The role of each image. Training images with a mask are labeled; images in no list are ``unlisted``.
        has_val: Whether there is a val list.
        incomplete: Whether a list names missing images.
        findings: What is wrong with the lists.
    """

    roles: Mapping[str, Role]
    has_val: bool
    incomplete: bool
    findings: tuple[Finding, ...]

    def ids(self, *roles: Role) -> list[str]:
        """Return the images with one of the roles, in the order of the data set."""
        return [id for id, role in self.roles.items() if role in roles]


def read_lists(dataset: SegmentationDataset) -> Lists:
    """Read the train, val and test list and the lists of labeled images below ``splits/``, skipping invalid lines."""
    findings: list[Finding] = []
    named: dict[str, tuple[str, ...] | None] = {}
    incomplete = False
    for name in NAMES:
        missing: list[str] = []
        named[name] = _read(dataset, name, missing, findings)
        if missing:
            incomplete = True
            text = f"{len(missing)} of {len(missing) + len(named[name] or ())} images of the {name} list are missing"
            remedy = spelling_fix(missing, dataset.ids)
            remedy = remedy or "add the images, remove the lines, or skip them with --existing-only"
            text = f"{text}: {format_names(missing)}"
            findings.append(Finding("problem", "missing-images", text, remedy, tuple(missing)))
        elif named[name] == ():
            findings.append(Finding("problem", "empty-list", f"the {name} list is empty", f"fill the {name} list"))
    if isinstance(dataset, FolderDataset):
        named["unlabeled"] = _read(dataset, "unlabeled", [], findings)
    lists = Lists(_roles(dataset, named), named["val"] is not None, incomplete, ())
    findings += [*_overlaps(dataset, named), *_role_findings(dataset, lists, named), *_labeled_lists(dataset, lists)]
    return replace(lists, findings=tuple(findings))


def _read(
    dataset: SegmentationDataset, name: str, missing: list[str], findings: list[Finding]
) -> tuple[str, ...] | None:
    try:
        return dataset.split(name, missing)
    except UserError as error:
        findings += from_errors([error], "list", dataset.root)
    missing.clear()  # already reported; read what is valid
    path = dataset.list_path(name) if isinstance(dataset, FileDataset) else None
    try:
        lines = read_lines(path) if path else ()
    except UserError:
        return None
    lookup, ids = IdLookup(dataset.ids, dataset.image_ending), dict[str, None]()
    for line in lines:
        with suppress(UserError):  # several images could be meant
            ids |= {id: None for id in [lookup.find(line.split("\t")[0])] if id is not None}
    return tuple(ids) or None


def _roles(dataset: SegmentationDataset, named: Mapping[str, tuple[str, ...] | None]) -> dict[str, Role]:
    val, test, listed = (set(named.get(name) or ()) for name in ("val", "test", "unlabeled"))
    unlisted_used = isinstance(dataset, FolderDataset) and named.get("unlabeled") is None
    train = set(named["train"] or ())
    if not train:
        train = {id for id in dataset.ids if id not in listed and (not listed or dataset.has_mask(id))}

    def role(id: str) -> Role:
        if id in val or id in test:
            return "val" if id in val else "test"
        if id in train:
            return "labeled" if dataset.has_mask(id) else "unlabeled"
        return "unlabeled" if id in listed or (unlisted_used and not dataset.has_mask(id)) else "unlisted"

    return {id: role(id) for id in dataset.ids}


def _overlaps(dataset: SegmentationDataset, named: Mapping[str, tuple[str, ...] | None]) -> list[Finding]:
    findings = []
    for one, other in combinations(NAMES, 2):
        if both := sorted({*(named[one] or ())} & {*(named[other] or ())}):
            files = image_names(dataset, both)
            text = f"{format_count(len(both), 'image')} in both the {one} and the {other} list: {format_names(files)}"
            findings.append(Finding("problem", "overlap", text, "keep each image in one of the two lists", files))
    return findings


def _role_findings(
    dataset: SegmentationDataset, lists: Lists, named: Mapping[str, tuple[str, ...] | None]
) -> list[Finding]:
    """Return findings for lists without masks, unlisted images and missing lists."""
    findings = []
    if unmasked := [id for id in lists.ids("val") if not dataset.has_mask(id)]:
        files = image_names(dataset, unmasked)
        text = f"{format_count(len(files), 'image')} of the val list without mask: {format_names(files)}"
        findings.append(Finding("problem", "val-without-mask", text, "add the masks or remove the lines", files))
    if unmasked := [id for id in lists.ids("test") if not dataset.has_mask(id)]:
        files = image_names(dataset, unmasked)
        text = f"{format_count(len(files), 'test image')} without mask, skipped in evaluation"
        findings.append(Finding("note", "test-without-mask", text, files=files))
    if not lists.ids("labeled") and not getattr(dataset, "only_lossy", False):  # an error of LenientFolder
        text = f"none of {format_count(len(lists.ids('unlabeled')), 'training image')} has a mask"
        remedy = "annotate a few images"
        if isinstance(dataset, FolderDataset) and (unread := unread_labels(dataset)):
            text = f"{text}, because {format_count(len(unread), 'file')} in masks/ cannot be read"
            remedy = UNREAD_FIX
        elif isinstance(dataset, FolderDataset):
            remedy = dataset.other_annotation() or remedy
        findings.append(Finding("problem", "no-masks", text, remedy))
    if ids := lists.ids("unlisted"):
        files = image_names(dataset, ids)
        masked = sum(map(dataset.has_mask, ids))
        masks = f" ({format_count(masked, 'mask')})" if masked else ""
        text = f"{format_count(len(files), 'image')} in no list, not used{masks}: {format_names(files)}"
        findings.append(Finding("note", "unlisted", text, files=files))
    if not named["val"]:
        annotated = lists.ids("labeled")
        count = len(hold_out(annotated)) if annotated else 0
        text = f"no val list: training holds out {count} of {format_count(len(annotated), 'image')} with a mask"
        if count < FEW_VAL:
            text += f". With under {FEW_VAL}, differences of a few points of mIoU are chance: annotate more"
        findings.append(Finding("note", "no-val-list", text))
    if not lists.ids("unlabeled"):
        text = "no unlabeled images: semi-supervised methods need some, or fewer labels (--labeled)"
        findings.append(Finding("note", "no-unlabeled", text))
    return findings


def _labeled_lists(dataset: SegmentationDataset, lists: Lists) -> list[Finding]:
    """Return findings for the lists below ``splits/`` that ``--labeled 1/16`` and similar values select."""
    if dataset.root is None:
        return []
    missing: dict[str, list[str]] = {}
    unmasked: dict[str, list[str]] = {}
    held_out: dict[str, list[str]] = {}
    duplicated: dict[str, list[str]] = {}
    ids_by_list: dict[Path, set[str]] = {}
    errors = []
    for path in sorted((dataset.root / "splits").rglob("*labeled.txt")):
        absent: list[str] = []
        try:
            ids = read_list(path, dataset, absent)
        except UserError as error:
            errors.append(error)
            continue
        name = relative(path, dataset.root)
        missing[name] = absent
        unmasked[name] = [id for id in ids if path.name == "labeled.txt" and not dataset.has_mask(id)]
        held_out[name] = [id for id in ids if lists.roles[id] in ("val", "test")]
        ids_by_list[path] = set(ids)
    for path, ids_of_path in ids_by_list.items():
        if path.name == "labeled.txt":
            both = ids_of_path & ids_by_list.get(path.with_name("unlabeled.txt"), set())
            duplicated[relative(path, dataset.root)] = sorted(both)
    remove = "remove them from one of the lists"
    return [
        *from_errors(errors, "labeled-list", dataset.root, "warning"),
        *_in_lists("missing-images", "missing images", missing, "add them or use --existing-only"),
        *_in_lists(
            "labeled-without-mask", "labeled images without mask", unmasked, "add the masks or use another list"
        ),
        *_in_lists("overlap", "images that are also in the val or test list", held_out, remove),
        *_in_lists("overlap", "images that are also in the unlabeled list", duplicated, remove),
    ]


def _in_lists(kind: str, subject: str, found: Mapping[str, list[str]], remedy: str) -> list[Finding]:
    paths = [path for path, ids in found.items() if ids]
    ids = sorted({id for ids in found.values() for id in ids})
    if not ids:
        return []
    text = f"{format_names(paths)}: {len(ids)} {subject}: {format_names(ids)}"
    return [Finding("warning", kind, text, remedy, tuple(paths))]


def published_shares(dataset: SegmentationDataset) -> list[str]:
    """Return the values of ``--labeled`` that have lists below ``splits/``: shares first, smallest first."""
    if dataset.root is None:
        return []
    splits = dataset.root / "splits"
    names = {path.relative_to(splits).parts[0] for path in splits.rglob("labeled.txt")}
    found = [name.replace("_", "/") for name in names if re.fullmatch(r"1_[1-9]\d*|[1-9]\d*", name)]
    return sorted(found, key=lambda share: (0, -int(share[2:])) if "/" in share else (1, int(share)))
