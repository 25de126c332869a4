"""What is told about images: those that cannot be read, sizes, and pictures that are there twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from semiseg.data.dataset import SegmentationDataset
from semiseg.errors import printable
from semiseg.tools.checking.finding import Finding, Severity, counted, faults, image_names, listed
from semiseg.tools.checking.list_findings import Lists, Role
from semiseg.tools.checking.near_duplicates import twins
from semiseg.tools.checking.scan import Seen

COMMON = 0.9  # share of images of one size from which another size is odd
MOST_WITHIN = 30_000  # images that are compared with one another: some ten seconds
SMALL = 32  # pixels of the shorter side: what encoders make one field of
TRAINING: tuple[Role, ...] = ("labeled", "unlabeled")


@dataclass(frozen=True)
class Pair:
    """Two images that look alike, ``one`` of the list ``role`` and ``other`` of ``other_role``, by their ids."""

    one: str
    other: str
    role: str
    other_role: str
    likeness: float


def image_faults(dataset: SegmentationDataset, seen: Sequence[Seen], lists: Lists) -> list[Finding]:
    """Name every image that cannot be read; it is a problem where training or a measurement would read it."""
    used = {*lists.ids("labeled", "unlabeled", "val"), *filter(dataset.has_mask, lists.ids("test"))}
    return faults({one.id: one.image_fault for one in seen if one.image_fault}, used, "image", dataset.root)


def size_findings(dataset: SegmentationDataset, seen: Sequence[Seen]) -> list[Finding]:
    """Tell images that are very small, of one color, or of another size than nearly all the rest."""
    findings = []
    sized = {one.id: one.size for one in seen if one.size}
    if small := [id for id, size in sized.items() if min(size) < SMALL]:
        files = image_names(dataset, small)
        text = f"{counted(len(files), 'image')} with a side under {SMALL} pixels: {listed(files)}"
        findings.append(Finding("warning", "small", text, "give larger images, or leave these out", files))
    if flat := [one.id for one in seen if one.look and one.look.flat]:
        files = image_names(dataset, flat)
        text = f"{counted(len(files), 'image')} of (nearly) one color throughout: {listed(files)}"
        findings.append(Finding("warning", "flat", text, "look at them; leave out what shows nothing", files))
    common, count = max(Counter(sized.values()).items(), key=lambda item: item[1], default=((0, 0), 0))
    if len(sized) > count >= COMMON * len(sized):
        files = image_names(dataset, [id for id, size in sized.items() if size != common])
        width, height = common
        text = f"{counted(len(files), 'image')} not of the common size {width}x{height}: {listed(files)}"
        findings.append(Finding("note", "odd-size", text, files=files))
    return findings


def copies(dataset: SegmentationDataset, seen: Sequence[Seen], lists: Lists) -> list[Finding]:
    """Tell images whose pixels are the same, across lists and within; flat ones are told elsewhere."""
    groups: dict[bytes, list[Seen]] = defaultdict(list)
    for one in seen:
        if one.look and not one.look.flat and lists.roles[one.id] != "unlisted":
            groups[one.digest].append(one)
    across: list[str] = []
    within: list[str] = []
    contradicting: list[str] = []
    for group in groups.values():
        if len(group) < 2:
            continue
        ids = [one.id for one in group]
        (across if len({_side(lists, id) for id in ids}) > 1 else within).extend(ids)
        if len({one.mask_digest for one in group if one.mask_digest}) > 1:
            contradicting += ids
    findings = []
    if across:
        files = image_names(dataset, across)
        text = f"the same pictures in training and measurement: {_with_lists(files, across, lists)}"
        remedy = "keep each picture in one list: what a network has seen does not measure it"
        findings.append(Finding("warning", "leak", text, remedy, files))
    if contradicting:
        files = image_names(dataset, contradicting)
        text = f"the same picture with different masks: {listed(files)}"
        findings.append(Finding("warning", "contradiction", text, "keep the better mask of each", files))
    if within:
        files = image_names(dataset, within)
        grave = not lists.has_val  # which images are held out is drawn: copies may come to lie on both sides
        text = f"{len(files)} images of which a list holds copies: {listed(files)}"
        remedy = "keep one of each: some will be held out for validation, their copies learned from" if grave else ""
        findings.append(Finding("warning" if grave else "note", "copies", text, remedy, files))
    return findings


def _side(lists: Lists, id: str) -> str:
    role = lists.roles[id]
    return "training" if role in TRAINING else role


def _with_lists(files: Sequence[str], ids: Sequence[str], lists: Lists) -> str:
    return listed([f"{file} ({lists.roles[id]})" for file, id in zip(files, ids, strict=True)])


def look_alikes(dataset: SegmentationDataset, seen: Sequence[Seen], lists: Lists) -> tuple[list[Finding], list[Pair]]:
    """Tell images that look much like one of another list, or of their own; one line for each, and the pairs.

    Copies do not count: their digests tell of them.
    """
    sides: Mapping[str, list[Seen]] = defaultdict(list)
    known: set[tuple[str, bytes]] = set()
    for one in seen:
        side = _side(lists, one.id)
        if one.look and (side, one.digest) not in known:
            known.add((side, one.digest))
            sides[side].append(one)
    across = [
        *_pairs(sides, "val", "training"),
        *_pairs(sides, "test", "training"),
        *_pairs(sides, "test", "val"),
    ]
    findings, within = [], []
    if len(sides["training"]) <= MOST_WITHIN:
        within = _pairs(sides, "training", "training")
    else:
        text = f"more than {MOST_WITHIN} training images: look-alikes among themselves were not looked for"
        findings.append(Finding("note", "not-compared", text))
    if across:
        remedy = "where they are frames of one video or series, put all of it into one list: on near twins of what it "
        remedy += "learned from, a network looks better than it is"
        findings.append(_alike(dataset, across, sides, "near-leak", "warning", remedy))
    held_out_near = any(lists.roles[pair.one] == lists.roles[pair.other] == "labeled" for pair in within)
    if within and (lists.has_val or not held_out_near):  # val is held out of the labeled images
        findings.append(_alike(dataset, within, sides, "near-copies", "note", ""))
    elif within:
        remedy = "write splits/val.txt by hand, so that what is held out has no near twin to learn from"
        findings.append(_alike(dataset, within, sides, "near-copies", "warning", remedy))
    return findings, sorted(across or within, key=lambda pair: -pair.likeness)


def _alike(
    dataset: SegmentationDataset,
    pairs: Sequence[Pair],
    sides: Mapping[str, Sequence[Seen]],
    kind: str,
    severity: Severity,
    remedy: str,
) -> Finding:
    counts = Counter((pair.role, pair.other_role) for pair in pairs)
    told = ", ".join(
        f"{count} of {counted(len(sides[role]), f'{role} image')} much like "
        + ("another" if role == other else f"a {other} image")
        for (role, other), count in counts.items()
    )
    first = sorted(pairs, key=lambda pair: -pair.likeness)[:1]
    named = " and ".join(image_names(dataset, [id for pair in first for id in (pair.one, pair.other)]))
    files = image_names(dataset, list(dict.fromkeys(pair.one for pair in pairs)))
    return Finding(severity, kind, f"{told}, such as {printable(named)}", remedy, files)


def _pairs(sides: Mapping[str, list[Seen]], name: str, other: str) -> list[Pair]:
    one_side, other_side = sides.get(name, []), sides.get(other, [])
    looks, other_looks = ([one.look for one in side if one.look] for side in (one_side, other_side))
    return [
        Pair(one_side[twin.one].id, other_side[twin.other].id, name, other, twin.likeness)
        for twin in twins(looks, None if name == other else other_looks)
        if one_side[twin.one].digest != other_side[twin.other].digest
    ]
