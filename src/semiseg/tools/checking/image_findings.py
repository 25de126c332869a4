"""Findings about images: unreadable files, unusual sizes, duplicates and near-duplicates."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.file_dataset import FileDataset
from semiseg.data.image_notes import several_pages
from semiseg.data.pixel_range import choose_pixel_format
from semiseg.errors import UserError, printable
from semiseg.tools.checking.finding import (
    Finding,
    Severity,
    format_count,
    format_names,
    from_errors,
    from_file_errors,
    image_names,
)
from semiseg.tools.checking.list_findings import Lists, Role
from semiseg.tools.checking.near_duplicates import find_near_duplicates
from semiseg.tools.checking.scan import SampleScan

COMMON_SHARE = 0.9  # share of images of one size from which other sizes are reported
MAX_COMPARED = 30_000  # training images that are compared with one another, which takes about ten seconds
MIN_SIDE = 32  # pixels; encoders reduce this to one cell
TRAINING: tuple[Role, ...] = ("labeled", "unlabeled")


@dataclass(frozen=True)
class Pair:
    """Two near-duplicates by id, and their lists: ``training``, ``val`` or ``test``."""

    one: str
    other: str
    role: str
    other_role: str
    similarity: float


def unreadable_images(dataset: SegmentationDataset, scans: Sequence[SampleScan], lists: Lists) -> list[Finding]:
    """Report images that cannot be read. They are problems if training or evaluation reads them."""
    used = {*lists.ids("labeled", "unlabeled", "val"), *filter(dataset.has_mask, lists.ids("test"))}
    errors = {sample.id: sample.image_error for sample in scans if sample.image_error}
    return from_file_errors(errors, used, "image", dataset.root)


def size_findings(dataset: SegmentationDataset, scans: Sequence[SampleScan]) -> list[Finding]:
    """Report images that are very small, of one color, or not of the common size."""
    findings = []
    sizes = {sample.id: sample.size for sample in scans if sample.size}
    if small := [id for id, size in sizes.items() if min(size) < MIN_SIDE]:
        files = image_names(dataset, small)
        text = f"{format_count(len(files), 'image')} with a side under {MIN_SIDE} pixels: {format_names(files)}"
        findings.append(Finding("warning", "small", text, "use larger images or remove these", files))
    if flat := [sample.id for sample in scans if sample.fingerprint and sample.fingerprint.flat]:
        files = image_names(dataset, flat)
        text = f"{format_count(len(files), 'image')} of (nearly) one color: {format_names(files)}"
        findings.append(Finding("warning", "flat", text, "inspect these images", files))
    common, count = max(Counter(sizes.values()).items(), key=lambda item: item[1], default=((0, 0), 0))
    if len(sizes) > count >= COMMON_SHARE * len(sizes):
        files = image_names(dataset, [id for id, size in sizes.items() if size != common])
        width, height = common
        text = f"{format_count(len(files), 'image')} not of the common size {width}x{height}: {format_names(files)}"
        findings.append(Finding("note", "odd-size", text, files=files))
    return findings


def format_findings(dataset: SegmentationDataset) -> list[Finding]:
    """Report the range of the pixel values, the bands, mixed depths, and images of several pages.

    The pixel format of the data set is set as for training.
    """
    findings: list[Finding] = []
    if isinstance(dataset, FileDataset):
        try:
            choice = choose_pixel_format(dataset.images, dataset.root, limit=len(dataset.images))
        except UserError as error:
            return from_errors([error], "pixel-range", dataset.root)
        dataset.pixel_format = choice.format
        for note in choice.notes:
            severity: Severity = "warning" if note.startswith("warning: ") else "note"
            findings.append(Finding(severity, "pixel-range", note.removeprefix("warning: ")))
    if paged := several_pages(dataset, dataset.ids):
        files = image_names(dataset, list(paged))
        names = format_names([f"{file} ({count} pages)" for file, count in zip(files, paged.values(), strict=True)])
        text = f"{format_count(len(files), 'image')} of several pages, of which the first is used: {names}"
        findings.append(Finding("warning", "image-pages", text, "save the other pages as images of their own", files))
    return findings


def duplicate_findings(dataset: SegmentationDataset, scans: Sequence[SampleScan], lists: Lists) -> list[Finding]:
    """Report images with identical pixels, across lists and within a list. Flat images are excluded."""
    groups: dict[bytes, list[SampleScan]] = defaultdict(list)
    for sample in scans:
        if sample.fingerprint and not sample.fingerprint.flat and lists.roles[sample.id] != "unlisted":
            groups[sample.digest].append(sample)
    across: list[str] = []
    within: list[str] = []
    contradicting: list[str] = []
    for group in groups.values():
        if len(group) < 2:
            continue
        ids = [sample.id for sample in group]
        (across if len({_side(lists, id) for id in ids}) > 1 else within).extend(ids)
        if len({sample.mask_digest for sample in group if sample.mask_digest}) > 1:
            contradicting += ids
    findings = []
    if across:
        files = image_names(dataset, across)
        text = f"identical images in training and evaluation: {_with_lists(files, across, lists)}"
        remedy = "keep each image in one list, because evaluation on training images is meaningless"
        findings.append(Finding("warning", "leak", text, remedy, files))
    if contradicting:
        files = image_names(dataset, contradicting)
        text = f"identical images with different masks: {format_names(files)}"
        findings.append(Finding("warning", "contradiction", text, "keep the better mask of each", files))
    if within:
        files = image_names(dataset, within)
        random_val = not lists.has_val  # the random validation split may separate duplicates
        text = f"{len(files)} images with a duplicate in the same list: {format_names(files)}"
        remedy = "keep one of each, because some will be held out for validation and their duplicates trained on"
        severity: Severity = "warning" if random_val else "note"
        findings.append(Finding(severity, "copies", text, remedy if random_val else "", files))
    return findings


def _side(lists: Lists, id: str) -> str:
    role = lists.roles[id]
    return "training" if role in TRAINING else role


def _with_lists(files: Sequence[str], ids: Sequence[str], lists: Lists) -> str:
    return format_names([f"{file} ({lists.roles[id]})" for file, id in zip(files, ids, strict=True)])


def near_duplicate_findings(
    dataset: SegmentationDataset, scans: Sequence[SampleScan], lists: Lists
) -> tuple[list[Finding], list[Pair]]:
    """Report near-duplicates across lists and within training.

    Images with identical pixels do not count, because ``duplicate_findings`` reports them.

    Returns:
        The findings, and the pairs of near-duplicates, most similar first.
    """
    sides: Mapping[str, list[SampleScan]] = defaultdict(list)
    known: set[tuple[str, bytes]] = set()
    for sample in scans:
        side = _side(lists, sample.id)
        if sample.fingerprint and (side, sample.digest) not in known:
            known.add((side, sample.digest))
            sides[side].append(sample)
    across = [
        *_pairs(sides, "val", "training"),
        *_pairs(sides, "test", "training"),
        *_pairs(sides, "test", "val"),
    ]
    findings, within = [], []
    if len(sides["training"]) <= MAX_COMPARED:
        within = _pairs(sides, "training", "training")
    else:
        text = f"more than {MAX_COMPARED} training images: not searched for near-duplicates of one another"
        findings.append(Finding("note", "not-compared", text))
    if across:
        remedy = "if they are frames of one video or series, put the series into one list; otherwise the scores are "
        remedy += "too optimistic"
        findings.append(_near_duplicates(dataset, across, sides, "near-leak", "warning", remedy))
    of_labeled = any(lists.roles[pair.one] == lists.roles[pair.other] == "labeled" for pair in within)
    if within and (lists.has_val or not of_labeled):  # validation images are sampled from the labeled ones
        findings.append(_near_duplicates(dataset, within, sides, "near-copies", "note", ""))
    elif within:
        remedy = "write splits/val.txt so that no near-duplicate of a validation image is trained on"
        findings.append(_near_duplicates(dataset, within, sides, "near-copies", "warning", remedy))
    return findings, sorted(across or within, key=lambda pair: -pair.similarity)


def _near_duplicates(
    dataset: SegmentationDataset,
    pairs: Sequence[Pair],
    sides: Mapping[str, Sequence[SampleScan]],
    kind: str,
    severity: Severity,
    remedy: str,
) -> Finding:
    counts = Counter((pair.role, pair.other_role) for pair in pairs)
    text = ", ".join(
        f"{count} of {format_count(len(sides[role]), f'{role} image')} nearly identical to "
        + ("another" if role == other else f"a {other} image")
        for (role, other), count in counts.items()
    )
    most_similar = max(pairs, key=lambda pair: pair.similarity)
    example = " and ".join(image_names(dataset, [most_similar.one, most_similar.other]))
    files = image_names(dataset, list(dict.fromkeys(pair.one for pair in pairs)))
    return Finding(severity, kind, f"{text}, such as {printable(example)}", remedy, files)


def _pairs(sides: Mapping[str, list[SampleScan]], name: str, other: str) -> list[Pair]:
    one_side, other_side = sides.get(name, []), sides.get(other, [])
    own, others = ([sample.fingerprint for sample in side if sample.fingerprint] for side in (one_side, other_side))
    return [
        Pair(one_side[match.first].id, other_side[match.second].id, name, other, match.similarity)
        for match in find_near_duplicates(own, None if name == other else others)
        if one_side[match.first].digest != other_side[match.second].digest
    ]
