"""Which image serves for what, and what is wrong with the lists that say so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.file_dataset import FileDataset
from semiseg.data.splits.list_files import find_id, read_lines, read_list
from semiseg.errors import UserError
from semiseg.tools.checking.finding import Finding, counted, from_messages, image_names, listed, relative

Role = Literal["labeled", "unlabeled", "val", "test", "unlisted"]
ROLES: tuple[Role, ...] = ("labeled", "unlabeled", "val", "test")
NAMES = ("train", "val", "test")


@dataclass(frozen=True)
class Lists:
    """What the lists that come with the data say.

    Attributes:
        roles: what each image serves for, if every training image with a mask is labeled; ``unlisted``: nothing.
        has_val: whether there is a val list.
        incomplete: whether a list names images that are not there.
        findings: what is wrong with them.
    """

    roles: Mapping[str, Role]
    has_val: bool
    incomplete: bool
    findings: tuple[Finding, ...]

    def ids(self, *roles: Role) -> list[str]:
        """Return the images of some roles, in the data's order."""
        return [id for id, role in self.roles.items() if role in roles]


def read_lists(dataset: SegmentationDataset) -> Lists:
    """Read train, val and test list, and those of labeled images beside them; a line that is wrong is passed over."""
    findings: list[Finding] = []
    named: dict[str, tuple[str, ...] | None] = {}
    incomplete = False
    for name in NAMES:
        missing: list[str] = []
        named[name] = _read(dataset, name, missing, findings)
        if missing:
            incomplete = True
            text = f"{len(missing)} of {len(missing) + len(named[name] or ())} images of the {name} list are not there"
            remedy = "add the images, take the lines out, or leave them out by --existing-only"
            findings.append(Finding("problem", "missing-images", f"{text}: {listed(missing)}", remedy, tuple(missing)))
        elif named[name] == ():
            findings.append(Finding("problem", "empty-list", f"the {name} list is empty", f"fill the {name} list"))
    roles = _roles(dataset, named)
    lists = Lists(roles, named["val"] is not None, incomplete, ())
    findings += [*_overlaps(dataset, named), *_roles_in_doubt(dataset, lists, named), *_labeled_lists(dataset, lists)]
    return Lists(roles, lists.has_val, incomplete, tuple(findings))


def _read(
    dataset: SegmentationDataset, name: str, missing: list[str], findings: list[Finding]
) -> tuple[str, ...] | None:
    try:
        return dataset.split(name, missing)
    except UserError as error:
        findings += from_messages([str(error)], "list", dataset.root)
    missing.clear()  # the refusal has been told, and what follows is a rough reading
    path = dataset.list_path(name) if isinstance(dataset, FileDataset) else None
    try:
        lines = read_lines(path) if path else ()
    except UserError:
        return None
    known = set(dataset.ids)
    return tuple(dict.fromkeys(id for line in lines if (id := find_id(line.split("\t")[0], known)))) or None


def _roles(dataset: SegmentationDataset, named: Mapping[str, tuple[str, ...] | None]) -> dict[str, Role]:
    val, test = (set(named[name] or ()) for name in ("val", "test"))
    train = set(dataset.ids if not named["train"] else named["train"])

    def role(id: str) -> Role:
        if id in val or id in test:
            return "val" if id in val else "test"
        if id not in train:
            return "unlisted"
        return "labeled" if dataset.has_mask(id) else "unlabeled"

    return {id: role(id) for id in dataset.ids}


def _overlaps(dataset: SegmentationDataset, named: Mapping[str, tuple[str, ...] | None]) -> list[Finding]:
    findings = []
    for one, other in combinations(NAMES, 2):
        if both := sorted({*(named[one] or ())} & {*(named[other] or ())}):
            files = image_names(dataset, both)
            text = f"{counted(len(both), 'image')} in both the {one} and the {other} list: {listed(files)}"
            findings.append(Finding("problem", "overlap", text, "keep each image in one of the two lists", files))
    return findings


def _roles_in_doubt(
    dataset: SegmentationDataset, lists: Lists, named: Mapping[str, tuple[str, ...] | None]
) -> list[Finding]:
    """Say which images cannot serve for what their list asks of them, and what the lists leave open."""
    findings = []
    if unmasked := [id for id in lists.ids("val") if not dataset.has_mask(id)]:
        files = image_names(dataset, unmasked)
        text = f"{counted(len(files), 'image')} of the val list without mask: {listed(files)}"
        findings.append(Finding("problem", "val-without-mask", text, "add the masks or take the lines out", files))
    if unmasked := [id for id in lists.ids("test") if not dataset.has_mask(id)]:
        files = image_names(dataset, unmasked)
        text = f"{counted(len(files), 'test image')} without mask: left out of the test"
        findings.append(Finding("note", "test-without-mask", text, files=files))
    if not lists.ids("labeled"):
        text = f"none of {counted(len(lists.ids('unlabeled')), 'training image')} has a mask"
        findings.append(Finding("problem", "no-masks", text, "annotate a few images"))
    if ids := lists.ids("unlisted"):
        files = image_names(dataset, ids)
        text = f"{counted(len(files), 'image')} in no list, and of no use: {listed(files)}"
        findings.append(Finding("note", "unlisted", text, files=files))
    if not named["val"]:
        text = "no val list: a fifth of the labeled images, drawn by the seed, is held out for validation"
        findings.append(Finding("note", "no-val-list", text))
    if not lists.ids("unlabeled"):
        text = "no unlabeled images: semi-supervised methods need some, or fewer labels by --labeled"
        findings.append(Finding("note", "no-unlabeled", text))
    return findings


def _labeled_lists(dataset: SegmentationDataset, lists: Lists) -> list[Finding]:
    """Look through the lists below ``splits/`` that ``--labeled 1/16`` and the like would take."""
    if dataset.root is None:
        return []
    missing: dict[str, list[str]] = {}
    unmasked: dict[str, list[str]] = {}
    leaking: dict[str, list[str]] = {}
    twice: dict[str, list[str]] = {}
    listed_in: dict[Path, set[str]] = {}
    refusals = []
    for path in sorted((dataset.root / "splits").rglob("*labeled.txt")):
        absent: list[str] = []
        try:
            ids = read_list(path, dataset, absent)
        except UserError as error:
            refusals.append(str(error))
            continue
        place = relative(path, dataset.root)
        missing[place] = absent
        unmasked[place] = [id for id in ids if path.name == "labeled.txt" and not dataset.has_mask(id)]
        leaking[place] = [id for id in ids if lists.roles[id] in ("val", "test")]
        listed_in[path] = set(ids)
    for path, ids_of_path in listed_in.items():
        if path.name == "labeled.txt":
            both = ids_of_path & listed_in.get(path.with_name("unlabeled.txt"), set())
            twice[relative(path, dataset.root)] = sorted(both)
    return [
        *from_messages(refusals, "labeled-list", dataset.root, "warning"),
        *_in_lists("missing-images", "images that are not there", missing, "add them, or --existing-only"),
        *_in_lists("labeled-without-mask", "labeled images without mask", unmasked, "add the masks, or another list"),
        *_in_lists("overlap", "images of the val or test list", leaking, "take them out of one of the lists"),
        *_in_lists("overlap", "images of the unlabeled list beside it", twice, "take them out of one of the lists"),
    ]


def _in_lists(kind: str, what: str, found: Mapping[str, list[str]], remedy: str) -> list[Finding]:
    paths = [path for path, ids in found.items() if ids]
    ids = sorted({id for ids in found.values() for id in ids})
    if not ids:
        return []
    text = f"{listed(paths)}: {what}, {len(ids)} in all: {listed(ids)}"
    return [Finding("warning", kind, text, remedy, tuple(paths))]


def published_shares(dataset: SegmentationDataset) -> list[str]:
    """Return what ``--labeled`` may be by lists below ``splits/``, shares before numbers, those of few images first."""
    if dataset.root is None:
        return []
    splits = dataset.root / "splits"
    names = {path.relative_to(splits).parts[0] for path in splits.rglob("labeled.txt")}
    found = [name.replace("_", "/") for name in names if re.fullmatch(r"1_[1-9]\d*|[1-9]\d*", name)]
    return sorted(found, key=lambda share: (0, -int(share[2:])) if "/" in share else (1, int(share)))
